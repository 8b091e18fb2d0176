"""Certification paths of clients (RFC 5280 §6): from what somebody presented up to CAs that are trusted for it. Pure.

Building paths and their signatures, validity, path lengths and name constraints are `cryptography.x509.verification`'s; what a
client may be is ours. IDevIDs (IEEE 802.1AR) are what they are: with notAfter in 9999, without extended key usage, with a
hardwareModuleName or no alternative name at all, with keys of any curve.

Law of this file: a verified path or a `PathError`, whatever the bytes; the work is bounded, and nothing is fetched.
"""

from __future__ import annotations

import enum
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

MAX_CHAIN = 10  # certificates presented
MAX_CERTIFICATE = 64 * 1024  # octets of DER
MAX_INTERMEDIATES = 6  # between leaf and anchor
MIN_RSA_BITS = 2048

CLIENT_AUTH = "1.3.6.1.5.5.7.3.2"
CMC_RA = "1.3.6.1.5.5.7.3.28"  # id-kp-cmcRA (RFC 6402 §2.10)
ANY_PURPOSE = "2.5.29.37.0"

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_WEAK = (hashes.MD5, hashes.SHA1)
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_INNER_WORDS = re.compile(
    r"(validation failed|candidates exhausted|fatal error): | \(encountered processing .*\)|: AlgorithmIdentifier \{.*\}"
)


class PathError(Exception):
    """Why a certificate is not taken: one clause about it, safe to show."""


class Purpose(enum.Enum):
    """What somebody wants to be taken for. Closed."""

    CLIENT = "client"  # extended key usage absent, or with clientAuth (RFC 5280 §4.2.1.12)
    AGENT = "agent"  # a registration authority: with id-kp-cmcRA


@dataclass(frozen=True, slots=True)
class VerifiedPath:
    """Leaf first, anchor last."""

    certificates: tuple[x509.Certificate, ...]

    @property
    def leaf(self) -> x509.Certificate:
        return self.certificates[0]

    @property
    def issuer(self) -> x509.Certificate:
        """Who certified the leaf."""
        return self.certificates[1]


class Anchors:
    """CAs (DER) that are trusted for one purpose. Whether they are self-signed does not matter; that they are valid today does.

    Raises PathError for one that cannot be read.
    """

    def __init__(self, certificates: Iterable[bytes], purpose: Purpose) -> None:
        self._purpose = purpose
        store = Store([load(one) for one in certificates])
        self._builder = (
            PolicyBuilder()
            .store(store)
            .max_chain_depth(MAX_INTERMEDIATES)
            # Of the leaf only unknown critical extensions are left to the library: check_leaf has seen the rest.
            .extension_policies(ca_policy=_ca_policy(purpose), ee_policy=ExtensionPolicy.permit_all())
        )

    def verify(self, chain: Sequence[bytes], *, at: datetime) -> VerifiedPath:
        """`chain` is what was presented (DER, leaf first, the others in any order); `at` is aware. Raises PathError."""
        if not chain:
            raise PathError("there is none")
        if len(chain) > MAX_CHAIN:
            raise PathError(f"it came with {len(chain) - 1} others; send those that lead to a CA, {MAX_CHAIN - 1} at most")
        leaf = load(chain[0])
        check_leaf(leaf, self._purpose)
        check_dates(leaf, at=at)
        verifier = self._builder.time(at).build_client_verifier()
        try:
            found = verifier.verify(leaf, _intermediates(chain[1:])).chain
        except VerificationError as error:
            raise PathError(f"it does not lead to a CA that is trusted here ({_plain(error)})") from error
        except _UNREADABLE as error:
            raise PathError("a certificate above it cannot be read") from error
        if len(found) < 2:
            raise PathError("it is trusted as a CA here, and a client is none")
        return VerifiedPath(tuple(found))


def load(der: bytes) -> x509.Certificate:
    """A certificate whose extensions can be read. Raises PathError."""
    if len(der) > MAX_CERTIFICATE:
        raise PathError(f"it is larger than {MAX_CERTIFICATE} octets")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", CryptographyDeprecationWarning)  # what the library puts up with for the time being
            certificate = x509.load_der_x509_certificate(der)
            certificate.extensions  # noqa: B018  # read lazily
            certificate.subject  # noqa: B018
    except (*_UNREADABLE, CryptographyDeprecationWarning) as error:
        raise PathError("it cannot be read") from error
    return certificate


