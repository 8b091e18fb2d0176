"""Who may sign a message, and how they are found (RFC 5652 §5, RFC 5753, RFC 8419, RFC 5272 §3.2): by `openssl` and by hand."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, pkcs7
from cryptography.x509.oid import NameOID

from pki.cms.errors import CmsError, CmsProblem
from pki.cms.fields import integer, octet_string, oid, sequence, set_of, tlv
from pki.cms.signatures import SignerKey, signer_key
from pki.cms.signed import (
    SignedMessage,
    certificates_only,
    check_digest,
    parse_message,
    parse_signed,
    sign,
    verify,
    verify_message,
)
from pki.cms.types import PKI_DATA, PKI_RESPONSE, Digest, read_certificate
from tests.helpers.scep import END, START, openssl

CONTENT = b"what was meant" * 20
PKI_DATA_OID = "1.3.6.1.5.5.7.12.2"
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agent")])
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

RSA = rsa.generate_private_key(65537, 2048)
P256, P384, P521 = (ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()))
ED25519 = ed25519.Ed25519PrivateKey.generate()


def spki(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def identifier(key: PrivateKey) -> bytes:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest


def certificate(key: PrivateKey, serial: int = 7) -> bytes:
    return (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(START)
        .not_valid_after(END)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(P256, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


def by_openssl(folder: Path, key: PrivateKey, *options: str, digest: str = "sha256") -> bytes:
    (folder / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "crt").write_bytes(x509.load_der_x509_certificate(certificate(key)).public_bytes(Encoding.PEM))
    usual = ("-nodetach", "-binary", "-outform", "der", "-md", digest, "-econtent_type", PKI_DATA_OID)
    signer = ("-signer", folder / "crt", "-inkey", folder / "key")
    return openssl("cms", "-sign", *usual, *signer, *options, stdin=CONTENT)


def by_hand(
    key: PrivateKey,
    *,
    digest: Digest = Digest.SHA256,
    algorithm: bytes | None = None,
    signature: bytes | None = None,
    attribute_type: bytes = PKI_DATA,
    digested: bytes = CONTENT,
    infos: int = 1,
    bag: tuple[bytes, ...] = (),
    digest_oid: str = "2.16.840.1.101.3.4.2.1",
    attributes: bool = True,
) -> bytes:
    """A message whose signer is named by key identifier."""
    signed = set_of(
        [
            sequence(oid("1.2.840.113549.1.9.3"), set_of([attribute_type])),
            sequence(oid("1.2.840.113549.1.9.4"), set_of([octet_string(hashlib.new(digest.value, digested).digest())])),
        ]
    )
    match key:
        case rsa.RSAPrivateKey():
            kind, made = "1.2.840.113549.1.1.1", key.sign(signed, padding.PKCS1v15(), digest.algorithm)
        case ec.EllipticCurvePrivateKey():
            kind, made = "1.2.840.10045.4.3.2", key.sign(signed, ec.ECDSA(digest.algorithm))
        case ed25519.Ed25519PrivateKey():
            kind, made = "1.3.101.112", key.sign(signed)
    info = sequence(
        integer(3),
        tlv(0x80, identifier(key)),
        sequence(oid(digest_oid)),
        b"\xa0" + signed[1:] if attributes else b"",
        algorithm or sequence(oid(kind)),
        octet_string(made if signature is None else signature),
    )
    data = sequence(
        integer(3),
        tlv(0x31),
        sequence(PKI_DATA, tlv(0xA0, octet_string(CONTENT))),
        tlv(0xA0, *bag) if bag else b"",
        tlv(0x31, *[info] * infos),
    )
    return sequence(oid("1.2.840.113549.1.7.2"), tlv(0xA0, data))


def key_of(message: SignedMessage) -> SignerKey:
    found = message.signer_certificate()
    assert found is not None
    return signer_key(found.spki)


def problem(data: bytes, key: PrivateKey) -> CmsProblem:
    with pytest.raises(CmsError) as caught:
        verify_message(parse_message(data), signer_key(spki(key)))
    return caught.value.problem


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("key", "digest"),
    [
        pytest.param(RSA, "sha256", id="RSA"),
        pytest.param(RSA, "sha512", id="RSA-SHA512"),
        pytest.param(P256, "sha256", id="P-256"),
        pytest.param(P384, "sha384", id="P-384"),
        pytest.param(P521, "sha512", id="P-521"),
        pytest.param(P256, "sha512", id="P-256-SHA512"),
    ],
)
@pytest.mark.parametrize("by_key", [(), ("-keyid",)], ids=["by issuer", "by key identifier"])
def test_what_openssl_signs_is_verified(key: PrivateKey, digest: str, by_key: tuple[str, ...], tmp_path: Path) -> None:
    message = parse_message(by_openssl(tmp_path, key, *by_key, digest=digest))
    assert (message.content_type, message.content) == (PKI_DATA, CONTENT)
    verify_message(message, key_of(message))
    info = message.signer_info
    assert info is not None
    assert info.digest.value == digest
    assert info.key_identifier == (identifier(key) if by_key else None)
    assert info.issuer_and_serial == (None if by_key else (NAME.public_bytes(), 7))
    assert not info.proves_nothing


def test_rsassa_pss_is_verified(tmp_path: Path) -> None:
    message = parse_message(by_openssl(tmp_path, RSA, "-keyopt", "rsa_padding_mode:pss"))
    verify_message(message, key_of(message))


def test_ber_of_indefinite_length_is_verified(tmp_path: Path) -> None:
    data = by_openssl(tmp_path, P256, "-stream")
    assert data[:2] == b"\x30\x80"
    message = parse_message(data)
    verify_message(message, key_of(message))


@pytest.mark.parametrize("digest", [Digest.SHA512, Digest.SHA256])
def test_an_ed25519_signature_covers_the_attributes_as_they_are(digest: Digest) -> None:
    """RFC 8419 §3.1; the digest is the content's only."""
    name = {Digest.SHA512: "2.16.840.1.101.3.4.2.3", Digest.SHA256: "2.16.840.1.101.3.4.2.1"}[digest]
    message = parse_message(by_hand(ED25519, digest=digest, digest_oid=name))
    verify_message(message, signer_key(spki(ED25519)))


