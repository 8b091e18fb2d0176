"""The gate before the signature: a certificate that says anything but what was decided is never signed.

Two readings. `check_invariants` looks at every certificate, byte by byte against its plan, with our own rules. `pkilint`
(RFC 5280 and its updates) looks at every new *shape*, a profile's version with a kind of key and kinds of names, because what
it finds depends on nothing else; profiles can ask for it every time. A finding of WARNING or above refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID

from pki import der
from pki.certificate import assemble
from pki.identifiers import DnsName
from pki.plan import SUBJECT_ATTRIBUTES, CertificatePlan, Issuer
from pki.reasons import Reason, Rejection
from policy import keys

# The whole of what a leaf of ours may hold: OID -> critical (None: decided by the subject, RFC 5280 §4.2.1.6).
_EXTENSIONS: dict[str, bool | None] = {
    "2.5.29.15": True,  # keyUsage
    "2.5.29.19": True,  # basicConstraints
    "2.5.29.37": False,  # extKeyUsage
    "2.5.29.35": False,  # authorityKeyIdentifier
    "2.5.29.14": False,  # subjectKeyIdentifier
    "1.3.6.1.5.5.7.1.1": False,  # authorityInfoAccess
    "2.5.29.31": False,  # cRLDistributionPoints
    "2.5.29.17": None,  # subjectAltName
    "1.3.6.1.5.5.7.1.24": False,  # TLS feature
}
_ALWAYS = frozenset({"2.5.29.15", "2.5.29.19", "2.5.29.37", "2.5.29.35", "2.5.29.14", "1.3.6.1.5.5.7.1.1", "2.5.29.31"})
MAX_SERIAL_BITS = 159  # 20 octets and positive (RFC 5280 §4.1.2.2)
MIN_SERIAL_BITS = 64


def _refuse(rule: str) -> NoReturn:
    raise Rejection(Reason.LINT_REFUSED, f"the certificate that this request comes to breaks a rule: {rule}")


def check_invariants(tbs: bytes, plan: CertificatePlan, issuer: Issuer, serial: int) -> None:
    """The bytes to be signed against the plan, every field and every extension. Raises Rejection(LINT_REFUSED)."""
    certificate = x509.load_der_x509_certificate(assemble(tbs, issuer.algorithm, b"\0"))
    _check_fields(certificate, plan, issuer, serial)
    _check_extensions(certificate, plan, issuer)


def _check_fields(certificate: x509.Certificate, plan: CertificatePlan, issuer: Issuer, serial: int) -> None:
    tbs = [element.raw for element in der.children(der.whole(certificate.tbs_certificate_bytes, der.SEQUENCE).content)]
    spki = plan.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    subject = [(attribute.oid, attribute.value) for attribute in certificate.subject]
    rules = {
        "it is not of version 3": certificate.version is x509.Version.v3,
        "its serial is not the one reserved": certificate.serial_number == serial,
        "its serial is not a positive number of 64 to 159 bits": MIN_SERIAL_BITS <= serial.bit_length() <= MAX_SERIAL_BITS,
        "its signature algorithm is not its issuer's": tbs[2] == issuer.algorithm.der,
        "its issuer is not the issuer's subject, byte for byte": tbs[3] == issuer.subject_der,
        "its public key is not the one that was proved": tbs[6] == spki,
        "its subject is not the planned one": subject == [(SUBJECT_ATTRIBUTES[key], value) for key, value in plan.subject],
        "its validity is not the planned one": (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
        == (plan.not_before, plan.not_after),
        "it ends before it begins": plan.not_before < plan.not_after,
        "it outlives its issuer": plan.not_after <= issuer.certificate.not_valid_after_utc,
        "it begins before its issuer": plan.not_before >= issuer.certificate.not_valid_before_utc,
        "it names nobody": bool(plan.subject or plan.identifiers),
    }
    for rule, holds in rules.items():
        if not holds:
            _refuse(rule)


def _check_extensions(certificate: x509.Certificate, plan: CertificatePlan, issuer: Issuer) -> None:
    found = {extension.oid.dotted_string: extension for extension in certificate.extensions}
    expected = set(_ALWAYS)
    expected |= {"2.5.29.17"} if plan.identifiers else set()
    expected |= {"1.3.6.1.5.5.7.1.24"} if plan.must_staple else set()
    if set(found) != expected:
        _refuse("its extensions are not exactly the planned ones")
    for oid, extension in found.items():
        critical = _EXTENSIONS[oid]
        if extension.critical is not (not plan.subject if critical is None else critical):
            _refuse(f"extension {oid} has the wrong criticality")
    values = certificate.extensions
    usage = values.get_extension_for_class(x509.KeyUsage).value
    constraints = values.get_extension_for_class(x509.BasicConstraints).value
    purposes = values.get_extension_for_class(x509.ExtendedKeyUsage).value
    authority = values.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    rules = {
        "it is a CA certificate": not constraints.ca,
        "its key usage allows signing certificates or CRLs": not (usage.key_cert_sign or usage.crl_sign),
        "its key usage does not fit its key": plan.key_usage == keys.usage(plan.public_key, plan.key_usage),
        "its key usage is not the planned one": all(
            getattr(usage, bit.value) is (bit in plan.key_usage) for bit in type(next(iter(plan.key_usage)))
        ),
        "its purposes are not the planned ones": tuple(oid.dotted_string for oid in purposes) == plan.extended_key_usage,
        "its authority key identifier is not its issuer's": authority.key_identifier == issuer.key_identifier
        and authority.authority_cert_issuer is None,
    }
    for rule, holds in rules.items():
        if not holds:
            _refuse(rule)
    _check_urls(values, issuer)
    if plan.identifiers:
        _check_names(values.get_extension_for_class(x509.SubjectAlternativeName).value, plan)


def _check_urls(extensions: x509.Extensions, issuer: Issuer) -> None:
    access = extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    points = extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    urls = [(entry.access_method, entry.access_location.value) for entry in access]
    if urls != [
        (AuthorityInformationAccessOID.OCSP, issuer.urls.ocsp),
        (AuthorityInformationAccessOID.CA_ISSUERS, issuer.urls.ca_issuers),
    ]:
        _refuse("its authority information access is not its issuer's")
    if [[name.value for name in point.full_name or ()] for point in points] != [[issuer.urls.crl]]:
        _refuse("its CRL distribution point is not its issuer's")


def _check_names(names: x509.SubjectAlternativeName, plan: CertificatePlan) -> None:
    """The SAN holds the granted names, all of them and no other."""
    wanted = [str(name) if isinstance(name, DnsName) else name.address for name in plan.identifiers]
    if [name.value for name in names] != wanted:
        _refuse("its subject alternative names are not exactly the granted ones")


# Two of pkilint's readings hold names and URLs to what the public DNS knows: two labels or more, a top-level domain of letters,
# no wildcard. RFC 5280 §4.2.1.6 asks only for the preferred name syntax and leaves wildcards open, and a private CA names hosts
# such as `printer` and serves CRLs from `localhost`. Our own rules stand in their place, on every certificate: names are as
# `pki.identifiers` made them (_check_names), URLs are the issuer's, byte for byte (_check_urls).
_OURS_TO_JUDGE = frozenset({"pkix.invalid_domain_name_syntax", "pkix.invalid_uri_syntax"})

Linter = Callable[[bytes], list[str]]
"""DER of a certificate -> findings of WARNING or above, "severity code" each."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What pkilint's findings depend on."""

    profile: str
    profile_version: str
    issuer: str
    key: str
    names: frozenset[str]
    wildcard: bool


