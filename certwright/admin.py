"""What the commands do to credentials and certificates, on the server itself: through the same door as everybody else."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from certwright import authority, init, output
from certwright.cli_options import Output
from certwright.commands import find_config, say, with_database
from certwright.config import Config, load
from certwright.config_values import parse_duration
from certwright.errors import Refused
from certwright.failures import DONE
from issuance.credentials import CredentialKind, Credentials, CredentialState
from issuance.hashing import generate_secret
from issuance.service import CertificateRecord, Issuance
from pki.clock import Micros, SystemClock, after, rfc3339, to_datetime
from pki.identifiers import DnsName, Identifier, IpAddress, shown
from pki.reasons import Reason, Rejection, RevocationReason
from policy.principal import Principal, PrincipalKind
from signer.api import SoftwareKey
from signer.secretfile import read_phrase
from signer.software import load_key

T = TypeVar("T")


def with_credentials(config: Config, use: Callable[[Credentials], Awaitable[T]]) -> T:
    return with_database(config, lambda database: use(Credentials(database=database, clock=SystemClock())))


# ---------------------------------------------------------------------- credentials


def apikey_create(config: Path | None, roles: list[str], profile: str, expires: str | None) -> int:
    found = load(find_config(config))
    check_profile(found, profile)
    until = None if expires is None else after(SystemClock().micros(), lifetime(expires))
    key = with_credentials(found, lambda those: those.create_api_key(roles=roles, profile=profile, expires_at=until))
    say(key)
    note_roles(found, roles)
    return DONE


def lifetime(expires: str) -> timedelta:
    try:
        life = parse_duration(expires)
    except ValueError as error:
        raise Refused(f"--expires: {error}") from error
    if not life:
        raise Refused(f"--expires: a key with {expires} would never open anything; write 90d, or leave it out for `never`")
    return life


def apikey_list(config: Path | None, form: Output) -> int:
    found = with_credentials(load(find_config(config)), lambda those: those.list(CredentialKind.API_KEY))
    now = SystemClock().micros()
    output.show([credential_row(state, now) for state in found], form.value)
    return DONE


def apikey_disable(config: Path | None, key_id: str) -> int:
    with_credentials(load(find_config(config)), lambda those: those.disable(CredentialKind.API_KEY, key_id))
    say(f"API key {key_id} opens nothing any more")
    return DONE


def secret_of(file: Path | None) -> str:
    """From a file, never from the command line, where others on the machine see it."""
    if file is None:
        return generate_secret()
    try:
        return file.read_text(encoding="utf-8").removesuffix("\n")
    except OSError as error:
        raise Refused(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Refused(f"{file} is not UTF-8 text, so it cannot be a password") from error


def check_profile(config: Config, profile: str) -> None:
    if profile:
        config.profiles.get(profile)


def check_endpoint(protocol: str, name: str, known: Mapping[str, object]) -> None:
    if name not in known:
        raise Refused(f"there is no {protocol} endpoint {name!r}; there is: {', '.join(sorted(known)) or 'none'}")


def note_roles(config: Config, roles: list[str]) -> None:
    """A role that no policy names is allowed nothing, which surprises later."""
    granted = {role for policy in config.policies for role in policy.roles}
    for role in sorted(set(roles) - granted):
        sys.stderr.write(f"certwright: note: no policy names the role {role!r}, so it may not have any certificate\n")


def credential_row(state: CredentialState, now: Micros) -> dict[str, object]:
    ended = state.disabled_at is not None or (state.expires_at is not None and state.expires_at <= now)
    return {
        "id": state.credential.id,
        "roles": sorted(state.credential.roles),
        "profile": state.credential.profile,
        "created": rfc3339(state.created_at),
        "expires": rfc3339(state.expires_at) if state.expires_at else None,
        "opens": not ended,
    }


# ---------------------------------------------------------------------- certificates


def cert_list(config: Path | None, limit: int, form: Output) -> int:
    records = _with_issuance(load(find_config(config)), lambda issuance: issuance.certificates(limit=limit))
    output.show([_certificate_row(record) for record in records], form.value)
    return DONE


def cert_show(config: Path | None, serial: str, form: Output) -> int:
    async def find(issuance: Issuance) -> dict[str, object]:
        record = await _find(issuance, serial)
        return {**_certificate_row(record), "pem": issuance.chain_pem(record.certificate)}

    output.show(_with_issuance(load(find_config(config)), find), form.value)
    return DONE


def cert_revoke(config: Path | None, serial: str, reason: str) -> int:
    async def revoke(issuance: Issuance) -> CertificateRecord:
        record = await _find(issuance, serial)
        await issuance.revoke(
            issuer=record.certificate.issuer,
            serial=record.certificate.serial,
            reason=RevocationReason[reason],
            principal=Principal(PrincipalKind.OPERATOR, "command-line", frozenset({"operator"})),
        )
        return record

    record = _with_issuance(load(find_config(config)), revoke)
    say(f"revoked {record.certificate.serial}; the next CRL of {record.certificate.issuer} comes within seconds")
    return DONE


async def _find(issuance: Issuance, serial: str) -> CertificateRecord:
    canonical = serial.replace(":", "").strip().lower().removeprefix("0x").lstrip("0")
    record = await issuance.certificate(canonical)
    if record is None:
        raise Rejection(
            Reason.NOT_FOUND,
            f"there is no certificate with the serial {shown(serial)}",
            suggestions=["see: certwright cert list"],
        )
    return record


class _NobodyCounts:
    def outcome(self, *, profile: str, channel: str, result: str) -> None:
        """The command line is not scraped."""


def _with_issuance(config: Config, use: Callable[[Issuance], Awaitable[T]]) -> T:
    from certwright.compose import issuers_of, make_issuance
    from policy.lints import LintGate
    from signer.client import SignerClient

    return with_database(
        config,
        lambda database: use(
            make_issuance(
                config,
                issuers=issuers_of(config),
                database=database,
                signer=SignerClient(Path("/dev/null")),  # nothing here signs
                clock=SystemClock(),
                settlers={},
                observer=_NobodyCounts(),
                gate=LintGate(),
                caa=None,  # nor issues
            )
        ),
    )


def _certificate_row(record: CertificateRecord) -> dict[str, object]:
    certificate = record.certificate
    return {
        "serial": certificate.serial,
        "issuer": certificate.issuer,
        "profile": certificate.profile,
        "names": list(record.names),
        "principal": record.principal,
        "not_after": rfc3339(certificate.not_after),
        "status": "valid" if record.revoked_at is None else f"revoked {rfc3339(record.revoked_at)}",
    }


# ---------------------------------------------------------------------- what the configuration says


def profile_list(config: Path | None, form: Output) -> int:
    rows = [
        {
            "profile": profile.name,
            "issuer": profile.issuer,
            "validity": _days(profile.validity.total_seconds()),
            "key_usage": sorted(bit.value for bit in profile.key_usage),
            "extended_key_usage": list(profile.extended_key_usage),
            "common_name": profile.common_name.value,
            "version": profile.version,
        }
        for profile in load(find_config(config)).profiles
    ]
    output.show(rows, form.value)
    return DONE


def _days(seconds: float) -> str:
    return f"{seconds / 86400:g}d" if seconds >= 86400 else f"{seconds / 3600:g}h"


def ca_list(config: Path | None, form: Output) -> int:
    rows = []
    for name, issuer in load(find_config(config)).issuers.items():
        certificate = x509.load_der_x509_certificate(issuer.certificate)
        rows.append(
            {
                "issuer": name,
                "subject": certificate.subject.rfc4514_string(),
                "not_after": certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
            }
        )
    output.show(rows, form.value)
    return DONE


def ca_renew_server(config: Path | None) -> int:
    found = load(find_config(config))
    old = x509.load_pem_x509_certificate(found.tls_certificate.read_bytes())
    if found.tls_certificate.name != "server.pem" or found.tls_key != found.tls_certificate.with_name("server.key"):
        raise Refused("this certificate was not made by certwright init; renew it where it comes from")
    name = _issuer_of(found, old)
    init.write_server_certificate(
        found.tls_certificate.parent,
        _authority(found, name),
        _names(old),
        issuer_name=name,
        http_url=found.http_url,
        now=to_datetime(SystemClock().micros()),
    )
    new = x509.load_pem_x509_certificate(found.tls_certificate.read_bytes())
    say(f"the server certificate is good until {new.not_valid_after_utc:%Y-%m-%d}; send SIGHUP to the server to use it")
    return DONE


def _issuer_of(config: Config, certificate: x509.Certificate) -> str:
    for name, issuer in config.issuers.items():
        if x509.load_der_x509_certificate(issuer.certificate).subject == certificate.issuer:
            return name
    raise Refused("none of our issuers made the server certificate; renew it where it comes from")


def _authority(config: Config, name: str) -> authority.Authority:
    source = next(key.source for key in config.keys if key.name == name)
    if not isinstance(source, SoftwareKey):
        raise Refused(f"the key of {name} is in a token; make the certificate with the token's own tools")
    key = load_key(source.file, read_phrase(source.passphrase_file) if source.passphrase_file else None)
    return authority.Authority(x509.load_der_x509_certificate(config.issuers[name].certificate), key)


def _names(certificate: x509.Certificate) -> list[Identifier]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found: list[Identifier] = [DnsName(name) for name in names.get_values_for_type(x509.DNSName)]
    return found + [IpAddress(address) for address in names.get_values_for_type(x509.IPAddress)]  # type: ignore[arg-type]  # no networks in a SAN
