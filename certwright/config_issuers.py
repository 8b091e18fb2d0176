"""The issuers and registration authorities of certwright.yaml: their certificates, chains and keys, and what must fit together."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certwright import config_schema, config_schema_issuers, config_schema_scep
from certwright.config_files import ConfigFiles
from certwright.yaml_positions import Document, Place
from pki.cms.signed import certificates_only
from policy.profiles import Profile, canonical_profile_name
from signer.api import Envelope, KeyConfig, KeyUse, Pkcs11Key, SoftwareKey

_UNREADABLE = (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError)


@dataclass(frozen=True, slots=True)
class Issuer:
    """One CA key, its certificate and what leads from it to the root (which comes last)."""

    name: str
    certificate: bytes = field(repr=False)  # DER
    chain: tuple[bytes, ...] = field(repr=False)  # DER, next issuer first
    crl_refresh: timedelta
    crl_lifetime: timedelta
    alternates: tuple[tuple[bytes, ...], ...] = field(default=(), repr=False)  # DER, each as (certificate, *chain)
    rollover: tuple[bytes, ...] = field(default=(), repr=False)  # DER
    next: tuple[bytes, ...] = field(default=(), repr=False)  # DER, the CA that follows, then what is above it


@dataclass(frozen=True, slots=True)
class RegistrationAuthority:
    name: str
    key: str  # KeyConfig.name
    certificate: bytes = field(repr=False)  # DER


def following(issuer: Issuer, authorities: Mapping[str, RegistrationAuthority], name: str | None) -> tuple[bytes, ...]:
    """What an endpoint of this issuer says of the CA that follows: its certificate, what is above it, and the registration authority
    that is named. Nothing where none follows.
    """
    authority = authorities.get(name) if issuer.next and name is not None else None
    return issuer.next if authority is None else (*issuer.next, authority.certificate)


class IssuerReader:
    """Notes in `document` what is wrong; its answers count only when nothing is."""

    def __init__(self, document: Document, root: config_schema.Root, files: ConfigFiles) -> None:
        self._document = document
        self._root = root
        self._files = files

    def issuer(self, name: str, given: config_schema_issuers.Issuer) -> Issuer:
        place = ("issuers", name)
        own = self._files.certificates((*place, "certificate"), given.certificate)
        chain = [
            certificate
            for index, file in enumerate(given.chain)
            for certificate in self._files.certificates((*place, "chain", index), file)
        ]
        if own:
            self._check_ca((*place, "certificate"), own[0])
        self._check_chain((*place, "chain"), [*own[:1], *chain])
        if given.crl.refresh <= timedelta(0) or given.crl.refresh >= given.crl.lifetime:
            self._document.note(
                (*place, "crl"), "refresh must be shorter than lifetime, or the CRL expires before the next one"
            )
        if given.crl.lifetime > timedelta(days=10):
            self._document.note((*place, "crl", "lifetime"), "at most 10d (BR 7.2)")
        return Issuer(
            name,
            own[0].public_bytes(Encoding.DER) if own else b"",
            tuple(certificate.public_bytes(Encoding.DER) for certificate in chain),
            given.crl.refresh,
            given.crl.lifetime,
            tuple(
                self._alternate((*place, "alternate_chains", index), files, own)
                for index, files in enumerate(given.alternate_chains)
            ),
            self._rollover((*place, "rollover"), given.rollover, [*own[:1], *chain]),
            self._next((*place, "next"), given.next, own),
        )

    def _check_chain(self, place: Place, certificates: list[x509.Certificate]) -> None:
        for below, above in itertools.pairwise(certificates):
            if not issued(above, below):
                said = f"{above.subject.rfc4514_string()!r} did not issue {below.subject.rfc4514_string()!r}; list the next issuer first"
                self._document.note(place, said)

    def _alternate(self, place: Place, files: list[str], own: list[x509.Certificate]) -> tuple[bytes, ...]:
        """Another way up from the same CA: its first certificate has our name, key and key identifier, or no chain would verify."""
        chain = [one for index, file in enumerate(files) for one in self._files.certificates((*place, index), file)]
        if chain and own:
            self._check_ca((*place, 0), chain[0])
            self._document.check()
            if _identity(chain[0]) != _identity(own[0]):
                self._document.note(
                    (*place, 0), "it begins with the same CA (name, key and key identifier), certified by another"
                )
            elif chain[0] == own[0]:
                self._document.note((*place, 0), "this is the issuer's own certificate again; leave the chain out")
        self._check_chain(place, chain)
        return tuple(one.public_bytes(Encoding.DER) for one in chain)

    def _rollover(self, place: Place, files: list[str], chain: list[x509.Certificate]) -> tuple[bytes, ...]:
        """OldWithNew, NewWithOld and both roots (RFC 4210 §4.4), in any order. Each leads to the chain, perhaps by way of another."""
        found = [
            ((*place, index), one)
            for index, file in enumerate(files)
            for one in self._files.certificates((*place, index), file)
        ]
        for at, one in found:
            if not _may_issue(one):
                said = f"{one.subject.rfc4514_string()!r} is no CA (basic constraints CA:TRUE, and keyCertSign)"
                self._document.note(at, said)
        known, left = list(chain), found
        while fitting := [(at, one) for at, one in left if any(issued(one, it) or issued(it, one) for it in known)]:
            known += [one for _, one in fitting]
            left = [each for each in left if each not in fitting]
        for at, one in left if chain else []:
            said = f"{one.subject.rfc4514_string()!r} was not issued by a CA of this chain, and issued none of it"
            self._document.note(at, f"{said}; it would take no client from one root to the other")
        return tuple(one.public_bytes(Encoding.DER) for _, one in found)

    def _next(self, place: Place, files: list[str], own: list[x509.Certificate]) -> tuple[bytes, ...]:
        found = [one for index, file in enumerate(files) for one in self._files.certificates((*place, index), file)]
        if found:
            self._check_ca((*place, 0), found[0])
            if found[:1] == own[:1]:
                self._document.note((*place, 0), "this is the issuer's own certificate; name the one that follows it")
        self._check_chain(place, found)
        return tuple(one.public_bytes(Encoding.DER) for one in found)

    def _check_ca(self, place: Place, certificate: x509.Certificate) -> None:
        try:
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
            usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
            certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        except _UNREADABLE:
            self._document.note(place, "a CA certificate has basic constraints, key usage and a subject key identifier")
            return
        if not (constraints.ca and usage.key_cert_sign and usage.crl_sign):
            self._document.note(place, "this certificate may not issue: it needs CA:TRUE, keyCertSign and cRLSign")

    def keys(
        self, issuers: Mapping[str, Issuer], profiles: list[Profile], authorities: Mapping[str, RegistrationAuthority]
    ) -> tuple[KeyConfig, ...]:
        keys: list[KeyConfig] = []
        for name, given in self._root.issuers.items():
            own = [profile for profile in profiles if profile.issuer == name]
            envelope = Envelope(
                issuer_certificate=issuers[name].certificate,
                # Without a profile it issues nothing any more, and signs its CRLs and OCSP answers.
                max_validity=max((profile.max_validity + profile.backdate for profile in own), default=timedelta(seconds=1)),
                extended_key_usages=frozenset(usage for profile in own for usage in profile.extended_key_usage),
                messages=any(endpoint.use_ca_key for endpoint in self._endpoints(own)),
                announcements=frozenset(
                    certificates_only(following(issuers[name], authorities, endpoint.next_registration_authority))
                    for endpoint in self._endpoints(own)
                    if given.next
                ),
            )
            source = self._source(("issuers", name, "key"), given.key)
            keys.append(KeyConfig(name=name, use=KeyUse.ISSUER, source=source, envelope=envelope))
        for name, authority in self._root.registration_authorities.items():
            source = self._source(("registration_authorities", name, "key"), authority.key)
            keys.append(KeyConfig(name=_ra_key(name), use=KeyUse.RA, source=source, envelope=None))
        return tuple(keys)

    def _endpoints(self, profiles: list[Profile]) -> list[config_schema_scep.ScepEndpoint]:
        """Those of SCEP with one of these profiles."""
        names = {name for profile in profiles for name in (profile.name, *profile.aliases)}
        return [one for one in self._root.endpoints.scep.values() if canonical_profile_name(one.profile) in names]

    def _source(self, place: Place, key: config_schema_issuers.Key) -> SoftwareKey | Pkcs11Key:
        if (key.software is None) == (key.pkcs11 is None):
            self._document.note(place, "give one of software and pkcs11")
        if key.pkcs11 is not None:
            given = key.pkcs11
            return Pkcs11Key(
                module=self._files.readable((*place, "pkcs11", "module"), given.module),
                token=given.token,
                label=given.label,
                pin_file=self._key_file((*place, "pkcs11", "pin_file"), given.pin_file),
            )
        software = key.software or config_schema_issuers.SoftwareKey(file="-")
        return SoftwareKey(
            file=self._key_file((*place, "software", "file"), software.file),
            passphrase_file=self._key_file((*place, "software", "passphrase_file"), software.passphrase_file)
            if software.passphrase_file
            else None,
        )

    def _key_file(self, place: Place, text: str) -> Path:
        """With a signer of its own, the keys are its business and perhaps not for our eyes."""
        return self._files.path(text) if self._root.signer.socket else self._files.secret(place, text)

    def authority(self, name: str, given: config_schema_issuers.RegistrationAuthority) -> RegistrationAuthority:
        own = self._files.certificates(("registration_authorities", name, "certificate"), given.certificate)
        return RegistrationAuthority(name, _ra_key(name), own[0].public_bytes(Encoding.DER) if own else b"")


def issued(above: x509.Certificate, below: x509.Certificate) -> bool:
    """By name and signature; False also for a signature that cannot be checked."""
    try:
        below.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _may_issue(certificate: x509.Certificate) -> bool:
    """As RFC 5280 §6.1.4 (k) and (n) have it."""
    try:
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usages = [one.value for one in extensions if isinstance(one.value, x509.KeyUsage)]
    except _UNREADABLE:
        return False
    return constraints.ca and all(usage.key_cert_sign for usage in usages)


def _identity(certificate: x509.Certificate) -> tuple[bytes, bytes, bytes]:
    """What a certificate that it issued says of its issuer."""
    key_identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return certificate.subject.public_bytes(), key, key_identifier


def _ra_key(name: str) -> str:
    return f"ra/{name}"