def shape_of(plan: CertificatePlan) -> Shape:
    return Shape(
        plan.profile,
        plan.profile_version,
        plan.issuer,
        keys.kind(plan.public_key),
        frozenset(type(name).__name__ for name in plan.identifiers) | {key for key, _ in plan.subject},
        any(isinstance(name, DnsName) and name.wildcard for name in plan.identifiers),
    )


def pkilint_linter() -> Linter:
    """Loads pkilint (0.5 s, once a process, so not at import) and gives its RFC 5280 reading."""
    from pkilint import loader
    from pkilint.pkix import certificate, extension, name
    from pkilint.validation import ValidationFindingSeverity

    validator = certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )

    def lint(certificate_der: bytes) -> list[str]:
        document = loader.load_certificate(certificate_der, "certificate")
        return [
            f"{finding.finding.severity.name} {finding.finding.code}"
            for result in validator.validate(document.root)
            for finding in result.finding_descriptions
            if finding.finding.severity <= ValidationFindingSeverity.WARNING  # FATAL is 0
            and finding.finding.code not in _OURS_TO_JUDGE
        ]

    return lint


class LintGate:
    """Both readings, and the memory of which shapes pkilint has passed."""

    def __init__(self, *, linter: Callable[[], Linter] = pkilint_linter) -> None:
        self._make_linter = linter
        self._linter: Linter | None = None
        self._passed: set[Shape] = set()

    def check(self, tbs: bytes, plan: CertificatePlan, issuer: Issuer, serial: int, *, every: bool) -> None:
        """Raises Rejection(LINT_REFUSED) with the rules that are broken."""
        check_invariants(tbs, plan, issuer, serial)
        shape = shape_of(plan)
        if shape in self._passed and not every:
            return
        if self._linter is None:
            self._linter = self._make_linter()
        # A signature of one octet says nothing; pkilint reads the rest.
        findings = self._linter(assemble(tbs, issuer.algorithm, b"\0"))
        if findings:
            raise Rejection(
                Reason.LINT_REFUSED,
                f"the certificate that this request comes to breaks rules of RFC 5280: {', '.join(findings)}",
                suggestions=["the profile needs changing; show this to whoever runs the CA"],
            )
        self._passed.add(shape)
