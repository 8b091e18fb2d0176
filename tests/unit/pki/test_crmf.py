"""CRMF requests (RFC 4211) as CMC takes them (RFC 5272 §3.2.1.2.2), written by pyasn1's modules and signed by `cryptography`."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pyasn1.codec.der.decoder import decode
from pyasn1.codec.der.encoder import encode
from pyasn1.type import tag, univ
from pyasn1_alt_modules import rfc4211, rfc5280

from pki import der
from pki.cms.fields import octet_string, oid, sequence, tlv
from pki.crmf import Possession, parse_crmf
from pki.csr import key_identifiers
from pki.identifiers import DnsName, parse_ip
from pki.reasons import Reason, Rejection
from tests.helpers.crmf import (
    ED25519,
    KEY,
    NAMES,
    RSA,
    SUBJECT,
    PrivateKey,
    by_challenge,
    certificate_request,
    crmf,
    sign,
    signed,
)


def refused(data: Any) -> Rejection:
    with pytest.raises(Rejection) as caught:
        parse_crmf(bytes(data) if isinstance(data, bytes) else bytes(encode(data)))
    return caught.value


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("key", [KEY, RSA, ED25519], ids=["ec", "rsa", "ed25519"])
def test_a_request_that_its_key_has_signed_is_read_like_a_pkcs10(key: PrivateKey) -> None:
    names = x509.SubjectAlternativeName([x509.DNSName("B.example.com"), x509.IPAddress(parse_ip("192.0.2.1").address)])
    message = parse_crmf(crmf(9, key=key, extensions=((names, True),)))
    assert (message.request_id, message.possession) == (9, Possession.PROVED)
    csr = message.csr
    assert csr.identifiers == (DnsName("b.example.com"), parse_ip("192.0.2.1"))
    assert csr.common_name == "dev1"
    assert csr.subject == SUBJECT.public_bytes()
    assert csr.spki == key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert csr.signature_digest == ("" if key is ED25519 else "sha256")
    assert csr.challenge_password is None


def test_an_empty_subject_is_a_subject() -> None:
    """RFC 5272 §3.2.1.2.2: "The subject field can be encoded as NULL, but MUST be present"."""
    request_id, template = der.children(der.whole(encode(certificate_request()["certReq"]), der.SEQUENCE).content)
    fields = [element.raw for element in der.children(template.content)]
    assert fields[0][0] == 0xA5
    request = sequence(request_id.raw, sequence(tlv(0xA5, sequence()), *fields[1:]))
    proof = tlv(0xA1, sequence(oid("1.2.840.10045.4.3.2")), tlv(der.BIT_STRING, b"\0", sign(KEY, request)[1]))
    csr = parse_crmf(sequence(request, proof)).csr
    assert csr.common_name is None
    assert csr.identifiers == (DnsName("dev1.example.com"),)


def test_the_key_identifier_that_is_asked_for_comes_first() -> None:
    asked = parse_crmf(crmf(extensions=((x509.SubjectKeyIdentifier(b"mine"), False),))).csr
    by_rule = x509.SubjectKeyIdentifier.from_public_key(KEY.public_key()).digest
    assert key_identifiers(asked) == (b"mine", by_rule)
    assert key_identifiers(parse_crmf(crmf()).csr) == (by_rule,)


def test_controls_are_the_attributes_of_the_request() -> None:
    """§6.3.1.1: the witness of a CRMF request stands in "the controls field of the CertRequest structure"."""
    csr = parse_crmf(crmf(controls=(("1.3.6.1.5.5.7.7.33", octet_string(b"w")), ("1.3.6.1.5.5.7.5.1.1", b"\x0c\x01t")))).csr
    assert csr.attributes["1.3.6.1.5.5.7.7.33"] == b"\x31\x03" + octet_string(b"w")
    assert "t" not in repr(csr.attributes.get("none"))


def test_what_the_ca_decides_is_not_heeded() -> None:
    """§5: version, serialNumber, signingAlg, issuer, validity and unique identifiers are not the client's to choose."""
    message = certificate_request()
    written = message["certReq"]["certTemplate"]
    written["version"], written["serialNumber"] = 2, 4711
    written["issuerUID"] = univ.BitString("1010").subtype(implicitTag=tag.Tag(tag.tagClassContext, tag.tagFormatSimple, 7))
    csr = parse_crmf(bytes(encode(signed(message)))).csr
    assert csr.identifiers == (DnsName("dev1.example.com"),)


# ---------------------------------------------------------------- possession


def test_an_agent_may_say_that_the_proof_was_made() -> None:
    message = certificate_request()
    message["popo"]["raVerified"] = ""
    assert parse_crmf(bytes(encode(message))).possession is Possession.BY_AGENT


@pytest.mark.parametrize("usage", ["keyEncipherment", "keyAgreement"])
def test_a_key_that_signs_nothing_waits_for_its_challenge(usage: str) -> None:
    message = parse_crmf(by_challenge(certificate_request(key=RSA), usage=usage))
    assert message.possession is Possession.TO_BE_PROVED
    assert message.csr.signature_digest == ""


