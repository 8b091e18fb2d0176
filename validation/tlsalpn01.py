"""The tls-alpn-01 challenge (RFC 8737; for IP addresses RFC 8738 §6): one TLS handshake, and the certificate that it shows.

Law of this file: the certificate is judged by its bytes (`judge`, pure), and everything that RFC 8737 §3 asks for must be there
and nothing besides. Two lapses of others are tests here: TLS below 1.2 and the extension's draft identifier were taken once,
and two million certificates had to be revoked. Nothing of the certificate comes back in an outcome.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import socket
from collections.abc import Iterator

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from pki import der
from pki.clock import Clock
from pki.csr import MAX_RSA_BITS
from pki.identifiers import DnsName, Identifier, IpAddress
from validation.challenge import Challenge
from validation.egress import Egress
from validation.outcome import FailureKind, Outcome
from validation.reach import Failure, Reach, attempt
from validation.resolver import Resolver
from validation.tls import converse, validation_context

ALPN = "acme-tls/1"
DEADLINE = 10.0  # seconds for everything
MAX_CERTIFICATE = 65536  # octets; OpenSSL itself stops reading a chain at 100 kB
_ACME_IDENTIFIER = "1.3.6.1.5.5.7.1.31"  # id-pe-acmeIdentifier, RFC 8737 §6.1; not the draft's 1.3.6.1.5.5.7.1.30.1
_SUBJECT_ALTERNATIVE_NAME = "2.5.29.17"
_KEYS = (rsa.RSAPublicKey, ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)
_TRUE = b"\x01\x01\xff"
_BOOLEAN = 0x01
_VERSION = 0xA0
_EXTENSIONS = 0xA3
_DNS_NAME = 0x82
_IP_ADDRESS = 0x87


async def tlsalpn01(
    challenge: Challenge,
    *,
    resolver: Resolver,
    egress: Egress,
    clock: Clock,
    port: int = 443,
    deadline: float = DEADLINE,
) -> Outcome:
    """One attempt. `deadline` in seconds. Raises ValueError only for a caller's mistake: a wildcard."""
    identifier = challenge.identifier
    if challenge.wildcard or (isinstance(identifier, DnsName) and identifier.wildcard):
        raise ValueError("tls-alpn-01 cannot prove control of a wildcard (RFC 8737 §3)")
    reach = Reach(resolver, egress, deadline)

    async def proof() -> None:
        connection = await reach.connect(identifier, port)
        reach.wait_for(f"the TLS handshake with {reach.tried[-1]}, port {port},")
        shown = await _handshake(connection, server_name(identifier), f"{reach.tried[-1]}, port {port}")
        judge(shown, identifier, challenge.key_authorization)

    return await attempt("tls-alpn-01", challenge, reach, proof, clock=clock, deadline=deadline)


def server_name(identifier: Identifier) -> str:
    """The SNI to send: the name, or for an address its name in in-addr.arpa or ip6.arpa (RFC 8738 §6)."""
    match identifier:
        case DnsName(name):
            return name
        case IpAddress(address):
            return address.reverse_pointer


def judge(certificate: bytes, identifier: Identifier, key_authorization: str) -> None:
    """RFC 8737 §3 on the bytes of the leaf certificate. Raises Failure(UNAUTHORIZED)."""
    if len(certificate) > MAX_CERTIFICATE:
        raise _unfit("it is larger than any certificate for a challenge")
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        tbs = parsed.tbs_certificate_bytes
        key = parsed.public_key()
        same_name = _is_self_issued(tbs)
        *_, signature = der.children(der.whole(certificate, der.SEQUENCE).content)
        der.bits(signature)  # whole octets: the library does not look at how many bits are said to be unused
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise _unfit("it cannot be read") from error
    if not isinstance(key, _KEYS) or (isinstance(key, rsa.RSAPublicKey) and key.key_size > MAX_RSA_BITS):
        raise _unfit(f"its key is neither EC, nor Ed25519, nor RSA of at most {MAX_RSA_BITS} bits")  # whose work is ours
    if not same_name:
        raise _unfit("it is not self-signed: its issuer is not its subject")
    try:
        parsed.verify_directly_issued_by(parsed)
    except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError) as error:
        raise _unfit("it is not self-signed: its signature is not by its own key") from error
    try:
        extensions = dict(_extensions(tbs))
        _check_names(extensions.get(_SUBJECT_ALTERNATIVE_NAME), identifier)
        _check_digest(extensions.get(_ACME_IDENTIFIER), key_authorization)
    except der.DerError as error:
        raise _unfit(f"{error}") from error