@pytest.mark.parametrize(
    ("key", "text"),
    [
        pytest.param(ec.generate_private_key(ec.SECP256K1()).public_key(), "secp256k1", id="another curve"),
        pytest.param(rsa.RSAPublicNumbers(65537, (1 << 8200) + 1).public_key(), "8201 bits", id="a long RSA key"),
        pytest.param(x25519.X25519PrivateKey.generate().public_key(), "neither RSA", id="X25519"),
    ],
)
def test_keys_that_are_not_served_are_named(
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | x25519.X25519PublicKey, text: str
) -> None:
    with pytest.raises(CmsError, match=text) as caught:
        signer_key(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    assert caught.value.problem is CmsProblem.KEY


def test_what_is_no_key_is_a_typed_error() -> None:
    with pytest.raises(CmsError) as caught:
        signer_key(b"\x30\x00")
    assert caught.value.problem is CmsProblem.KEY


# ---------------------------------------------------------------- where the signer is


def test_the_signers_certificate_may_be_one_that_we_know(tmp_path: Path) -> None:
    message = parse_message(by_openssl(tmp_path, P256, "-nocerts"))
    assert message.certificates == ()
    assert message.signer_certificate() is None
    assert message.signer_certificate([certificate(P384, serial=9), certificate(P256, serial=8)]) is None
    found = message.signer_certificate([certificate(RSA, serial=9), certificate(P256)])
    assert found is not None
    assert found.spki == spki(P256)
    verify_message(message, signer_key(found.spki))


def test_a_bare_key_identifier_is_enough_for_whoever_knows_the_key(tmp_path: Path) -> None:
    """RFC 5272 §3.2: "The subjectKeyIdentifier form of the signerIdentifier in SignerInfo MUST be used"."""
    message = parse_message(by_openssl(tmp_path, P256, "-nocerts", "-keyid"))
    assert message.signer_info is not None
    assert message.signer_info.key_identifier == identifier(P256)
    verify_message(message, signer_key(spki(P256)))


def test_scep_goes_on_to_want_an_rsa_signer_whose_certificate_is_in_the_message(tmp_path: Path) -> None:
    verify(parse_signed(by_openssl(tmp_path, RSA)))
    with pytest.raises(CmsError) as caught:
        parse_signed(by_openssl(tmp_path, RSA, "-nocerts"))
    assert caught.value.problem is CmsProblem.SIGNER
    with pytest.raises(CmsError) as caught:
        verify(parse_signed(by_openssl(tmp_path, P256)))
    assert caught.value.problem is CmsProblem.ALGORITHM


# ---------------------------------------------------------------- nobody, and nothing


def test_nobody_signed_it() -> None:
    """RFC 5272 §6.11: "a SignedData with no signatures", for a revocation by shared secret."""
    message = parse_message(by_hand(P256, infos=0))
    assert message.signer_info is None
    assert message.content == CONTENT
    assert problem(by_hand(P256, infos=0), P256) is CmsProblem.SIGNER
    with pytest.raises(CmsError) as caught:
        check_digest(message)
    assert caught.value.problem is CmsProblem.SIGNER


NO_SIGNATURE = sequence(oid("1.3.6.1.5.5.7.6.2"), b"\x05\x00")


def test_no_signature_is_told_from_a_signature() -> None:
    """RFC 5272 Appendix C.1: "The hash value given by NoSignatureValue SHOULD be ignored"."""
    message = parse_message(by_hand(RSA, algorithm=NO_SIGNATURE, signature=b"whatever"))
    assert message.signer_info is not None
    assert message.signer_info.proves_nothing
    check_digest(message)


def test_no_signature_may_be_without_signed_attributes() -> None:
    """There is nothing that they could be signed by; everybody else has to have them (RFC 5652 §5.3)."""
    unsigned = parse_message(by_hand(RSA, algorithm=NO_SIGNATURE, attributes=False))
    assert unsigned.signer_info is not None
    assert unsigned.signer_info.attributes == {}
    check_digest(unsigned)
    assert problem(by_hand(RSA, algorithm=NO_SIGNATURE, attributes=False), RSA) is CmsProblem.ALGORITHM
    assert problem(by_hand(RSA, attributes=False), RSA) is CmsProblem.ATTRIBUTE


def test_no_signature_never_verifies() -> None:
    assert problem(by_hand(RSA, algorithm=NO_SIGNATURE), RSA) is CmsProblem.ALGORITHM
    assert problem(by_hand(P256, algorithm=NO_SIGNATURE), P256) is CmsProblem.ALGORITHM
    assert problem(by_hand(ED25519, algorithm=NO_SIGNATURE), ED25519) is CmsProblem.ALGORITHM


def test_without_a_signature_the_content_is_still_the_one_that_was_sent() -> None:
    with pytest.raises(CmsError) as caught:
        check_digest(parse_message(by_hand(RSA, algorithm=NO_SIGNATURE, digested=b"other")))
    assert caught.value.problem is CmsProblem.DIGEST


# ---------------------------------------------------------------- pretending


@pytest.mark.parametrize("key", [RSA, P256, ED25519], ids=["RSA", "EC", "Ed25519"])
def test_another_key_has_not_signed(key: PrivateKey) -> None:
    others: dict[type, PrivateKey] = {
        rsa.RSAPrivateKey: rsa.generate_private_key(65537, 2048),
        ec.EllipticCurvePrivateKey: ec.generate_private_key(ec.SECP256R1()),
        ed25519.Ed25519PrivateKey: ed25519.Ed25519PrivateKey.generate(),
    }
    other = next(one for kind, one in others.items() if isinstance(key, kind))
    assert problem(by_hand(key), key=other) is CmsProblem.SIGNATURE


@pytest.mark.parametrize("key", [RSA, P256, ED25519], ids=["RSA", "EC", "Ed25519"])
@pytest.mark.parametrize("signature", [b"", b"\0", b"\xff" * 64, b"\x30\x00"], ids=["empty", "zero", "noise", "hollow"])
def test_what_is_no_signature_is_a_typed_error(key: PrivateKey, signature: bytes) -> None:
    assert problem(by_hand(key, signature=signature), key) is CmsProblem.SIGNATURE


@pytest.mark.parametrize("key", [RSA, P256, ED25519], ids=["RSA", "EC", "Ed25519"])
def test_content_and_its_type_are_those_that_were_signed(key: PrivateKey) -> None:
    assert problem(by_hand(key, digested=b"other"), key) is CmsProblem.DIGEST
    assert problem(by_hand(key, attribute_type=PKI_RESPONSE), key) is CmsProblem.ATTRIBUTE


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        pytest.param(P256, "1.2.840.10045.4.3.4", id="ECDSA with another digest"),
        pytest.param(P256, "1.2.840.10045.4.1", id="ECDSA with SHA-1"),
        pytest.param(P256, "1.2.840.113549.1.1.11", id="RSA for an EC key"),
        pytest.param(RSA, "1.2.840.10045.4.3.2", id="ECDSA for an RSA key"),
        pytest.param(ED25519, "1.3.101.113", id="Ed448"),
    ],
)
def test_an_algorithm_that_does_not_fit_key_and_digest_is_named(key: PrivateKey, algorithm: str) -> None:
    message = parse_message(by_hand(key, algorithm=sequence(oid(algorithm))))
    with pytest.raises(CmsError, match=algorithm) as caught:
        verify_message(message, signer_key(spki(key)))
    assert caught.value.problem is CmsProblem.ALGORITHM