def test_without_any_proof_possession_is_still_to_be_proved() -> None:
    assert parse_crmf(bytes(encode(certificate_request()))).possession is Possession.TO_BE_PROVED


def test_an_encrypted_certificate_is_no_proof_here() -> None:
    """RFC 5272 §3.2.1.2.2: "The value of encrCert in SubsequentMessage MUST NOT be used"."""
    assert "encrCert" in refused(by_challenge(certificate_request(key=RSA), method=0)).detail


@pytest.mark.parametrize("method", ["thisMessage", "dhMAC"])
def test_other_ways_to_prove_possession_are_refused_by_name(method: str) -> None:
    message = certificate_request(key=RSA)
    message["popo"]["keyAgreement"][method] = univ.BitString("1").subtype(
        implicitTag=tag.Tag(tag.tagClassContext, tag.tagFormatSimple, {"thisMessage": 0, "dhMAC": 2}[method])
    )
    assert method in refused(message).detail


def test_a_signature_over_other_octets_than_the_request_is_no_proof() -> None:
    rejection = refused(signed(certificate_request(), data=encode(certificate_request(8)["certReq"])))
    assert rejection.reason is Reason.BAD_CSR
    assert "signature" in rejection.detail


def test_a_signature_by_another_key_is_no_proof() -> None:
    refused(signed(certificate_request(), ec.generate_private_key(ec.SECP256R1())))


def test_a_proof_over_a_signing_key_input_is_refused() -> None:
    """RFC 5272 §3.2.1.2.2: "the POPOSigningKeyInput MUST NOT be used"."""
    message = signed(certificate_request())
    spki = decode(
        KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), asn1Spec=rfc5280.SubjectPublicKeyInfo()
    )[0]
    given = message["popo"]["signature"]["poposkInput"]
    given["authInfo"]["publicKeyMAC"]["algId"]["algorithm"] = univ.ObjectIdentifier("1.2.840.113533.7.66.13")
    given["authInfo"]["publicKeyMAC"]["value"] = univ.BitString("1")
    given["publicKey"] = spki
    assert "POPOSigningKeyInput" in refused(message).detail


def test_a_weak_digest_is_refused_by_name() -> None:
    rejection = refused(signed(certificate_request(key=RSA), RSA, algorithm="1.2.840.113549.1.1.5"))
    assert rejection.reason is Reason.WEAK_ALGORITHM
    assert "SHA1" in rejection.detail


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("message", "why"),
    [
        pytest.param(lambda: signed(certificate_request(subject=None)), "subject", id="no subject"),
        pytest.param(lambda: signed(certificate_request(key=None)), "public key", id="no public key"),
        pytest.param(
            lambda: signed(certificate_request(controls=(("1.3.6.1.5.5.7.5.1.4", octet_string(b"x")),))),
            "archive",
            id="archival",
        ),
        pytest.param(lambda: signed(certificate_request(controls=(("1.2.3", octet_string(b"x")),))), "1.2.3", id="unknown"),
        pytest.param(
            lambda: signed(certificate_request(controls=(("1.3.6.1.5.5.7.5.1.1", b"\x0c\x00"),) * 2)), "twice", id="twice"
        ),
    ],
)
def test_what_cannot_be_heeded_is_refused_and_named(message: Any, why: str) -> None:
    rejection = refused(message())
    assert rejection.reason is Reason.BAD_CSR
    assert why in rejection.detail


def test_reg_info_is_refused() -> None:
    """RFC 5272 §3.2.1.2.2: "The regInfo field MUST NOT be used on a CRMF certification request"."""
    message = signed(certificate_request())
    info = rfc4211.AttributeTypeAndValue()
    info["type"], info["value"] = univ.ObjectIdentifier("1.3.6.1.5.5.7.5.2.1"), univ.Any(b"\x0c\x00")
    message["regInfo"].append(info)
    assert "regInfo" in refused(message).detail


def test_a_name_that_is_not_issued_is_refused_and_not_dropped() -> None:
    names = x509.SubjectAlternativeName([x509.DNSName("a.example.com"), x509.RFC822Name("a@example.com")])
    rejection = refused(crmf(extensions=((names, False),)))
    assert rejection.reason is Reason.UNSUPPORTED_IDENTIFIER


def test_an_extension_that_stands_there_twice_is_refused() -> None:
    assert "twice" in refused(crmf(extensions=(*NAMES, *NAMES))).detail


@pytest.mark.parametrize(
    "data", [b"", b"\x30\x00", b"hello", crmf()[:-1], crmf() + b"\0"], ids=["empty", "hollow", "text", "cut", "more"]
)
def test_what_is_no_request_is_a_typed_error(data: bytes) -> None:
    assert refused(data).reason is Reason.BAD_CSR