def _unfit(why: str) -> Failure:
    return Failure(FailureKind.UNAUTHORIZED, f"the certificate that was shown does not prove control: {why}")


def _is_self_issued(tbs: bytes) -> bool:
    """By its octets: the library's own names trip over values that no name has. Raises DerError."""
    version, *rest = der.children(der.whole(tbs, der.SEQUENCE).content)
    _serial, _algorithm, issuer, _validity, subject, *_ = rest if version.tag == _VERSION else (version, *rest)
    return issuer.raw == subject.raw


Extension = tuple[bool, bytes]
"""Critical or not; the content of extnValue."""


def _extensions(tbs: bytes) -> Iterator[tuple[str, Extension]]:
    """By hand: a library that trips over an extension that is none of our business would refuse a good answer."""
    seen: set[str] = set()
    for part in der.children(der.whole(tbs, der.SEQUENCE).content):
        if part.tag != _EXTENSIONS:
            continue
        for extension in der.children(der.whole(part.content, der.SEQUENCE).content):
            fields = list(der.children(der.expect(extension, der.SEQUENCE).content))
            flags = [field for field in fields[1:-1] if field.raw == _TRUE]
            if len(fields) not in {2, 3} or len(flags) != len(fields) - 2:
                raise der.DerError("it has an extension that is none")
            oid = der.oid(fields[0])
            if oid in seen:
                raise der.DerError(f"it has the extension {oid} twice")
            seen.add(oid)
            yield oid, (bool(flags), der.expect(fields[-1], der.OCTET_STRING).content)


def _check_names(extension: Extension | None, identifier: Identifier) -> None:
    """Exactly one name of exactly the right kind; DNS names without regard to case (RFC 8737 §3, RFC 4343)."""
    if extension is None:
        raise _unfit("it has no subjectAltName")
    names = list(der.children(der.whole(extension[1], der.SEQUENCE).content))
    if len(names) != 1:
        raise _unfit(f"its subjectAltName has {len(names)} names, and must have the validated one only")
    match identifier:
        case DnsName(name):
            fits = names[0].tag == _DNS_NAME and names[0].content.lower() == name.encode("ascii")
            kind = "dNSName"
        case IpAddress(address):
            fits = names[0].tag == _IP_ADDRESS and names[0].content == address.packed
            kind = "iPAddress"
    if not fits:
        raise _unfit(f"its subjectAltName is not the {kind} {identifier}")


def _check_digest(extension: Extension | None, key_authorization: str) -> None:
    if extension is None:
        raise _unfit(f"it has no acmeIdentifier extension ({_ACME_IDENTIFIER})")
    critical, value = extension
    if not critical:
        raise _unfit("its acmeIdentifier extension is not critical")
    digest = der.whole(value, der.OCTET_STRING).content
    if len(digest) != hashlib.sha256().digest_size:
        raise _unfit("its acmeIdentifier extension does not hold an OCTET STRING of 32 octets")
    if not hmac.compare_digest(digest, hashlib.sha256(key_authorization.encode("ascii")).digest()):
        raise _unfit("its acmeIdentifier extension is not the SHA-256 of the key authorization: is it of another challenge?")


async def _handshake(connection: socket.socket, name: str, where: str) -> bytes:
    """The certificate (DER) that the server shows after agreeing on the protocol; `connection` is closed in any case.

    No octet of application data is sent, and none is read (RFC 8737 §3). Raises Failure.
    """
    wanted = f"; TLS 1.2 or later and {ALPN} are wanted"
    tls = validation_context(ALPN)
    transport = await converse(connection, asyncio.Protocol, tls=tls, server_name=name, whom=where, wanted=wanted)
    try:
        session = transport.get_extra_info("ssl_object")
        if session.selected_alpn_protocol() != ALPN:
            raise Failure(
                FailureKind.UNAUTHORIZED, f"the server at {where} did not agree to the application protocol {ALPN} (ALPN)"
            )
        certificate = session.getpeercert(binary_form=True)
        if certificate is None:
            raise Failure(FailureKind.UNAUTHORIZED, f"the server at {where} showed no certificate")
        return bytes(certificate)
    finally:
        transport.abort()  # not close(): a TLS goodbye may take as long as the server likes
