"""SCEP by other code than ours: an RSA CA with a registration authority, and its clients.

Messages are encoded by asn1crypto's primitives and encrypted and signed by `cryptography`; answers are verified and decrypted by
the `openssl` command line. Every knob of a message can be turned wrong.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asn1crypto import cms as asn1_cms
from asn1crypto import core
from asn1crypto.parser import emit, parse
from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_public_key,
)
from cryptography.x509.oid import AttributeOID, NameOID

from issuance.request import IssuanceRequest
from scep.endpoint import Authority, ScepEndpoint

SECRET = "correct horse"
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
END = START + dt.timedelta(days=3650)

HASHES: dict[str, hashes.HashAlgorithm] = {
    "md5": hashes.MD5(),  # noqa: S303  # what old devices send
    "sha1": hashes.SHA1(),  # noqa: S303  # what old devices send
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
HASH_OIDS = {
    "md5": "1.2.840.113549.2.5",
    "sha1": "1.3.14.3.2.26",
    "sha256": "2.16.840.1.101.3.4.2.1",
    "sha384": "2.16.840.1.101.3.4.2.2",
    "sha512": "2.16.840.1.101.3.4.2.3",
}
CIPHERS = {  # name -> OID, key octets, block octets
    "aes-128-cbc": ("2.16.840.1.101.3.4.1.2", 16, 16),
    "aes-192-cbc": ("2.16.840.1.101.3.4.1.22", 24, 16),
    "aes-256-cbc": ("2.16.840.1.101.3.4.1.42", 32, 16),
    "des-ede3-cbc": ("1.2.840.113549.3.7", 24, 8),
    "des-cbc": ("1.3.14.3.2.7", 8, 8),
}
VERISIGN = "2.16.840.1.113733.1.9."
MESSAGE_TYPE, PKI_STATUS, FAIL_INFO, SENDER_NONCE, RECIPIENT_NONCE, TRANSACTION_ID = (f"{VERISIGN}{n}" for n in range(2, 8))
FAIL_INFO_TEXT = "1.3.6.1.5.5.7.24.1"
CONTENT_TYPE, MESSAGE_DIGEST = "1.2.840.113549.1.9.3", "1.2.840.113549.1.9.4"
DATA, SIGNED_DATA, ENVELOPED_DATA = (f"1.2.840.113549.1.7.{n}" for n in (1, 2, 3))


@functools.cache
def rsa_key(label: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """The same key for the same label: making one costs more than most tests."""
    return rsa.generate_private_key(65537, bits)


def name(common_name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Proto"), x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    )


def der_of(thing: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    return thing.public_bytes(Encoding.DER)


def pem_of(thing: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    return thing.public_bytes(Encoding.PEM)


def key_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def certificate(
    subject: str,
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    issuer: str,
    issuer_key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    *,
    usage: str = "",
    serial: int | None = None,
    ca: bool = False,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(public_key)
        .serial_number(x509.random_serial_number() if serial is None else serial)
        .not_valid_before(START)
        .not_valid_after(END)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=usage == "ra",
                key_encipherment=usage == "ra",
                key_cert_sign=ca,
                crl_sign=ca,
                content_commitment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            )
            if usage
            else x509.SubjectAlternativeName([x509.DNSName(f"{subject.lower()}.example.com")]),
            critical=bool(usage),
        )
    )
    return builder.sign(issuer_key, hashes.SHA256())


@dataclass(slots=True)
class ScepCa:
    """A root that is also the issuing CA, with an RA of its own."""

    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa_key("ca"), repr=False)
    ra_key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa_key("ra"), repr=False)
    certificate: x509.Certificate = field(init=False)
    ra: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        self.certificate = certificate("Test CA", self.key.public_key(), "Test CA", self.key, usage="ca", ca=True)
        self.ra = certificate("Test RA", self.ra_key.public_key(), "Test CA", self.key, usage="ra")

    def endpoint(self, *, name: str = "default", legacy: Sequence[str] = (), include_root: bool = False) -> ScepEndpoint:
        return ScepEndpoint(
            name=name,
            profile="device",
            issuer="issuing",
            ca_certificates=(der_of(self.certificate),),
            signing=Authority("ra", der_of(self.ra)),
            decryption=Authority("ra", der_of(self.ra)),
            include_root=include_root,
            legacy=frozenset(legacy),
        )

    def leaf(self, request: IssuanceRequest) -> x509.Certificate:
        key = load_der_public_key(request.csr.spki)
        assert isinstance(key, rsa.RSAPublicKey)
        return certificate(request.common_name or "-", key, "Test CA", self.key)


# ---------------------------------------------------------------- the client's side


def csr(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    *,
    common_name: str = "dev1",
    challenge: str | None = SECRET,
    sans: Sequence[str] = ("dev1.example.com",),
) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(name(common_name))
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(san) for san in sans]), critical=False)
    if challenge is not None:
        builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, challenge.encode())
    return der_of(builder.sign(key, hashes.SHA256()))


def legacy_csr(key: rsa.RSAPrivateKey, digest: str, folder: Path) -> bytes:
    """Signed with a digest that `cryptography` does not sign with any more; with the right challenge."""
    configuration, private = folder / "req.cnf", folder / "req.key"
    configuration.write_text(
        "[req]\nprompt=no\ndistinguished_name=dn\nattributes=att\nreq_extensions=ext\n"
        f"[dn]\nO=Proto\nCN=dev1\n[att]\nchallengePassword={SECRET}\n[ext]\nsubjectAltName=DNS:dev1.example.com\n"
    )
    private.write_bytes(key_pem(key))
    return openssl("req", "-new", "-config", configuration, "-key", private, f"-{digest}", "-outform", "der")


def self_signed(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, common_name: str = "dev1") -> x509.Certificate:
    return certificate(common_name, key.public_key(), common_name, key)


def seq(*parts: bytes) -> bytes:
    return bytes(emit(0, 1, 16, b"".join(parts)))


def children(element: bytes) -> list[bytes]:
    """The parts of a constructed element, by asn1crypto's parser."""
    content = bytes(parse(element)[4])
    found = []
    while content:
        _, _, _, header, value, trailer = parse(content, strict=False)
        found.append(bytes(header + value + trailer))
        content = content[len(found[-1]) :]
    return found


