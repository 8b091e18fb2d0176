"""PKCS#10 certification requests (RFC 2986), read leniently and refused precisely.

`cryptography` refuses requests that devices send (strongSwan's attributes are not in DER order) and calls every SHA-1
signature invalid. So the frame is read with asn1crypto and the signature verified over the bytes as sent. All of a
request is read inside `parse_csr`: it gives a value or raises a `Rejection`, now and never later.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from pki.identifiers import Identifier

MAX_CSR = 64 * 1024  # octets of DER

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Csr:
    """A request whose signature has been verified with its own key (proof of possession)."""

    der: bytes = field(repr=False)
    sha256: str  # hex, of der
    spki: bytes = field(repr=False)  # SubjectPublicKeyInfo, DER
    spki_sha256: str  # hex
    public_key: PublicKey = field(repr=False, compare=False)
    subject: bytes = field(repr=False)  # Name, DER, as sent
    common_name: str | None  # the one CN asked for
    identifiers: tuple[Identifier, ...]  # SANs asked for (dNSName, iPAddress), canonical, in order, without repetition
    signature_digest: str  # "sha256", "sha1", ... or "" where the algorithm has its own (Ed25519)
    challenge_password: str | None = field(default=None, repr=False)


def parse_csr(data: bytes, *, legacy_digests: Collection[str] = ()) -> Csr:
    """DER (or PEM) to a verified request.

    `legacy_digests` names the weak digests ("sha1", "md5") that this caller takes nevertheless.
    Raises Rejection: BAD_CSR, WEAK_ALGORITHM (which names the algorithm), BAD_PUBLIC_KEY, REJECTED_IDENTIFIER,
    UNSUPPORTED_IDENTIFIER (a SAN type that we do not issue).
    """
    raise NotImplementedError