def check_dates(leaf: x509.Certificate, *, at: datetime) -> None:
    """Both ends belong to the validity (RFC 5280 §4.1.2.5). Raises PathError."""
    if at < leaf.not_valid_before_utc:
        raise PathError(f"it is not valid before {leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}")
    if at > leaf.not_valid_after_utc:
        raise PathError(f"it expired at {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}")


def check_leaf(leaf: x509.Certificate, purpose: Purpose) -> None:
    """Is it a client's at all, and made for this? All but dates and trust. Raises PathError."""
    try:
        if _is_ca(leaf):
            raise PathError("it is a CA's, and a client is none")
        _check_algorithms(leaf)
        usage = _find(leaf, x509.KeyUsage)
        if usage is not None and not usage.digital_signature:
            raise PathError("its key usage has no digitalSignature")
        purposes = {one.dotted_string for one in _find(leaf, x509.ExtendedKeyUsage) or ()}
    except _UNREADABLE as error:
        raise PathError("it cannot be read") from error
    if purpose is Purpose.CLIENT and purposes and CLIENT_AUTH not in purposes:
        raise PathError("its extended key usage has no clientAuth")
    if purpose is Purpose.AGENT and CMC_RA not in purposes:
        raise PathError("its extended key usage has no id-kp-cmcRA (1.3.6.1.5.5.7.3.28), so it is no registration authority's")


def names_agent(leaf: x509.Certificate) -> bool:
    """Whether it says that it is a registration authority's."""
    try:
        check_leaf(leaf, Purpose.AGENT)
    except PathError:
        return False
    return True


def _is_ca(leaf: x509.Certificate) -> bool:
    basic, usage = _find(leaf, x509.BasicConstraints), _find(leaf, x509.KeyUsage)
    return (basic is not None and basic.ca) or (usage is not None and usage.key_cert_sign)


def _check_algorithms(leaf: x509.Certificate) -> None:
    if isinstance(leaf.signature_hash_algorithm, _WEAK):
        raise PathError(f"it is signed with {leaf.signature_hash_algorithm.name.upper()}")
    match leaf.public_key():
        case rsa.RSAPublicKey(key_size=bits) if bits < MIN_RSA_BITS:
            raise PathError(f"its RSA key has {bits} bits, which is too few")
        case rsa.RSAPublicKey() | ec.EllipticCurvePublicKey() | ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return
        case _:
            raise PathError("its key is of a kind that is not taken")


def _find(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _intermediates(presented: Iterable[bytes]) -> list[x509.Certificate]:
    """Each CA once, by name and key: a set of CAs that certify each other in all ways is a maze."""
    found: dict[tuple[bytes, bytes], x509.Certificate] = {}
    for der in presented:
        one = load(der)
        try:
            key = one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        except _UNREADABLE:
            continue  # nothing was signed with that
        found.setdefault((one.subject.public_bytes(), key), one)
    return list(found.values())


def _plain(error: VerificationError) -> str:
    """The library's reason without its scaffolding."""
    text = _INNER_WORDS.sub("", str(error)).strip()
    return "nothing that was sent with it, and no trusted CA, certified it" if "no interior errors" in text else text


# ---------------------------------------------------------------------- what a CA on the way has to be


def _ca_policy(purpose: Purpose) -> ExtensionPolicy:
    """RFC 5280 §6.1.4 (k)-(n), and that a CA which is limited to certain purposes is limited to them. Old CAs without key usage,
    or with basic constraints that are not critical, are CAs.
    """

    def check_purposes(_: Policy, __: x509.Certificate, extended: x509.ExtendedKeyUsage | None) -> None:
        allowed = {ANY_PURPOSE, CLIENT_AUTH} | ({CMC_RA} if purpose is Purpose.AGENT else set())
        if extended is not None and not allowed & {one.dotted_string for one in extended}:
            raise ValueError("a CA above it is limited to other purposes")

    return (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _check_ca_usage)
        .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, check_purposes)
        .may_be_present(x509.NameConstraints, Criticality.AGNOSTIC, _check_constraints)
    )


def _check_ca_usage(_: Policy, __: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("the key usage of a CA above it has no keyCertSign")


def _check_constraints(_: Policy, __: x509.Certificate, constraints: x509.NameConstraints | None) -> None:
    """§4.2.1.10: constraints that cannot be processed refuse; the library overlooks those of kinds that it does not know."""
    if constraints is None:
        return
    subtrees = [*(constraints.permitted_subtrees or ()), *(constraints.excluded_subtrees or ())]
    if any(not isinstance(name, x509.DNSName | x509.IPAddress) for name in subtrees):
        raise ValueError("a CA above it constrains names of a kind that is not understood here")