def asn1_content(data: bytes) -> bytes:
    """The structure inside a ContentInfo."""
    return children(children(data)[1])[0]


def retag(tag: int, element: bytes) -> bytes:
    return bytes((tag,)) + element[1:]


def oid(dotted: str) -> bytes:
    return bytes(core.ObjectIdentifier(dotted).dump())


def octets(content: bytes) -> bytes:
    return bytes(core.OctetString(content).dump())


def printable(text: str) -> bytes:
    return bytes(core.PrintableString(text).dump())


def integer(value: int) -> bytes:
    return bytes(core.Integer(value).dump())


NULL = bytes(core.Null().dump())


def set_of(*parts: bytes, ordered: bool = True) -> bytes:
    return retag(0x31, seq(*(sorted(parts) if ordered else parts)))


def explicit(element: bytes, number: int = 0) -> bytes:
    return retag(0xA0 + number, seq(element))


def attribute(identifier: str, *values: bytes) -> bytes:
    return seq(oid(identifier), set_of(*values))


def issuer_and_serial(of: x509.Certificate) -> bytes:
    return seq(of.issuer.public_bytes(), integer(of.serial_number))


def encrypt_content(plain: bytes, cipher: str, key: bytes, iv: bytes) -> bytes:
    block = CIPHERS[cipher][2]
    count = block - len(plain) % block
    algorithm = algorithms.AES(key) if block == 16 else TripleDES(key * 3 if len(key) == 8 else key)
    context = Cipher(algorithm, modes.CBC(iv)).encryptor()
    return context.update(plain + bytes([count]) * count) + context.finalize()


