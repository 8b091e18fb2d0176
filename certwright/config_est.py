"""The EST endpoints of certwright.yaml: what each label trusts and does, and what must fit together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from certwright import config_schema
from certwright.yaml_positions import Place
from est.endpoint import METHODS, EstLimits
from pki.path import MIN_RSA_BITS
from policy.profiles import Profile

Note = Callable[[Place, str], None]
Certificates = Callable[[Place, str], list[x509.Certificate]]


@dataclass(frozen=True, slots=True)
class EstSettings:
    name: str
    profile: str
    authenticate: frozenset[str]
    realm: str
    base64_wrap: str
    anchors: tuple[bytes, ...] = field(repr=False)  # DER, of manufacturers
    roles: frozenset[str]
    grace: timedelta
    enroll_with_own: bool
    agent_anchors: tuple[bytes, ...] = field(repr=False)  # DER
    agent_roles: frozenset[str]
    proof_linking: str
    csr_attributes: str
    server_keygen: bool
    full_cmc: bool
    registration_authority: str | None
    require_approval: bool
    limits: EstLimits


def est_settings(
    name: str,
    given: config_schema.EstEndpoint,
    *,
    profile: Profile | None,
    authority: str | None,
    certificates: Certificates,
    note: Note,
) -> EstSettings:
    """What is wrong goes to `note(place below the endpoint, message)`. `authority` is the registration authority that it has."""
    _check(name, given, profile=profile, authority=authority, note=note)
    return EstSettings(
        name=name,
        profile=profile.name if profile is not None else given.profile,
        authenticate=frozenset(given.authenticate),
        realm=given.realm,
        base64_wrap=given.base64_wrap,
        anchors=_anchors(("client_certificates", "anchors"), given.client_certificates.anchors, certificates, note),
        roles=frozenset(given.client_certificates.roles),
        grace=given.client_certificates.grace,
        enroll_with_own=given.client_certificates.enroll,
        agent_anchors=() if given.agents is None else _anchors(("agents", "anchors"), given.agents.anchors, certificates, note),
        agent_roles=frozenset() if given.agents is None else frozenset(given.agents.roles),
        proof_linking=given.proof_linking,
        csr_attributes=given.csr_attributes,
        server_keygen=given.server_keygen,
        full_cmc=given.full_cmc,
        registration_authority=authority,
        require_approval=given.require_approval,
        limits=EstLimits(
            failures_per_user=given.limits.failures_per_user,
            failures_per_address=given.limits.failures_per_address,
            enrollments_per_caller=given.limits.enrollments_per_caller,
            enrollments_per_address=given.limits.enrollments_per_address,
        ),
    )


def _check(name: str, given: config_schema.EstEndpoint, *, profile: Profile | None, authority: str | None, note: Note) -> None:
    """What does not fit together."""
    if name.lower() in METHODS:
        note(
            (),
            f"a label that is called like an operation of EST makes its URLs ambiguous (RFC 7030 section 3.2.2): rename {name}",
        )
    by_certificate = "certificate" in given.authenticate
    if given.client_certificates != config_schema.EstClientCertificates() and not by_certificate:
        note(("client_certificates",), "they are not asked for here: add certificate to authenticate")
    if given.agents is not None and not by_certificate and not given.full_cmc:
        note(("agents",), "nothing would ask for their certificates: add certificate to authenticate, or full_cmc: true")
    certificates_count = given.client_certificates.anchors or given.client_certificates.enroll or given.agents is None
    if by_certificate and certificates_count and not given.client_certificates.roles:
        note(
            ("authenticate",),
            "say in client_certificates.roles which roles the holders of certificates have, or no policy grants them anything",
        )
    if given.server_keygen and profile is not None and not profile.server_keygen:
        note(("server_keygen",), f"profile {profile.name} does not allow it; say server_keygen: true there")
    if given.full_cmc and authority is None:
        note(("full_cmc",), "say which registration_authority signs the responses")


def _anchors(place: Place, files: list[str], certificates: Certificates, note: Note) -> tuple[bytes, ...]:
    """What is trusted has to be a CA: a device's certificate in its place would open nothing, and nobody would see why."""
    found: list[bytes] = []
    for index, file in enumerate(files):
        for one in certificates((*place, index), file):
            if not _is_ca(one):
                note((*place, index), f"{one.subject.rfc4514_string()!r} is no CA (basic constraints CA:TRUE)")
            elif not _can_anchor(one):
                note(
                    (*place, index),
                    f"nothing can be trusted by {one.subject.rfc4514_string()!r}: CAs above clients have RSA keys of {MIN_RSA_BITS} "
                    "bits or more, or EC keys on P-256, P-384 or P-521",
                )
            found.append(one.public_bytes(Encoding.DER))
    return tuple(found)


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False


def _can_anchor(certificate: x509.Certificate) -> bool:
    """Whether a path to it can be verified (`pki.path`): with another key it would open nothing, and nobody would see why."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= MIN_RSA_BITS
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1)
