"""A CMC client written with other code than ours: asn1crypto's primitives for the structures, `cryptography` for the signatures.

Every part of a message can be turned wrong. Replies are verified here, too.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asn1crypto import cms, core
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from tests.helpers.scep import HASH_OIDS, HASHES, NULL, children, integer, octets, oid, openssl, retag, seq, set_of

CMC = "1.3.6.1.5.5.7.7."
STATUS_INFO_V2, IDENTIFICATION, DATA_RETURN = f"{CMC}25", f"{CMC}2", f"{CMC}4"
TRANSACTION_ID, SENDER_NONCE, RECIPIENT_NONCE = f"{CMC}5", f"{CMC}6", f"{CMC}7"
ENCRYPTED_POP, DECRYPTED_POP, LRA_POP_WITNESS = f"{CMC}9", f"{CMC}10", f"{CMC}11"
GET_CERT, GET_CRL, REVOKE_REQUEST, REG_INFO = f"{CMC}15", f"{CMC}16", f"{CMC}17", f"{CMC}18"
QUERY_PENDING, POP_LINK_RANDOM, POP_LINK_WITNESS_V2 = f"{CMC}21", f"{CMC}22", f"{CMC}33"
CONFIRM_CERT_ACCEPTANCE, IDENTITY_PROOF_V2, BATCH_REQUESTS = f"{CMC}24", f"{CMC}34", f"{CMC}28"
PKI_DATA, PKI_RESPONSE = "1.3.6.1.5.5.7.12.2", "1.3.6.1.5.5.7.12.3"
CMC_RA = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.28")
CONTENT_TYPE, MESSAGE_DIGEST = "1.2.840.113549.1.9.3", "1.2.840.113549.1.9.4"
SIGNED_DATA = "1.2.840.113549.1.7.2"
NO_SIGNATURE = "1.3.6.1.5.5.7.6.2"
HMAC_SHA256 = "1.2.840.113549.2.9"
SHA256 = HASH_OIDS["sha256"]
ECDSA = {"sha1": "1.2.840.10045.4.1", "sha256": "1.2.840.10045.4.3.2", "sha384": "1.2.840.10045.4.3.3"}
RSA = "1.2.840.113549.1.1.1"

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def text(value: str) -> bytes:
    return bytes(core.UTF8String(value).dump())


def enumerated(value: int) -> bytes:
    return retag(0x0A, integer(value))


def spki(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_identifier(key: Key) -> bytes:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest


# ---------------------------------------------------------------------- certification requests


def csr(
    key: Key,
    *names: str,
    common_name: str | None = "dev1",
    link: tuple[bytes, bytes] | None = None,
    identifier: bool = True,
) -> bytes:
    """PKCS#10 with a subject key identifier (RFC 5272 §3.2); `link` is (shared secret, R) of a popLinkWitnessV2."""
    subject = [] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
    if identifier:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    made = builder.sign(key, hashes.SHA256())
    der = made.public_bytes(Encoding.DER)
    return der if link is None else _linked(der, key, *link)


