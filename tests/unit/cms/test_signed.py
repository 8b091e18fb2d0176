"""SignedData (RFC 5652 §5): who signed what, and all the ways in which a message can pretend."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path

import pytest
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from pki.cms.errors import CmsError, CmsProblem
from pki.cms.fields import dotted, elements, oid, printable_string
from pki.cms.signed import Attribute, certificates_only, parse_signed, sign, verify
from pki.cms.types import MAX_RSA_BITS, Digest, read_certificate
from tests.helpers import scep as other
from tests.helpers.scep import HASHES, Message, certificate, der_of, key_pem, openssl, pem_of, rsa_key, self_signed

CONTENT = b"what was meant" * 100
MESSAGE_TYPE = oid(other.MESSAGE_TYPE)


def honest() -> Message:
    return Message(content=CONTENT)


def problem_of(data: bytes) -> CmsProblem:
    with pytest.raises(CmsError) as caught:
        verify(parse_signed(data))
    return caught.value.problem


def test_what_was_signed_is_read_and_verified() -> None:
    message = honest()
    signed = parse_signed(message.encode())
    assert verify(signed).public_numbers() == rsa_key("device").public_key().public_numbers()
    assert signed.content == CONTENT
    assert signed.attributes[MESSAGE_TYPE].content == b"19"
    assert signed.signer.der == der_of(message.certificate())


@pytest.mark.parametrize("digest", sorted(HASHES))
@pytest.mark.parametrize("pss", [False, True])
def test_rsa_with_every_digest_and_both_paddings_verifies(digest: str, pss: bool) -> None:
    message = honest()
    message.digest, message.pss = digest, pss
    signed = parse_signed(message.encode())
    verify(signed)
    assert signed.digest is Digest(digest)


@pytest.mark.parametrize(
    ("digest", "identifier"),
    [("sha1", "1.2.840.113549.1.1.5"), ("sha256", "1.2.840.113549.1.1.11"), ("sha512", "1.2.840.113549.1.1.13")],
)
def test_the_signature_algorithm_may_name_the_digest_too(digest: str, identifier: str) -> None:
    message = honest()
    message.digest, message.signature_algorithm = digest, other.seq(other.oid(identifier), other.NULL)
    verify(parse_signed(message.encode()))


def test_two_different_digests_in_one_message_are_refused() -> None:
    """A SHA-256 digest with a SHA-1 signature would slip a weak one past the floor."""
    message = honest()
    message.signature_algorithm = other.seq(other.oid("1.2.840.113549.1.1.5"), other.NULL)
    assert problem_of(message.encode()) is CmsProblem.ALGORITHM


@pytest.mark.parametrize(
    ("stream", "pss"),
    [
        pytest.param((), (), id="DER"),
        pytest.param(("-stream",), (), id="indefinite lengths"),
        pytest.param((), ("-keyopt", "rsa_padding_mode:pss"), id="PSS"),  # openssl cannot stream with PSS
    ],
)
@pytest.mark.parametrize("by_key", [pytest.param((), id="issuer"), pytest.param(("-keyid",), id="key identifier")])
def test_what_openssl_signs_is_verified(
    tmp_path: Path, stream: tuple[str, ...], pss: tuple[str, ...], by_key: tuple[str, ...]
) -> None:
    (tmp_path / "key").write_bytes(key_pem(rsa_key("device")))
    (tmp_path / "crt").write_bytes(pem_of(self_signed(rsa_key("device"))))
    options = ("-nodetach", "-binary", "-outform", "der", "-md", "sha256", *stream, *by_key)
    signer = ("-signer", str(tmp_path / "crt"), "-inkey", str(tmp_path / "key"), *pss)
    data = openssl("cms", "-sign", *options, *signer, stdin=CONTENT * 20)
    assert (data[:2] == b"\x30\x80") is bool(stream)
    signed = parse_signed(data)
    verify(signed)
    assert signed.content == CONTENT * 20


async def test_what_we_sign_is_verified_by_openssl_and_by_ourselves(tmp_path: Path) -> None:
    key = rsa_key("device")
    crt = self_signed(key)
    (tmp_path / "crt").write_bytes(pem_of(crt))

    async def signature(data: bytes, digest: Digest) -> bytes:
        return key.sign(data, padding.PKCS1v15(), HASHES[digest.value])

    attributes = [Attribute(MESSAGE_TYPE, printable_string("3"))]
    for digest in (Digest.SHA1, Digest.SHA256, Digest.SHA384, Digest.SHA512):
        data = await sign(CONTENT, attributes, certificate=read_certificate(der_of(crt)), digest=digest, signature=signature)
        arguments: tuple[str | Path, ...] = (
            "cms",
            "-verify",
            "-inform",
            "der",
            "-CAfile",
            tmp_path / "crt",
            "-purpose",
            "any",
            "-binary",
        )
        assert openssl(*arguments, stdin=data) == CONTENT
        signed = parse_signed(data)
        verify(signed)
        assert signed.attributes[MESSAGE_TYPE].content == b"3"


def test_attributes_out_of_order_verify_as_they_were_sent() -> None:
    """Signed in the order in which they were sent, or sent in another order than the DER one that was signed."""
    message = honest()
    message.sorted_attributes = False
    verify(parse_signed(message.encode()))
    attributes = message.attributes()
    assert attributes != sorted(attributes)
    in_order = rsa_key("device").sign(other.set_of(*attributes), padding.PKCS1v15(), hashes.SHA256())
    verify(parse_signed(dataclasses.replace(message, signature=in_order).encode()))


# ---------------------------------------------------------------- pretending


def repeated(name: str, *values: bytes) -> Message:
    message = honest()
    message.extra_attributes = [other.attribute(name, *values)]
    return message


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        pytest.param(lambda: dataclasses.replace(honest(), signers=2), CmsProblem.SIGNER, id="two signers"),
        pytest.param(lambda: dataclasses.replace(honest(), signers=0), CmsProblem.SIGNER, id="no signer"),
        pytest.param(lambda: dataclasses.replace(honest(), bag=[]), CmsProblem.SIGNER, id="no certificate"),
        pytest.param(
            lambda: dataclasses.replace(honest(), bag=[der_of(self_signed(rsa_key("stranger"), "stranger"))]),
            CmsProblem.SIGNER,
            id="somebody else's certificate",
        ),
        pytest.param(
            lambda: repeated(other.TRANSACTION_ID, other.printable("other")), CmsProblem.ATTRIBUTE, id="an attribute twice"
        ),
        pytest.param(
            lambda: repeated("1.2.3.4", other.printable("a"), other.printable("b")),
            CmsProblem.ATTRIBUTE,
            id="two values in one",
        ),
        pytest.param(lambda: repeated("1.2.3.4"), CmsProblem.ATTRIBUTE, id="no value in one"),
        pytest.param(lambda: dataclasses.replace(honest(), content_digest=bytes(32)), CmsProblem.DIGEST, id="another content"),
        pytest.param(lambda: dataclasses.replace(honest(), signature=bytes(256)), CmsProblem.SIGNATURE, id="another signature"),
        pytest.param(lambda: dataclasses.replace(honest(), signature=b"x"), CmsProblem.SIGNATURE, id="a short signature"),
    ],
)
def test_what_pretends_is_refused(message: object, problem: CmsProblem) -> None:
    assert callable(message)
    assert problem_of(message().encode()) is problem


def test_a_signature_by_another_key_than_the_certificates_is_refused() -> None:
    message = honest()
    message.signer = certificate("dev1", rsa_key("stranger").public_key(), "dev1", rsa_key("stranger"))
    assert problem_of(message.encode()) is CmsProblem.SIGNATURE


@pytest.mark.parametrize("missing", [0, 1])
def test_content_type_and_message_digest_must_be_there(missing: int) -> None:
    """RFC 5652 §5.3: both MUST be in signedAttrs."""

    class Without(Message):
        def attributes(self) -> list[bytes]:
            found = super().attributes()
            del found[missing]
            return found

    assert problem_of(Without(content=CONTENT).encode()) is CmsProblem.ATTRIBUTE


# ---------------------------------------------------------------- keys and ugly certificates


def test_an_ec_signer_is_a_key_error_that_names_the_type() -> None:
    message = Message(key=ec.generate_private_key(ec.SECP256R1()), content=CONTENT)
    message.signature_algorithm = other.seq(other.oid("1.2.840.113549.1.1.1"), other.NULL)
    with pytest.raises(CmsError, match="it is EC") as caught:
        verify(parse_signed(message.encode()))
    assert caught.value.problem is CmsProblem.KEY


def forged_key(signer: x509.Certificate, modulus_bits: int, exponent: int) -> bytes:
    """The certificate with its key exchanged for one of these numbers; nobody needs to be able to use it."""
    parsed = asn1_x509.Certificate.load(der_of(signer))
    tbs = parsed["tbs_certificate"]
    numbers = {"modulus": (1 << modulus_bits - 1) + 1, "public_exponent": exponent}
    tbs["subject_public_key_info"]["public_key"] = numbers
    return bytes(parsed.dump(force=True))


@pytest.mark.parametrize(
    ("bits", "exponent"),
    [
        pytest.param(512, 65537, id="512 bits"),
        pytest.param(1023, 65537, id="1023 bits"),
        pytest.param(MAX_RSA_BITS + 8, 65537, id="8200 bits"),
        pytest.param(65536, 65537, id="64k bits"),
        pytest.param(2048, 1, id="e = 1"),
        pytest.param(2048, 2, id="e = 2"),
        pytest.param(2048, (1 << 2046) + 1, id="e as long as n"),
    ],
)
def test_odd_rsa_keys_are_refused_before_any_arithmetic(bits: int, exponent: int) -> None:
    message = honest()
    message.bag = [forged_key(message.certificate(), bits, exponent)]
    assert problem_of(message.encode()) is CmsProblem.KEY


def test_a_version_1_certificate_signed_with_md5_is_a_signer_as_good_as_any(tmp_path: Path) -> None:
    """sscep and old IOS: X.509 v1, MD5, a serial of 254 bits. Only the key matters."""
    (tmp_path / "key").write_bytes(key_pem(rsa_key("device")))
    serial = (1 << 253) + 12345
    request = openssl("req", "-new", "-key", tmp_path / "key", "-subj", "/CN=router", "-md5")
    (tmp_path / "csr").write_bytes(request)
    pem = openssl("x509", "-req", "-in", tmp_path / "csr", "-key", tmp_path / "key", "-md5", "-set_serial", str(serial))
    message = honest()
    message.signer = x509.load_pem_x509_certificate(pem)
    assert message.signer.version is x509.Version.v1
    assert isinstance(message.signer.signature_hash_algorithm, hashes.MD5)
    signed = parse_signed(message.encode())
    verify(signed)
    assert signed.signer.serial == serial


def test_a_critical_authority_key_identifier_is_no_trouble() -> None:
    """Windows writes one in its self-signed signers; strict parsers refuse the whole certificate."""
    key = rsa_key("device")
    crt = (
        x509.CertificateBuilder()
        .subject_name(other.name("win"))
        .issuer_name(other.name("win"))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(other.START)
        .not_valid_after(other.END)
        .add_extension(x509.AuthorityKeyIdentifier(b"id", None, None), critical=True)
        .sign(key, hashes.SHA256())
    )
    message = honest()
    message.signer = crt
    verify(parse_signed(message.encode()))


# ---------------------------------------------------------------- degenerate


def test_certificates_only_is_read_by_openssl() -> None:
    ca = self_signed(rsa_key("ca"), "ca")
    leaf = certificate("leaf", rsa_key("device").public_key(), "ca", rsa_key("ca"))
    data = certificates_only([der_of(leaf), der_of(ca)])
    listed = openssl("pkcs7", "-inform", "der", "-print_certs", stdin=data)
    assert {each.serial_number for each in x509.load_pem_x509_certificates(listed)} == {leaf.serial_number, ca.serial_number}


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"hello", os.urandom(64)], ids=["empty", "empty sequence", "text", "noise"])
def test_what_is_no_signed_data_is_a_typed_error(data: bytes) -> None:
    with pytest.raises(CmsError):
        parse_signed(data)


def test_an_enveloped_data_is_not_mistaken_for_a_signed_one() -> None:
    key = rsa_key("ra")
    with pytest.raises(CmsError, match="not a CMS SignedData") as caught:
        parse_signed(other.enveloped(CONTENT, self_signed(key)))
    assert caught.value.problem is CmsProblem.STRUCTURE


# ---------------------------------------------------------------- RSASSA-PSS parameters (RFC 4055 §3.1)


def pss(*fields: bytes) -> bytes:
    return other.seq(other.oid("1.2.840.113549.1.1.10"), other.seq(*fields))


def digest_algorithm(name: str) -> bytes:
    return other.seq(other.oid(other.HASH_OIDS[name]), other.NULL)


def mgf1(name: str) -> bytes:
    return other.seq(other.oid("1.2.840.113549.1.1.8"), digest_algorithm(name))


def test_pss_without_parameters_means_sha1_and_a_salt_of_20() -> None:
    message = dataclasses.replace(honest(), digest="sha1", signature_algorithm=pss())
    attributes = other.set_of(*message.attributes())
    scheme = padding.PSS(padding.MGF1(HASHES["sha1"]), 20)
    message.signature = rsa_key("device").sign(attributes, scheme, HASHES["sha1"])
    verify(parse_signed(message.encode()))
    message = dataclasses.replace(honest(), digest="sha256", signature_algorithm=pss())
    assert problem_of(message.encode()) is CmsProblem.ALGORITHM


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        pytest.param(
            [other.explicit(digest_algorithm("sha256"), 0), other.explicit(mgf1("sha1"), 1)],
            CmsProblem.ALGORITHM,
            id="another digest in the mask",
        ),
        pytest.param(
            [other.explicit(digest_algorithm("sha256"), 0), other.explicit(other.seq(other.oid("1.2.3")), 1)],
            CmsProblem.ALGORITHM,
            id="another mask",
        ),
        pytest.param(
            [
                other.explicit(digest_algorithm("sha256"), 0),
                other.explicit(mgf1("sha256"), 1),
                other.explicit(other.integer(2000), 2),
            ],
            CmsProblem.ALGORITHM,
            id="a salt longer than a key",
        ),
        pytest.param(
            [
                other.explicit(digest_algorithm("sha256"), 0),
                other.explicit(mgf1("sha256"), 1),
                other.explicit(other.integer(500), 2),
            ],
            CmsProblem.SIGNATURE,
            id="a salt longer than this key",
        ),
        pytest.param([other.integer(1)], CmsProblem.ALGORITHM, id="something else"),
    ],
)
def test_odd_pss_parameters_are_typed_errors(fields: list[bytes], problem: CmsProblem) -> None:
    message = dataclasses.replace(honest(), signature_algorithm=pss(*fields))
    assert problem_of(message.encode()) is problem


def test_what_is_no_x509_certificate_in_the_bag_is_passed_over() -> None:
    """CertificateChoices has obsolete forms and attribute certificates (RFC 5652 §10.2.2)."""
    message = honest()
    message.bag = [other.retag(0xA1, other.seq(other.integer(1))), der_of(message.certificate())]
    verify(parse_signed(message.encode()))


def test_a_message_without_signed_attributes_is_refused() -> None:
    data = openssl_signed_without_attributes()
    with pytest.raises(CmsError, match="no signed attributes") as caught:
        parse_signed(data)
    assert caught.value.problem is CmsProblem.ATTRIBUTE


def openssl_signed_without_attributes() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        key, crt = Path(folder, "key"), Path(folder, "crt")
        key.write_bytes(key_pem(rsa_key("device")))
        crt.write_bytes(pem_of(self_signed(rsa_key("device"))))
        options = ("-nodetach", "-binary", "-outform", "der", "-noattr")
        return openssl("cms", "-sign", *options, "-signer", crt, "-inkey", key, stdin=CONTENT)


def test_detached_content_is_empty_content() -> None:
    message = honest()
    wrapped = other.explicit(other.octets(CONTENT))
    data = message.encode()
    assert wrapped in data
    detached = parse_signed(reframed(data, wrapped))
    assert detached.content == b""
    with pytest.raises(CmsError):
        verify(detached)


def reframed(data: bytes, cut: bytes) -> bytes:
    """The SignedData without its eContent: cut out, with the lengths of its four parents made right."""
    outer = other.asn1_content(data)
    parts = other.children(outer)
    (content_type,) = [part for part in other.children(parts[2]) if part != cut]
    return other.seq(other.oid(other.SIGNED_DATA), other.explicit(other.seq(*parts[:2], other.seq(content_type), *parts[3:])))


def test_an_object_identifier_that_is_none_is_still_named() -> None:
    assert dotted(b"\x06\x01\x80") == "(malformed)"
    assert dotted(oid("2.999.3")) == "2.999.3"
    assert dotted(oid("1.2.840.113549.1.1.7")) == "1.2.840.113549.1.1.7"


def test_too_many_elements_in_one_place_are_refused() -> None:
    with pytest.raises(CmsError) as caught:
        elements(b"\x05\x00" * 5000)
    assert caught.value.problem is CmsProblem.TOO_LARGE
