"""The onion-csr-01 challenge (RFC 9799 §3.2): a request for a certificate, signed by the key that the name is made of.

Law of this file: no network is asked, and no Tor. What is proved is that whoever holds the account's challenge got its nonce signed
by the service's own key; the octets that were signed are the ones that are read.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pki import der
from pki.clock import Clock
from pki.identifiers import DnsName
from pki.onion import is_onion as is_onion_name
from pki.onion import onion_key, onion_spki
from pki.strict import StrictError, from_base64url
from validation.caa import CaaEvidence, Forbidden
from validation.challenge import Challenge
from validation.outcome import AttemptEvidence, Failed, FailureKind, Outcome, Proved

KIND = "onion-csr-01"
MAX_CSR = 8192  # octets: it has one short key and two nonces
MIN_APPLICANT_NONCE = 8  # octets: 64 bits (RFC 9799 §3.2)
_CA_SIGNING_NONCE = "2.23.140.41"
_APPLICANT_SIGNING_NONCE = "2.23.140.42"
_ED25519 = "1.3.101.112"


class _Unfit(Exception):
    """The text may be shown."""


def is_onion(name: DnsName) -> bool:
    return is_onion_name(name.name)


def ca_signing_nonce(token: str) -> str:
    """The `nonce` of the challenge, in base64: 256 bits that follow from the token, so that nothing more has to be stored.

    In hexadecimal digits, which are base64 without padding in both of its alphabets: certbot's plugin reads base64url where
    RFC 9799 §3.2 says base64. An authorization that is pending expires long before the 30 days that the nonce may be used for.
    """
    return hashlib.sha256(b"onion-csr-01 caSigningNonce\0" + token.encode("ascii")).hexdigest()


async def onion_csr01(challenge: Challenge, *, clock: Clock) -> Outcome:
    """One attempt, without any I/O. Raises ValueError only for a caller's mistake: a name that is no onion."""
    identifier, started = challenge.identifier, clock.micros()
    if not isinstance(identifier, DnsName) or not is_onion(identifier):
        raise ValueError("onion-csr-01 proves control of onion names only (RFC 9799 §3.2)")
    why = _objection(dict(challenge.response).get("csr"), identifier, challenge.token)
    evidence = AttemptEvidence(method=KIND, identifier=str(identifier), started=started, finished=clock.micros())
    if why is None:
        return Proved(evidence)
    # Never UNAUTHORIZED, which time may heal: the same octets will be as wrong tomorrow.
    return Failed(FailureKind.RESPONSE, f"{KIND} for {identifier}: {why}", evidence)


def _objection(text: str | None, identifier: DnsName, token: str) -> str | None:
    if text is None:
        return 'the answer to the challenge has no member "csr"'
    try:
        _check(from_base64url(text), identifier.name, base64.b64decode(ca_signing_nonce(token)))
    except StrictError as error:
        return f"csr: {error}"
    except der.DerError as error:
        return f"csr is no certification request that can be read: {error}"
    except _Unfit as unfit:
        return str(unfit)
    return None


def _check(csr: bytes, name: str, nonce: bytes) -> None:
    """The five steps of RFC 9799 §3.2. The subject and the extensions mean nothing, and are not read. Raises DerError, _Unfit."""
    # 1. a well-formed PKCS#10 request
    if len(csr) > MAX_CSR:
        raise der.DerError(f"it is larger than {MAX_CSR} octets")
    info, algorithm, signature = der.take(der.whole(csr, der.SEQUENCE).content, der.SEQUENCE, der.SEQUENCE, der.BIT_STRING)
    _, _, spki, listed = der.take(info.content, der.INTEGER, der.SEQUENCE, der.SEQUENCE, 0xA0)
    attributes = _attributes(listed.content)
    # 2. its public key is that of the name
    try:
        expected = onion_spki(name)
    except ValueError as error:
        raise _Unfit(str(error)) from error
    if spki.raw != expected:
        raise _Unfit("the key of the csr is not the key that the onion name is made of")
    # 3. and has signed it
    (kind,) = der.take(algorithm.content, der.OBJECT_IDENTIFIER)
    if der.oid(kind) != _ED25519:
        raise _Unfit("the csr is not signed by Ed25519")
    try:
        Ed25519PublicKey.from_public_bytes(onion_key(name)).verify(der.bits(signature), info.raw)
    except InvalidSignature:
        raise _Unfit("the signature of the csr is not by the key that the onion name is made of") from None
    # 4. over our nonce
    if not hmac.compare_digest(_octets(attributes, _CA_SIGNING_NONCE, "caSigningNonce"), nonce):
        raise _Unfit("the caSigningNonce of the csr is not the nonce of this challenge: its octets, not its base64")
    # 5. and one of the applicant's own
    if len(_octets(attributes, _APPLICANT_SIGNING_NONCE, "applicantSigningNonce")) < MIN_APPLICANT_NONCE:
        raise _Unfit(f"the applicantSigningNonce of the csr has fewer than {MIN_APPLICANT_NONCE} octets")


def _attributes(content: bytes) -> dict[str, der.Element]:
    """Type -> its SET of values; a repeated one is refused, for two readers could take two different ones."""
    found: dict[str, der.Element] = {}
    for attribute in der.children(content):
        kind, values = der.take(der.expect(attribute, der.SEQUENCE).content, der.OBJECT_IDENTIFIER, der.SET)
        if found.setdefault(der.oid(kind), values) is not values:
            raise der.DerError("it has an attribute twice")
    return found


def _octets(attributes: dict[str, der.Element], oid: str, name: str) -> bytes:
    values = attributes.get(oid)
    if values is None:
        raise _Unfit(f"the csr has no attribute {name} ({oid})")
    (value,) = der.take(values.content, der.OCTET_STRING)
    return value.content


def onion_caa(name: DnsName, *, clock: Clock) -> Forbidden:
    """RFC 9799 §6: the records are in the service's descriptor, which takes Tor to read. Not having read them permits nothing."""
    evidence = CaaEvidence(
        name=str(name), domain="", records=(), asked=(), resolver="", secure=False, ttl=0, checked_at=clock.micros()
    )
    return Forbidden("the CAA records of an onion service are in its descriptor, which this server does not read", evidence)