def enveloped(
    plain: bytes,
    recipient: x509.Certificate,
    *,
    cipher: str = "aes-128-cbc",
    cek: bytes | None = None,
    encrypted_key: bytes | None = None,
    ciphertext: bytes | None = None,
    transport: str = "1.2.840.113549.1.1.1",
    transport_parameters: bytes = NULL,
    scheme: padding.AsymmetricPadding = padding.PKCS1v15(),  # noqa: B008  # it has no state
    before: Sequence[bytes] = (),
    after: Sequence[bytes] = (),
    rid: bytes | None = None,
) -> bytes:
    """An EnvelopedData; whatever is given replaces what would be right. `before` and `after` are further RecipientInfos."""
    identifier, key_length, block = CIPHERS[cipher]
    key, iv = os.urandom(key_length), os.urandom(block)
    public_key = recipient.public_key()
    assert isinstance(public_key, rsa.RSAPublicKey)
    wrapped = public_key.encrypt(key if cek is None else cek, scheme) if encrypted_key is None else encrypted_key
    info = seq(
        integer(0),
        issuer_and_serial(recipient) if rid is None else rid,
        seq(oid(transport), transport_parameters),
        octets(wrapped),
    )
    body = encrypt_content(plain, cipher, key, iv) if ciphertext is None else ciphertext
    content = seq(oid(DATA), seq(oid(identifier), octets(iv)), retag(0x80, octets(body)))
    data = seq(integer(0), set_of(*before, info, *after, ordered=False), content)
    return seq(oid(ENVELOPED_DATA), explicit(data))


@dataclass(slots=True)
class Message:
    """A PKCSReq by an honest client; a test turns what it wants wrong, then calls `encode`."""

    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = field(default_factory=lambda: rsa_key("device"), repr=False)
    signer: x509.Certificate | None = None
    content: bytes = field(default=b"", repr=False)
    message_type: str | None = "19"
    transaction_id: str | None = "TX-1"
    nonce: bytes | None = b"n" * 16
    digest: str = "sha256"
    signature_algorithm: bytes | None = None
    pss: bool = False
    extra_attributes: Sequence[bytes] = ()
    sorted_attributes: bool = True
    signers: int = 1
    bag: Sequence[bytes] | None = None
    content_digest: bytes | None = None
    sid: bytes | None = None
    signature: bytes | None = None

    def certificate(self) -> x509.Certificate:
        if self.signer is None:
            self.signer = self_signed(self.key)
        return self.signer

    def attributes(self) -> list[bytes]:
        found = [
            attribute(CONTENT_TYPE, oid(DATA)),
            attribute(MESSAGE_DIGEST, octets(self.content_digest or hashlib.new(self.digest, self.content).digest())),
            *self.extra_attributes,
        ]
        if self.message_type is not None:
            found.append(attribute(MESSAGE_TYPE, printable(self.message_type)))
        if self.transaction_id is not None:
            found.append(attribute(TRANSACTION_ID, printable(self.transaction_id)))
        if self.nonce is not None:
            found.append(attribute(SENDER_NONCE, octets(self.nonce)))
        return found

    def _sign(self, data: bytes) -> tuple[bytes, bytes]:
        algorithm = HASHES[self.digest]
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            return seq(oid("1.2.840.10045.4.3.2")), self.key.sign(data, ec.ECDSA(algorithm))
        if self.pss:
            hashing = seq(oid(HASH_OIDS[self.digest]), NULL)
            mask = seq(oid("1.2.840.113549.1.1.8"), hashing)
            parameters = seq(explicit(hashing, 0), explicit(mask, 1), explicit(integer(32), 2))
            scheme = padding.PSS(padding.MGF1(algorithm), 32)
            return seq(oid("1.2.840.113549.1.1.10"), parameters), self.key.sign(data, scheme, algorithm)
        return seq(oid("1.2.840.113549.1.1.1"), NULL), self.key.sign(data, padding.PKCS1v15(), algorithm)

    def encode(self) -> bytes:
        signer = self.certificate()
        attributes = set_of(*self.attributes(), ordered=self.sorted_attributes)
        algorithm, signature = self._sign(attributes)
        digest = seq(oid(HASH_OIDS[self.digest]), NULL)
        info = seq(
            integer(1),
            self.sid or issuer_and_serial(signer),
            digest,
            retag(0xA0, attributes),
            self.signature_algorithm or algorithm,
            octets(self.signature or signature),
        )
        bag = [der_of(signer)] if self.bag is None else self.bag
        data = seq(
            integer(1),
            set_of(digest),
            seq(oid(DATA), explicit(octets(self.content))),
            *([retag(0xA0, set_of(*bag, ordered=False))] if bag else []),
            set_of(*([info] * self.signers)),
        )
        return seq(oid(SIGNED_DATA), explicit(data))


