"""`certwright check`: the configuration, and what else could keep a server from being well. Each finding says what to do."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from certwright.clients import env_file
from certwright.commands import with_database
from certwright.compose import expected_keys
from certwright.config import Config, load
from certwright.doctor_scep import challenge_warnings, scep_warnings, static_challenges
from certwright.exporter import NotAvailable, find_internals
from certwright.failures import DONE, REFUSED
from pki.clock import Clock, to_datetime
from pki.reasons import Unavailable
from signer.api import SoftwareKey
from signer.configuration import ConfigurationError
from signer.secretfile import read_phrase, read_secret
from storage.migrate import status
from storage.schema import UPGRADE_COMMAND, SchemaError
from validation.perspectiveclient import client_context

SOON = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Finding:
    level: str  # ok | warn | fail
    said: str


def check(file: Path, clock: Clock) -> int:
    config = load(file)  # raises ConfigError with every line that is wrong
    findings = [Finding("ok", f"{file} is valid"), *_findings(config, clock)]
    for finding in findings:
        sys.stdout.write(f"[{finding.level}] {finding.said}\n")
    return REFUSED if any(finding.level == "fail" for finding in findings) else DONE


def _findings(config: Config, clock: Clock) -> Iterator[Finding]:
    database = _database(config)
    yield database
    yield from _keys(config)
    yield from _server_certificate(config)
    yield from _expiry(config, clock)
    yield from _profiles(config, clock)
    yield from _roles(config)
    yield from _est(config, clock)
    yield from (Finding("warn", said) for said in scep_warnings(config))
    if config.scep and database.level == "ok":
        known = with_database(config, lambda opened: static_challenges(opened, clock.micros()))
        yield from (Finding("warn", said) for said in challenge_warnings(config, known))
    yield from _linking(config)
    yield from _perspectives(config, clock)
    if env_file(config).exists():
        yield Finding("warn", f"{env_file(config)} holds the first secrets: move them to where they are needed, then delete it")


def _database(config: Config) -> Finding:
    if config.database_is_embedded and not (file := Path(config.database.removeprefix("sqlite://"))).exists():
        return Finding(
            "fail", f"there is no database {file}: look at `database`; only if it is to be a new one do: {UPGRADE_COMMAND}"
        )
    try:
        found = asyncio.run(status(config.database))
    except (Unavailable, OSError) as error:
        return Finding("fail", f"the database is away: {error}")
    except SchemaError as error:
        return Finding("fail", str(error))
    if found.pending:
        return Finding("fail", f"the database lacks {', '.join(found.pending)}; do: {UPGRADE_COMMAND}")
    return Finding("ok", "the database has this program's schema")


def _keys(config: Config) -> Iterator[Finding]:
    """Whether each key opens and is its certificate's; keys in tokens are tried when the server starts."""
    expected = expected_keys(config)
    if config.signer_socket is not None:
        return
    for key in config.keys:
        if not isinstance(key.source, SoftwareKey):
            continue
        try:
            phrase = None if key.source.passphrase_file is None else read_phrase(key.source.passphrase_file)
            private = load_pem_private_key(read_secret(key.source.file), phrase)
        except ConfigurationError as error:
            yield Finding("fail", str(error))
            continue
        except (ValueError, TypeError):
            yield Finding("fail", f"{key.source.file} does not open with the passphrase in {key.source.passphrase_file}")
            continue
        public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if public == expected[key.name]:
            yield Finding("ok", f"the key of {key.name} is its certificate's")
        else:
            yield Finding("fail", f"{key.source.file} is not the key of the certificate of {key.name}")


def _server_certificate(config: Config) -> Iterator[Finding]:
    """What every client meets first: the key, the name in `base_url`, and a port that leads here."""
    certificate = x509.load_pem_x509_certificate(config.tls_certificate.read_bytes())
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls_certificate, config.tls_key, password="")
    except OSError:  # SSLError too
        yield Finding(
            "fail", f"{config.tls_key} is not the key of {config.tls_certificate}, or is encrypted: no listener can start"
        )
    url = urlsplit(config.base_url)
    host, port = url.hostname or "", url.port or 443
    if not _is_for(certificate, host):
        yield Finding("fail", f"{config.tls_certificate} is not for {host}, which `base_url` says: clients will refuse it")
    if config.listen.https is not None and config.listen.https[1] != port:
        yield Finding(
            "warn",
            f"`base_url` says port {port}, and listen.https is port {config.listen.https[1]}: right only if something forwards",
        )