def test_two_signers_are_one_too_many() -> None:
    with pytest.raises(CmsError, match="2 signers") as caught:
        parse_message(by_hand(P256, infos=2))
    assert caught.value.problem is CmsProblem.SIGNER


def test_authenticated_data_is_told_from_noise() -> None:
    """RFC 5272 §3.2 allows it; a password recipient is nothing that we do."""
    with pytest.raises(CmsError, match="AuthenticatedData") as caught:
        parse_message(sequence(oid("1.2.840.113549.1.9.16.1.2"), tlv(0xA0, sequence(integer(0)))))
    assert caught.value.problem is CmsProblem.STRUCTURE


def test_an_unread_certificate_that_is_none_is_a_typed_error() -> None:
    message = parse_message(by_hand(P256, bag=(sequence(),)))
    with pytest.raises(CmsError):
        message.signer_certificate()


# ---------------------------------------------------------------- what we write


def crl() -> bytes:
    builder = x509.CertificateRevocationListBuilder().issuer_name(NAME).last_update(START).next_update(END)
    return builder.sign(P256, hashes.SHA256()).public_bytes(Encoding.DER)


async def test_a_pki_response_with_its_certificates_is_verified_by_openssl(tmp_path: Path) -> None:
    async def signature(data: bytes, digest: Digest) -> bytes:
        return RSA.sign(data, padding.PKCS1v15(), digest.algorithm)

    ours = certificate(RSA)
    data = await sign(
        CONTENT,
        [],
        certificate=read_certificate(ours),
        digest=Digest.SHA256,
        signature=signature,
        content_type=PKI_RESPONSE,
        others=[certificate(P256, serial=2**150), ours],
        crls=[crl()],
    )
    (tmp_path / "crt").write_bytes(x509.load_der_x509_certificate(ours).public_bytes(Encoding.PEM))
    options = ("-inform", "der", "-noverify", "-binary", "-certsout", tmp_path / "bag")
    assert openssl("cms", "-verify", *options, stdin=data) == CONTENT
    assert len(x509.load_pem_x509_certificates((tmp_path / "bag").read_bytes())) == 2
    printed = openssl("cms", "-cmsout", "-print", "-inform", "der", stdin=data).decode()
    assert "eContentType: id-smime-cct-PKIResponse" in printed or "1.3.6.1.5.5.7.12.3" in printed
    assert "CertificateList" in printed or "crls" in printed
    message = parse_message(data)
    verify_message(message, key_of(message))
    assert message.content_type == PKI_RESPONSE


def test_certs_only_is_what_cryptography_writes() -> None:
    certificates = [certificate(RSA), certificate(P256, serial=2**150), certificate(P521)]
    theirs = pkcs7.serialize_certificates([x509.load_der_x509_certificate(each) for each in certificates], Encoding.DER)
    assert certificates_only(certificates) == theirs


def test_certs_only_may_carry_a_crl() -> None:
    printed = openssl("pkcs7", "-inform", "der", "-print_certs", stdin=certificates_only([certificate(RSA)], [crl()])).decode()
    assert printed.count("BEGIN CERTIFICATE") == 1
    assert printed.count("BEGIN X509 CRL") == 1
    assert (
        openssl("pkcs7", "-inform", "der", "-print_certs", stdin=certificates_only([], [crl()])).count(b"BEGIN X509 CRL") == 1
    )
