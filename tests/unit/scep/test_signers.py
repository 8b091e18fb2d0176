"""What devices sign their first message with: certificates of their own making that no library likes, and keys that nobody should have."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from asn1crypto import cms as asn1_cms
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pki.cms.errors import CmsError
from scep.endpoint import Renewal
from tests.helpers import scep as other
from tests.helpers.scep import Message, csr, der_of, enveloped, key_pem, openssl, pkcs_req, rsa_key, self_signed
from tests.helpers.scep_site import ROLES, opened, the_certificate
from tests.helpers.scep_world import ScepWorld, scep_world

BAD_ALG, BAD_MESSAGE_CHECK = "0", "1"


@pytest.fixture
async def site() -> AsyncIterator[ScepWorld]:
    async with scep_world() as world:
        yield world


def made_by_openssl(folder: Path, subject: str, *arguments: str) -> x509.Certificate:
    """X.509 v1, for there are no extensions."""
    key, request = folder / "key.pem", folder / "request.pem"
    key.write_bytes(key_pem(rsa_key("device")))
    request.write_bytes(openssl("req", "-new", "-key", key, "-subj", subject))
    return x509.load_pem_x509_certificate(openssl("x509", "-req", "-in", request, "-signkey", key, *arguments))


def made(name: x509.Name, *, years: int = 1, critical: bool = False, number: int = 7) -> x509.Certificate:
    key = rsa_key("device")
    begin = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return (
        x509.CertificateBuilder(name, name, key.public_key(), number, begin, begin.replace(year=2026 + years))
        .add_extension(x509.AuthorityKeyIdentifier(b"id", None, None), critical=critical)
        .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\0"), critical=critical)
        .sign(key, hashes.SHA256())
    )


def signers(folder: Path) -> dict[str, x509.Certificate]:
    router = x509.Name([x509.NameAttribute(NameOID.UNSTRUCTURED_NAME, "router.example.com", None)])
    serial = (1 << 253) + 12345
    return {
        "X.509 v1, MD5, a serial of 254 bits": made_by_openssl(folder, "/CN=dev1", "-md5", "-set_serial", str(serial)),
        "X.509 v1, SHA-1": made_by_openssl(folder, "/CN=dev1", "-sha1", "-set_serial", "1"),
        "no subject at all": made(x509.Name([])),
        "an unstructuredName alone": made(router),
        "a critical AKI and a critical extension that nobody knows": made(router, critical=True),
        "GeneralizedTime, and 5000 years": made(router, years=5000),
        "expired before it was sent": made_by_openssl(folder, "/CN=dev1", "-days", "-1"),
        "another name than the request's": self_signed(rsa_key("device"), "SCEP SIGNER"),
        "signed by another key": other.certificate("x", rsa_key("device").public_key(), "Vendor", rsa_key("vendor")),
    }


@pytest.mark.parametrize("pss", [False, True], ids=["PKCS#1", "PSS"])
async def test_whatever_a_device_makes_for_itself_signs_for_its_key(site: ScepWorld, tmp_path: Path, pss: bool) -> None:
    """Its key counts, and the answer is addressed to it by its own issuer and serial."""
    for what, signer in signers(tmp_path).items():
        request = dataclasses.replace(pkcs_req(site.ca), signer=signer, pss=pss, transaction_id=what[:20])
        certificate = the_certificate(await site.ask(request), request)
        assert certificate.public_key() == rsa_key("device").public_key(), what


@pytest.mark.parametrize("pss", [False, True], ids=["PKCS#1", "PSS"])
async def test_a_signer_is_named_by_its_key_identifier_too(site: ScepWorld, pss: bool) -> None:
    request = dataclasses.replace(pkcs_req(site.ca), signer=self_signed(rsa_key("device")), pss=pss)
    assert request.signer is not None
    identifier = request.signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    answer = await site.ask(dataclasses.replace(request, sid=other.retag(0x80, other.octets(identifier))))
    assert len(opened(answer, request).certificates) == 1


async def test_a_serial_that_rfc_5280_forbids_is_as_good_as_another(site: ScepWorld) -> None:
    for serial in (0, -1, 1 << 400):
        request = pkcs_req(site.ca)
        parsed = asn1_x509.Certificate.load(der_of(request.certificate()))
        parsed["tbs_certificate"]["serial_number"] = serial
        request.bag = [bytes(parsed.dump(force=True))]
        request.sid = other.seq(request.certificate().issuer.public_bytes(), other.integer(serial))
        answer = await site.ask(request)
        assert answer.status == "0"
        (recipient,) = asn1_cms.ContentInfo.load(answer.content, strict=True)["content"]["recipient_infos"]
        assert recipient.chosen["rid"].chosen["serial_number"].native == serial


async def test_a_request_for_another_key_than_the_signers_is_not_even_read(site: ScepWorld, tmp_path: Path) -> None:
    """§2.3, whatever the certificate looks like: else a captured request could be read by whoever signs it anew."""
    for what, signer in signers(tmp_path).items():
        request = Message(signer=signer, content=enveloped(csr(rsa_key("stranger")), site.ca.ra))
        answer = await site.ask(request)
        assert (answer.status, answer.fail_info) == ("2", BAD_MESSAGE_CHECK), what
    assert (site.issuance.requests, site.challenges.asked) == ([], [])


# ---------------------------------------------------------------- keys


def with_numbers(signer: x509.Certificate, modulus: int, exponent: int) -> bytes:
    """The certificate with its key exchanged; nobody needs to be able to use it."""
    parsed = asn1_x509.Certificate.load(der_of(signer))
    numbers = {"modulus": modulus, "public_exponent": exponent}
    parsed["tbs_certificate"]["subject_public_key_info"]["public_key"] = numbers
    return bytes(parsed.dump(force=True))


async def test_keys_that_cost_or_prove_nothing_are_bad_alg_before_any_arithmetic(site: ScepWorld) -> None:
    """RSA of 16k bits costs us a second; with e = 1 everybody signs, for the signature is the padding itself."""
    odd = {
        "16k bits": ((1 << 16383) + 1, 65537),
        "64k bits": ((1 << 65535) + 1, 65537),
        "512 bits": ((1 << 511) + 1, 65537),
        "e = 1": (rsa_key("device").public_key().public_numbers().n, 1),
        "e = 2": (rsa_key("device").public_key().public_numbers().n, 2),
        "e as long as n": (rsa_key("device").public_key().public_numbers().n, (1 << 2046) + 1),
        "an even modulus": (1 << 2047, 65537),
        "a negative modulus": (-(1 << 2047) - 1, 65537),
        "modulus 0": (0, 65537),
    }
    for what, numbers in odd.items():
        for message_type in ("17", "19", "20", "21"):
            request = dataclasses.replace(pkcs_req(site.ca), message_type=message_type)
            request.bag = [with_numbers(request.certificate(), *numbers)]
            answer = await site.ask(request)
            assert (answer.status, answer.fail_info) == ("2", "1" if what == "an even modulus" else BAD_ALG), what
    assert (site.signer.decryptions, site.issuance.requests) == (0, [])


async def test_an_ec_signer_is_bad_alg_whatever_it_asks_for(site: ScepWorld) -> None:
    """Nothing can be encrypted to it. Also where it has a certificate of ours: REST and EST give some."""
    endpoint = dataclasses.replace(site.ca.endpoint(), renewal=Renewal(ROLES))
    key = ec.generate_private_key(ec.SECP256R1())
    ours = other.certificate("dev1", key.public_key(), "Test CA", site.ca.key)
    for signer in (self_signed(key), ours):
        for message_type in ("17", "19", "20", "21", "22"):
            request = Message(key=key, signer=signer, content=enveloped(csr(key), site.ca.ra), message_type=message_type)
            answer = await site.ask(request, endpoint=endpoint)
            assert (answer.status, answer.fail_info) == ("2", BAD_ALG)
            assert "RSA" in (answer.text or "")
    assert (site.signer.decryptions, site.issuance.requests) == (0, [])


async def test_a_signer_that_cannot_be_read_is_no_message(site: ScepWorld) -> None:
    request = pkcs_req(site.ca)
    good = der_of(request.certificate())
    for bad in (b"", b"\x30\0", good[:-5], good + b"\0", good[:40]):
        with pytest.raises(CmsError):
            await site.ask(dataclasses.replace(request, bag=[bad]))