def _is_for(certificate: x509.Certificate, host: str) -> bool:
    """RFC 9525 §6.3, 6.5: the names of the SAN, a star for one whole label at the left."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False
    wanted = {host.lower(), "*." + host.lower().partition(".")[2]}
    known = {name.lower() for name in names.get_values_for_type(x509.DNSName)}
    known |= {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    return bool(wanted & known)


def _roles(config: Config) -> Iterator[Finding]:
    """A role that no policy names is allowed nothing."""
    granted = {role for policy in config.policies for role in policy.roles}
    for name, endpoint in config.acme.items():
        if not endpoint.roles & granted:
            roles = ", ".join(sorted(endpoint.roles))
            yield Finding(
                "warn", f"ACME endpoint {name}: no policy has a role of it ({roles}), so it refuses every order; see `policies`"
            )


def _est(config: Config, clock: Clock) -> Iterator[Finding]:
    """What a label trusts and would refuse all the same: nobody at the other end could tell why."""
    granted = {role for policy in config.policies for role in policy.roles}
    for name, label in config.est.items():
        for key, roles in (("client_certificates", label.roles), ("agents", label.agent_roles)):
            if roles and not roles & granted:
                shown = ", ".join(sorted(roles))
                yield Finding("warn", f"EST endpoint {name}: no policy has a role of its {key} ({shown}); see `policies`")
        for der in dict.fromkeys((*label.anchors, *label.agent_anchors)):
            anchor = x509.load_der_x509_certificate(der)
            yield from _ending(f"EST endpoint {name}: its anchor {anchor.subject.rfc4514_string()!r}", anchor, clock)
    if config.est and config.listen.mtls is None:
        yield Finding("warn", "EST is served on listen.mtls only, which is off: no client reaches it")


def _ending(what: str, certificate: x509.Certificate, clock: Clock) -> Iterator[Finding]:
    """Silent while it is well: there may be many."""
    now, end = to_datetime(clock.micros()), certificate.not_valid_after_utc
    if end <= now:
        yield Finding("warn", f"{what} has expired on {end:%Y-%m-%d}: nothing below it is taken any more")
    elif end - now < SOON:
        yield Finding("warn", f"{what} is good until {end:%Y-%m-%d} only")


def _linking(config: Config, find: Callable[[], object] = find_internals) -> Iterator[Finding]:
    """A proof that is linked to TLS 1.3 takes what not every Python lets us at."""
    labels = [name for name, label in config.est.items() if label.proof_linking != "off"]
    if not labels:
        return
    try:
        find()
    except NotAvailable as why:
        yield Finding(
            "warn",
            f"EST {', '.join(labels)}: proofs of possession can be linked to TLS 1.2 only, with this Python ({why}); "
            "clients that speak TLS 1.3 have to be told to use 1.2",
        )
    else:
        yield Finding("ok", f"EST {', '.join(labels)}: proofs of possession can be linked to TLS 1.2 and TLS 1.3")


def _expiry(config: Config, clock: Clock) -> Iterator[Finding]:
    now = to_datetime(clock.micros())
    certificates = {f"issuer {name}": x509.load_der_x509_certificate(one.certificate) for name, one in config.issuers.items()}
    certificates |= {
        f"registration authority {name}": x509.load_der_x509_certificate(one.certificate)
        for name, one in config.registration_authorities.items()
    }
    certificates["the server (renew it: certwright ca renew-server)"] = x509.load_pem_x509_certificate(
        config.tls_certificate.read_bytes()
    )
    for name, certificate in certificates.items():
        end = certificate.not_valid_after_utc
        level = "fail" if end <= now else "warn" if end - now < SOON else "ok"
        yield Finding(level, f"the certificate of {name} is good until {end:%Y-%m-%d}")


def _perspectives(config: Config, clock: Clock) -> Iterator[Finding]:
    """Whether ours is a certificate with its key; whether an agent is there, only an attempt can tell."""
    for one in config.validation.perspectives:
        try:
            client_context(ca_file=str(one.ca_file), certificate=str(one.certificate), key=str(one.key))
        except (ssl.SSLError, OSError):
            yield Finding("fail", f"perspective {one.name}: {one.key} is not the key of {one.certificate}, or is encrypted")
            continue
        end = x509.load_pem_x509_certificate(one.certificate.read_bytes()).not_valid_after_utc
        now = to_datetime(clock.micros())
        level = "fail" if end <= now else "warn" if end - now < SOON else "ok"
        yield Finding(level, f"our certificate for perspective {one.name} is good until {end:%Y-%m-%d}")


def _profiles(config: Config, clock: Clock) -> Iterator[Finding]:
    now = to_datetime(clock.micros())
    for profile in config.profiles:
        end = x509.load_der_x509_certificate(config.issuers[profile.issuer].certificate).not_valid_after_utc
        if now + profile.validity > end:
            yield Finding(
                "warn", f"profile {profile.name}: {profile.validity.days}d is longer than issuer {profile.issuer} lives"
            )
        if profile.caa and not config.validation.caa_identities:
            yield Finding(
                "warn", f"profile {profile.name}: without validation.caa_identities its `caa: true` refuses every request"
            )
    yield from _approvals(config)


def _approvals(config: Config) -> Iterator[Finding]:
    for policy in config.policies:
        if not policy.require_approval:
            continue
        yield Finding("ok", f"policy {policy.name}: what it grants waits for: certwright requests approve")
        for name, endpoint in config.acme.items():
            if endpoint.roles & policy.roles and policy.allowed_profiles & set(endpoint.profiles):
                yield Finding(
                    "warn",
                    f"ACME endpoint {name}: an order cannot wait for the approval that policy {policy.name} asks for, "
                    "so one that no other policy grants is refused",
                )