def csr_for_mail(key: Key) -> bytes:
    """For a name of a kind that is not issued here."""
    mail = x509.SubjectAlternativeName([x509.RFC822Name("a@example.com")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(mail, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def _linked(der: bytes, key: Key, secret: bytes, random: bytes) -> bytes:
    """The same request with the witness among its attributes; the library cannot write one that is no string."""
    info, algorithm, _ = children(der)
    version, subject, public_key, attributes = children(info)
    witness = mac_proof(hashlib.sha256(secret).digest(), random)
    added = seq(oid(POP_LINK_WITNESS_V2), set_of(witness))
    changed = seq(version, subject, public_key, retag(0xA0, set_of(*children(attributes), added)))
    return seq(changed, algorithm, bytes(core.OctetBitString(signature(key, changed)).dump()))


def signature(key: Key, data: bytes, digest: str = "sha256") -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), HASHES[digest])
    return key.sign(data, ec.ECDSA(HASHES[digest]))


def tcr(body_part: int, request: bytes) -> bytes:
    return retag(0xA0, seq(integer(body_part), request))


def crm(message: bytes) -> bytes:
    return retag(0xA1, message)


def orm(body_part: int) -> bytes:
    return retag(0xA2, seq(integer(body_part), oid("1.2.3.4"), NULL))


def crmf(body_part: int, key: Key, *names: str, pop: bytes | None = None, sign: Key | None = None) -> bytes:
    """A CertReqMsg; `sign` makes the popo of a signing key, `pop` is any other."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dev1")]).public_bytes()
    template = retag(0xA5, seq(subject)) + retag(0xA6, spki(key))
    if names:
        general = x509.SubjectAlternativeName([x509.DNSName(name) for name in names]).public_bytes()
        template += retag(0xA9, seq(seq(oid("2.5.29.17"), octets(general))))
    request = seq(integer(body_part), seq(template))
    if sign is not None:
        algorithm = seq(oid(ECDSA["sha256"])) if isinstance(sign, ec.EllipticCurvePrivateKey) else _rsa("sha256")
        pop = retag(0xA1, seq(algorithm, bytes(core.OctetBitString(signature(sign, request)).dump())))
    return seq(request, pop) if pop is not None else seq(request)


RA_VERIFIED = b"\x80\x00"
CHALLENGE_RESPONSE = b"\xa2\x03\x81\x01\x01"  # keyEncipherment, subsequentMessage challengeResp


def _rsa(digest: str) -> bytes:
    return seq(oid({"sha256": "1.2.840.113549.1.1.11"}[digest]), NULL)


# ---------------------------------------------------------------------- controls


def control(body_part: int, kind: str, *values: bytes) -> bytes:
    return seq(integer(body_part), oid(kind), set_of(*values))


def mac_proof(key: bytes, message: bytes) -> bytes:
    """IdentityProofV2 and PopLinkWitnessV2 with SHA-256 and HMAC-SHA256."""
    return seq(seq(oid(SHA256)), seq(oid(HMAC_SHA256)), octets(hmac.digest(key, message, "sha256")))


def identity_proof(secret: bytes, identification: str, requests: Sequence[bytes]) -> bytes:
    """§6.2: the key is the digest of the secret followed by the identification."""
    return mac_proof(hashlib.sha256(secret + identification.encode()).digest(), seq(*requests))


def revoke_request(issuer: bytes, serial: int, reason: int = 0, *, secret: bytes | None = None) -> bytes:
    shared = b"" if secret is None else octets(secret)
    return (
        seq(issuer, integer(serial), enumerated(reason))
        if not shared
        else seq(issuer, integer(serial), enumerated(reason), shared)
    )


def get_cert(issuer: bytes, serial: int) -> bytes:
    return seq(core_explicit(0xA4, issuer), integer(serial))


def core_explicit(tag: int, element: bytes) -> bytes:
    return retag(tag, seq(element))


def pki_data(controls: Sequence[bytes] = (), requests: Sequence[bytes] = (), cms_objects: Sequence[bytes] = ()) -> bytes:
    return seq(seq(*controls), seq(*requests), seq(*cms_objects), seq())


# ---------------------------------------------------------------------- SignedData


def _attributes(content: bytes, content_type: str, digest: str) -> bytes:
    return set_of(
        seq(oid(CONTENT_TYPE), set_of(oid(content_type))),
        seq(oid(MESSAGE_DIGEST), set_of(octets(hashlib.new(digest, content, usedforsecurity=False).digest()))),
    )


@dataclass(slots=True)
class SignerOf:
    """Who signs: with a certificate, or named by its key's identifier alone."""

    key: Key = field(repr=False)
    certificate: x509.Certificate | None = None
    digest: str = "sha256"
    signs_for: Key | None = field(default=None, repr=False)  # the key that really signs, if it is another one

    @property
    def named(self) -> x509.Certificate:
        assert self.certificate is not None
        return self.certificate

    def info(self, content: bytes, content_type: str) -> bytes:
        attributes = _attributes(content, content_type, self.digest)
        return seq(
            integer(3 if self.certificate is None else 1),
            self._identifier(),
            seq(oid(HASH_OIDS[self.digest]), NULL),
            retag(0xA0, attributes),
            self._algorithm(),
            octets(signature(self.signs_for or self.key, attributes, self.digest)),
        )

    def _identifier(self) -> bytes:
        if self.certificate is None:
            return retag(0x80, octets(key_identifier(self.key)))
        return seq(self.certificate.issuer.public_bytes(), integer(self.certificate.serial_number))

    def _algorithm(self) -> bytes:
        if isinstance(self.key, rsa.RSAPrivateKey):
            return seq(oid(RSA), NULL)
        return seq(oid(ECDSA[self.digest]))


@dataclass(slots=True)
class Unsigned:
    """id-alg-noSignature: a digest in the place of a signature (RFC 5272 Appendix C.1)."""

    def info(self, content: bytes, content_type: str) -> bytes:
        return seq(
            integer(1),
            seq(seq(), integer(0)),
            seq(oid(SHA256), NULL),
            retag(0xA0, _attributes(content, content_type, "sha256")),
            seq(oid(NO_SIGNATURE), NULL),
            octets(hashlib.sha256(content).digest()),
        )


def signed(
    content: bytes,
    *signers: SignerOf | Unsigned,
    content_type: str = PKI_DATA,
    more: Sequence[x509.Certificate] = (),
) -> bytes:
    certificates = [one.certificate for one in signers if isinstance(one, SignerOf) and one.certificate is not None]
    bag = [one.public_bytes(Encoding.DER) for one in (*certificates, *more)]
    digests = {one.digest if isinstance(one, SignerOf) else "sha256" for one in signers}
    signed_data = seq(
        integer(3),
        set_of(*(seq(oid(HASH_OIDS[digest]), NULL) for digest in digests)),
        seq(oid(content_type), core_explicit(0xA0, octets(content))),
        *([retag(0xA0, set_of(*bag))] if bag else []),
        set_of(*(one.info(content, content_type) for one in signers)),
    )
    return seq(oid(SIGNED_DATA), core_explicit(0xA0, signed_data))


# ---------------------------------------------------------------------- what comes back


@dataclass(frozen=True, slots=True)
class Said:
    """One CMCStatusInfoV2."""

    status: int
    body_parts: tuple[int, ...]
    text: str
    fail_info: int | None
    token: bytes | None


@dataclass(frozen=True, slots=True)
class Reply:
    """A Full PKI Response, verified, or a Simple one."""

    full: bool
    said: tuple[Said, ...]
    controls: dict[str, tuple[bytes, ...]] = field(repr=False)  # of other types: their values
    certificates: tuple[x509.Certificate, ...] = field(repr=False)
    crls: tuple[x509.CertificateRevocationList, ...] = field(repr=False)

    def about(self, body_part: int) -> Said:
        [found] = [each for each in self.said if body_part in each.body_parts]
        return found

    def certificate_of(self, key: Key) -> x509.Certificate:
        [found] = [
            each
            for each in self.certificates
            if each.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == spki(key)
        ]
        return found


def read_reply(body: bytes, *, by: x509.Certificate | None = None) -> Reply:
    """The base64 body of a response; a full one has to be signed by `by`, or by the authority that is in it."""
    der = base64.b64decode(body)
    parsed = cms.ContentInfo.load(der, strict=True)["content"]
    certificates = tuple(x509.load_der_x509_certificate(each.dump()) for each in parsed["certificates"] or ())
    crls = tuple(x509.load_der_x509_crl(each.dump()) for each in parsed["crls"] or ())
    if not parsed["signer_infos"]:
        return Reply(False, (), {}, certificates, crls)
    [signer] = parsed["signer_infos"]
    content = bytes(parsed["encap_content_info"]["content"].native)
    assert parsed["encap_content_info"]["content_type"].dotted == PKI_RESPONSE
    attributes = {each["type"].dotted: each["values"][0] for each in signer["signed_attrs"]}
    assert attributes[MESSAGE_DIGEST].native == hashlib.sha256(content).digest()
    assert attributes[CONTENT_TYPE].dotted == PKI_RESPONSE
    [serial] = {signer["sid"].chosen["serial_number"].native}
    [named] = [each for each in certificates if each.serial_number == serial]
    assert named.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value == x509.ExtendedKeyUsage([CMC_RA])
    assert by in {None, named}
    key = named.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    key.verify(signer["signature"].native, retag(0x31, signer["signed_attrs"].dump()), padding.PKCS1v15(), hashes.SHA256())
    said: list[Said] = []
    controls: dict[str, tuple[bytes, ...]] = {}
    for each in children(children(content)[0]):
        _, kind, values = children(each)
        dotted = core.ObjectIdentifier.load(kind).dotted
        if dotted == STATUS_INFO_V2:
            said.append(_said(children(values)[0]))
        else:
            controls[dotted] = (*controls.get(dotted, ()), *children(values))
    return Reply(True, tuple(said), controls, certificates, crls)


def open_challenge(value: bytes, key: rsa.RSAPrivateKey) -> tuple[bytes, bytes]:
    """EncryptedPOP (§6.7) to the POP Proof Value and the request that it is for, once the witness has shown that it is right."""
    request, enveloped, mac, _, witness = children(value)
    assert core.ObjectIdentifier.load(children(mac)[0]).dotted == HMAC_SHA256
    inside = cms.ContentInfo.load(enveloped, strict=True)["content"]
    [recipient] = inside["recipient_infos"]
    assert recipient.chosen["rid"].chosen.native == key_identifier(key)
    content_key = key.decrypt(recipient.chosen["encrypted_key"].native, padding.PKCS1v15())
    encrypted = inside["encrypted_content_info"]
    iv = encrypted["content_encryption_algorithm"].encryption_iv
    context = Cipher(algorithms.AES(content_key), modes.CBC(iv)).decryptor()
    padded = context.update(encrypted["encrypted_content"].native) + context.finalize()
    proof_value = padded[: -padded[-1]]
    assert core.OctetString.load(witness).native == hashlib.sha256(proof_value).digest()
    return proof_value, request


def verify_with_openssl(body: bytes, by: x509.Certificate, folder: Path) -> None:
    anchor = folder / "ra.pem"
    anchor.write_bytes(by.public_bytes(Encoding.PEM))
    checks = ("-inform", "der", "-CAfile", anchor, "-purpose", "any", "-binary", "-no_check_time")
    openssl("cms", "-verify", *checks, stdin=base64.b64decode(body))


def _said(value: bytes) -> Said:
    status, parts, *rest = children(value)
    words = [each for each in rest if each[0] == 0x0C]
    fail = [each for each in rest if each[0] == 0x02]
    pending = [each for each in rest if each[0] == 0x30]
    return Said(
        status=core.Integer.load(status).native,
        body_parts=tuple(core.Integer.load(each).native for each in children(parts)),
        text=core.UTF8String.load(words[0]).native if words else "",
        fail_info=core.Integer.load(fail[0]).native if fail else None,
        token=core.OctetString.load(children(pending[0])[0]).native if pending else None,
    )