def pkcs_req(
    ca: ScepCa, *, key: rsa.RSAPrivateKey | None = None, cipher: str = "aes-128-cbc", **csr_options: str | None
) -> Message:
    """An honest PKCSReq to the CA's RA, from the device's key."""
    device = key or rsa_key("device")
    request = csr(device, **csr_options)  # type: ignore[arg-type]  # only the text options are given through
    return Message(key=device, content=enveloped(request, ca.ra, cipher=cipher))


# ---------------------------------------------------------------- reading answers with other code


@dataclass(frozen=True, slots=True)
class Answer:
    """A CertRep whose signature `openssl cms -verify` has verified down to the CA."""

    der: bytes = field(repr=False)
    status: str
    fail_info: str | None
    text: str | None
    transaction_id: str
    message_type: str
    sender_nonce: bytes
    recipient_nonce: bytes
    digest: str
    content: bytes = field(repr=False)
    bag: tuple[bytes, ...] = field(repr=False)


def openssl(*arguments: str | Path, stdin: bytes = b"") -> bytes:
    result = subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, check=False, timeout=30)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout


def read_answer(der: bytes, ca: ScepCa, folder: Path) -> Answer:
    anchor = folder / "ca.pem"
    anchor.write_bytes(pem_of(ca.certificate))
    content = openssl("cms", "-verify", "-inform", "der", "-CAfile", anchor, "-purpose", "any", "-binary", stdin=der)
    return parse_answer(der, content)


def parse_answer(der: bytes, content: bytes | None = None) -> Answer:
    """The same without verification, for tests that look at many answers."""
    signed = asn1_cms.ContentInfo.load(der, strict=True)["content"]
    info = signed["signer_infos"][0]
    found: dict[str, core.Asn1Value] = {}
    for each in info["signed_attrs"]:
        (value,) = each["values"]
        found[each["type"].dotted] = value if not isinstance(value, core.Any) else core.load(value.dump())

    def text(identifier: str, kind: type = core.PrintableString) -> str:
        value = found[identifier]
        parsed = value.parse(kind) if isinstance(value, core.Any) else value
        assert isinstance(parsed, kind), identifier  # sscep exits on any other tag
        return str(parsed.native)  # type: ignore[attr-defined]  # asn1crypto ships no types

    return Answer(
        der=der,
        status=text(PKI_STATUS),
        fail_info=text(FAIL_INFO) if FAIL_INFO in found else None,
        text=text(FAIL_INFO_TEXT, core.UTF8String) if FAIL_INFO_TEXT in found else None,
        transaction_id=text(TRANSACTION_ID),
        message_type=text(MESSAGE_TYPE),
        sender_nonce=found[SENDER_NONCE].native,
        recipient_nonce=found[RECIPIENT_NONCE].native,
        digest=info["digest_algorithm"]["algorithm"].native,
        content=signed["encap_content_info"]["content"].native if content is None else content,
        bag=tuple(each.chosen.dump() for each in signed["certificates"]),
    )


def opened_certificates(answer: Answer, message: Message, folder: Path) -> list[x509.Certificate]:
    """The certificates in a SUCCESS, decrypted by openssl with the device's key."""
    key, recipient = folder / "device.key", folder / "device.pem"
    key.write_bytes(key_pem(message.key))
    recipient.write_bytes(pem_of(message.certificate()))
    legacy = ("-provider", "default", "-provider", "legacy")
    plain = openssl(
        "cms", "-decrypt", "-inform", "der", "-inkey", key, "-recip", recipient, "-binary", *legacy, stdin=answer.content
    )
    inner = asn1_cms.ContentInfo.load(plain, strict=True)["content"]
    return [x509.load_der_x509_certificate(each.chosen.dump()) for each in inner["certificates"]]


def content_cipher(answer: Answer) -> str:
    inner = asn1_cms.ContentInfo.load(answer.content, strict=True)["content"]
    identifier = inner["encrypted_content_info"]["content_encryption_algorithm"]["algorithm"].dotted
    return next(cipher for cipher, (oid_, _, _) in CIPHERS.items() if oid_ == identifier)
