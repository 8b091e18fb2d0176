"""What particular devices send, and what they need to find in the answer. Each test names the habit that it is for.

The habits are from the clients' sources and captures; the devices themselves are not here. Debian's clients run in interop/.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
from asn1crypto import cms as asn1_cms
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import AttributeOID

from certwright.compose_scep import scep_endpoint
from certwright.config import load
from issuance.request import Pending
from scep import cacerts
from scep.endpoint import Renewal
from tests.helpers.scep import (
    CONTENT_TYPE,
    END,
    FAIL_INFO,
    FAIL_INFO_TEXT,
    MESSAGE_DIGEST,
    MESSAGE_TYPE,
    NULL,
    PKI_STATUS,
    RECIPIENT_NONCE,
    SECRET,
    SENDER_NONCE,
    START,
    TRANSACTION_ID,
    Answer,
    Message,
    content_cipher,
    csr,
    der_of,
    enveloped,
    integer,
    issuer_and_serial,
    legacy_csr,
    name,
    octets,
    oid,
    parse_answer,
    pkcs_req,
    rsa_key,
    seq,
)
from tests.helpers.scep_devices import (
    go_envelope,
    oaep_envelope,
    old_router_certificate,
    streamed_envelope,
    streamed_message,
)
from tests.helpers.scep_served import Site, served
from tests.helpers.scep_simulators import KnownChallenges
from tests.helpers.scep_site import by_issuer_and_serial, opened, renewal, the_certificate
from tests.helpers.scep_world import scep_world
from tests.helpers.server import run

OLD = ("md5", "sha1", "des-cbc", "des-ede3-cbc")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """`default` takes renewals; `old` takes everything that old devices speak."""
    async with scep_world(challenges=KnownChallenges({("default", SECRET), ("old", SECRET)})) as world:
        default = dataclasses.replace(world.ca.endpoint(), renewal=Renewal(frozenset({"device"})))
        async with served(world, default, world.ca.endpoint(name="old", legacy=OLD)) as found:
            yield found


async def posted(site: Site, data: bytes, endpoint: str = "default") -> Answer:
    status, content_type, body = await site.post(data, f"/scep/{endpoint}?operation=PKIOperation")
    assert (status, content_type) == (200, "application/x-pki-message")
    return parse_answer(body)


async def enrolled(site: Site, message: Message, data: bytes | None = None, endpoint: str = "default") -> x509.Certificate:
    answer = await posted(site, message.encode() if data is None else data, endpoint)
    return the_certificate(answer, message)


def signed_attributes(answer: Answer) -> dict[str, bytes]:
    """OID -> DER of the one value."""
    info = asn1_cms.ContentInfo.load(answer.der, strict=True)["content"]["signer_infos"][0]
    found = {}
    for each in info["signed_attrs"]:
        (value,) = each["values"]
        found[each["type"].dotted] = value.dump()
    assert len(found) == len(info["signed_attrs"])
    return found


# ---------------------------------------------------------------- sscep


def sscep_request(data: bytes, path: str = "/scep/default") -> bytes:
    """It writes HTTP by itself: 1.0, no Content-Type."""
    return f"POST {path}?operation=PKIOperation HTTP/1.0\r\nHost: a:80\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def wrapped(data: bytes) -> str:
    """Lines of 64 in one query value, everything percent-encoded: sscep by GET, and strongSwan."""
    text = base64.b64encode(data).decode()
    lines = "".join(f"{text[start : start + 64]}\n" for start in range(0, len(text), 64))
    return quote(lines, safe="")


async def test_sscep_compares_capabilities_and_mime_types_letter_by_letter(site: Site) -> None:
    caps = await site.raw_reply(b"GET /scep/default?operation=GetCACaps HTTP/1.0\r\n\r\n")
    assert {"AES", "POSTPKIOperation", "SHA-256", "SHA-512", "SCEPStandard", "Renewal"} <= set(caps.body.decode().split("\n"))
    ca = await site.raw_reply(b"GET /scep/default?operation=GetCACert&message=CAIdentifier HTTP/1.0\r\n\r\n")
    assert ca.content_type == b"application/x-x509-ca-ra-cert"
    reply = await site.raw_reply(sscep_request(pkcs_req(site.ca).encode()))
    assert (reply.status, reply.content_type) == (200, b"application/x-pki-message")
    assert parse_answer(reply.body).status == "0"


async def test_sscep_enrols_by_get_in_lines_of_64(site: Site) -> None:
    message = pkcs_req(site.ca)
    reply = await site.raw_reply(
        f"GET /scep/default?operation=PKIOperation&message={wrapped(message.encode())} HTTP/1.0\r\n\r\n".encode()
    )
    assert the_certificate(parse_answer(reply.body), message)


async def test_sscep_shows_any_other_type_as_wrong_mime_so_whatever_can_be_read_gets_a_signed_failure(site: Site) -> None:
    """Every one of these is refused, and none in plain text."""
    good = pkcs_req(site.ca)
    content = good.content
    key = ec.generate_private_key(ec.SECP256R1())
    signer = site.ca.certificate
    wrong = {
        "no challenge": dataclasses.replace(good, content=enveloped(csr(rsa_key("device"), challenge=None), site.ca.ra)),
        "UpdateReq": dataclasses.replace(good, message_type="18"),
        "CertRep": dataclasses.replace(good, message_type="3"),
        "an unknown type": dataclasses.replace(good, message_type="99"),
        "no number": dataclasses.replace(good, message_type="PKCSReq"),
        "no type": dataclasses.replace(good, message_type=None),
        "a broken signature": dataclasses.replace(good, signature=bytes(256)),
        "another digest": dataclasses.replace(good, content_digest=bytes(32)),
        "SHA-1": dataclasses.replace(good, digest="sha1"),
        "MD5": dataclasses.replace(good, digest="md5"),
        "3DES": pkcs_req(site.ca, cipher="des-ede3-cbc"),
        "for the CA, not the RA": dataclasses.replace(good, content=enveloped(csr(rsa_key("device")), signer)),
        "no envelope": dataclasses.replace(good, content=b"hello"),
        "nothing inside": dataclasses.replace(good, content=b""),
        "no CSR in it": dataclasses.replace(good, content=enveloped(b"hello", site.ca.ra)),
        "an elliptic curve": Message(key=key, content=content),
        "CertPoll of nothing": dataclasses.replace(good, message_type="20"),
        "GetCert by a stranger": dataclasses.replace(good, message_type="21"),
        "GetCRL by a stranger": dataclasses.replace(good, message_type="22"),
        "RenewalReq by a stranger": dataclasses.replace(good, message_type="17"),
    }
    for what, message in wrong.items():
        status, content_type, body = await site.post(message.encode())
        assert (status, content_type) == (200, "application/x-pki-message"), what
        answer = parse_answer(body)
        assert (answer.status, answer.content, answer.recipient_nonce) == ("2", b"", b"n" * 16), what
    assert site.issuance.issued == {}


@pytest.mark.parametrize(
    "kind",
    [_ASN1Type.UTF8String, _ASN1Type.PrintableString, _ASN1Type.IA5String, _ASN1Type.T61String],
    ids=lambda kind: kind.name,
)
async def test_the_challenge_is_read_from_every_string_type(site: Site, kind: _ASN1Type) -> None:
    """OpenSSL's and strongSwan's is a UTF8String; Go's, certmonger's and PyScep's a PrintableString."""
    key = rsa_key("device")
    builder = x509.CertificateSigningRequestBuilder().subject_name(name("dev1"))
    request = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, SECRET.encode(), _tag=kind).sign(key, hashes.SHA256())
    await enrolled(site, Message(key=key, content=enveloped(der_of(request), site.ca.ra)))


async def test_the_challenge_is_read_from_a_bmpstring(site: Site) -> None:
    """What some Windows libraries make of every string."""
    key = rsa_key("device")
    builder = x509.CertificateSigningRequestBuilder().subject_name(name("dev1"))
    secret = SECRET.encode("utf-16-be")
    request = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, secret, _tag=_ASN1Type.BMPString).sign(
        key, hashes.SHA256()
    )
    await enrolled(site, Message(key=key, content=enveloped(der_of(request), site.ca.ra)))


async def test_sscep_exits_on_any_attribute_tag_but_printablestring(site: Site) -> None:
    refused = signed_attributes(await posted(site, pkcs_req(site.ca, challenge="guess").encode()))
    for identifier in (TRANSACTION_ID, MESSAGE_TYPE, PKI_STATUS, FAIL_INFO):
        assert refused[identifier][0] == 0x13
    for identifier in (SENDER_NONCE, RECIPIENT_NONCE):
        assert refused[identifier][0] == 0x04
    assert refused[FAIL_INFO_TEXT][0] == 0x0C  # RFC 8894 §3.2.1.4.6: UTF8String


async def test_sscep_has_one_transaction_id_for_all_that_it_gets(site: Site) -> None:
    """GetCert and GetCRL come as "SSCEP transactionId", from every sscep there is, and must not meet each other's."""
    certificates = []
    for label in ("first", "second"):
        key = rsa_key(label)
        held = await enrolled(
            site, Message(key=key, content=enveloped(csr(key, common_name=label), site.ca.ra), transaction_id=label)
        )
        request = by_issuer_and_serial(site.ca, held, key, "21", issuer_and_serial(held))
        certificates.append((held, the_certificate(await posted(site, request.encode()), request)))
    assert all(held == found for held, found in certificates)
    assert certificates[0][1] != certificates[1][1]


async def test_sscep_getca_without_an_identifier_and_getnextca_of_none(site: Site) -> None:
    _, content_type, body = await site.get("/scep/default?operation=GetCACert")
    assert content_type == "application/x-x509-ca-ra-cert"
    assert site.ca.ra in pkcs7.load_der_pkcs7_certificates(body)
    assert (await site.get("/scep/default?operation=GetNextCACert&message=CAIdentifier"))[0] == 404


async def test_serials_of_254_bits_come_back_as_they_are(site: Site) -> None:
    """sscep gives its self-signed certificate one of 32 octets; the answer names its recipient by it."""
    key = rsa_key("device")
    signer = old_router_certificate(key, serial=(1 << 253) | 0xABCDEF)
    message = Message(key=key, signer=signer, content=enveloped(csr(key), site.ca.ra))
    await enrolled(site, message)


# ---------------------------------------------------------------- Cisco IOS


def ios_request(query: str, path: str = "/cgi-bin/pkiclient.exe") -> bytes:
    agent = "User-Agent: Mozilla/4.0 (compatible; MSIE 5.0; Cisco PKI)"
    return f"GET {path}?operation={query} HTTP/1.0\r\n{agent}\r\nHost: 192.0.2.1\r\n\r\n".encode()


async def test_ios_asks_by_get_in_http_1_0_with_its_trustpoint_as_identifier(site: Site) -> None:
    reply = await site.raw_reply(ios_request("GetCACert&message=MY-TRUSTPOINT"))
    assert reply.head.startswith(b"HTTP/1.0 200 OK")
    assert (reply.status, reply.content_type) == (200, b"application/x-x509-ca-ra-cert")
    message = pkcs_req(site.ca)
    text = quote(base64.encodebytes(message.encode()).decode(), safe="")
    for path in ("/cgi-bin/pkiclient.exe", "/scep/default/pkiclient.exe", "/scep/default/cgi-bin/pkiclient.exe"):
        reply = await site.raw_reply(ios_request(f"PKIOperation&message={text}", path))
        assert (reply.status, reply.content_type) == (200, b"application/x-pki-message")
        assert b"chunked" not in reply.head
        the_certificate(parse_answer(reply.body), message)


async def test_old_ios_speaks_des_and_md5_and_needs_them_back(site: Site, tmp_path: Path) -> None:
    """E_ENCRYPT_ALG_NOT_SUPPORTED when the answer has another cipher than the request."""
    key = rsa_key("device")
    request = legacy_csr(key, "md5", tmp_path)
    signer = old_router_certificate(key)
    message = Message(key=key, signer=signer, content=enveloped(request, site.ca.ra, cipher="des-cbc"), digest="md5")
    answer = await posted(site, message.encode(), "old")
    assert (answer.digest, content_cipher(answer)) == ("md5", "des-cbc")
    the_certificate(answer, message)
    modern = await posted(site, message.encode())
    assert (modern.status, modern.fail_info) == ("2", "0")  # badAlg, where nobody allows them
    assert modern.digest != "md5"


# ---------------------------------------------------------------- Juniper


async def test_junos_speaks_3des_and_sha_1_and_needs_them_back(site: Site, tmp_path: Path) -> None:
    key = rsa_key("device")
    content = enveloped(legacy_csr(key, "sha1", tmp_path), site.ca.ra, cipher="des-ede3-cbc")
    message = Message(key=key, content=content, digest="sha1")
    answer = await posted(site, message.encode(), "old")
    assert (answer.digest, content_cipher(answer)) == ("sha1", "des-ede3-cbc")
    the_certificate(answer, message)
    assert (await posted(site, message.encode())).fail_info == "0"


# ---------------------------------------------------------------- Windows


async def test_windows_asks_for_default_and_nothing_else(site: Site) -> None:
    for path in ("/scep/default/pkiclient.exe", "/certsrv/mscep/mscep.dll", "/certsrv/mscep/mscep.dll/pkiclient.exe"):
        for operation in ("GetCACaps", "GetCACert"):
            status, _, body = await site.get(f"{path}?operation={operation}&message=default")
            assert status == 200
            assert body
    data = pkcs_req(site.ca).encode()
    status, _, body = await site.post(
        data, "/certsrv/mscep/mscep.dll/pkiclient.exe?operation=PKIOperation", **{"Content-Type": "application/x-pki-message"}
    )
    assert (status, parse_answer(body).status) == (200, "0")


@pytest.mark.parametrize("digest", ["sha1", "sha256"])
async def test_windows_encrypts_by_oaep(site: Site, tmp_path: Path, digest: str) -> None:
    key = rsa_key("device")
    content = oaep_envelope(csr(key), site.ca.ra, tmp_path, digest=digest)
    assert b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07" in content  # id-RSAES-OAEP
    await enrolled(site, Message(key=key, content=content))


async def test_windows_wants_exactly_the_attributes_that_it_expects(site: Site) -> None:
    """ "The message does not contain an expected authenticated attribute": both nonces in every answer, a failure too."""
    expected = {CONTENT_TYPE, MESSAGE_DIGEST, TRANSACTION_ID, MESSAGE_TYPE, PKI_STATUS, SENDER_NONCE, RECIPIENT_NONCE}
    granted = await posted(site, pkcs_req(site.ca).encode())
    site.issuance.script.append(Pending("req", 60))
    waiting = await posted(site, dataclasses.replace(pkcs_req(site.ca), transaction_id="waiting").encode())
    refused = await posted(site, pkcs_req(site.ca, challenge="guess").encode())
    assert [answer.status for answer in (granted, waiting, refused)] == ["0", "3", "2"]
    assert set(signed_attributes(granted)) == set(signed_attributes(waiting)) == expected
    assert set(signed_attributes(refused)) == expected | {FAIL_INFO, FAIL_INFO_TEXT}


async def test_windows_signs_with_a_certificate_whose_authority_key_identifier_is_critical(site: Site) -> None:
    """RFC 5280 §4.2.1.1 forbids it, and parsers of that time refuse it."""
    key = rsa_key("device")
    subject = name("SCEP Protocol Certificate")
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, START, END)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    signer = builder.add_extension(identifier, critical=True).sign(key, hashes.SHA256())
    await enrolled(site, Message(key=key, signer=signer, content=enveloped(csr(key), site.ca.ra)))


# ---------------------------------------------------------------- Apple


async def test_apple_pairs_its_key_with_the_first_certificate_so_there_is_one(site: Site) -> None:
    """22008, "mismatching public keys", when the CA is in the answer as well."""
    message = pkcs_req(site.ca)
    contents = opened(await posted(site, message.encode()), message)
    (leaf,) = contents.certificates
    assert leaf.public_key() == rsa_key("device").public_key()


async def test_apple_sends_ber_and_its_base64_bare(site: Site) -> None:
    """Indefinite lengths outside and inside; `+` and `/` as they are, only `=` encoded."""
    message = pkcs_req(site.ca)
    message.content = streamed_envelope(message.content)
    data = streamed_message(message.encode())
    text = base64.b64encode(data).decode()
    assert {"+", "/"} <= set(text)
    request = f"GET /scep/default?operation=PKIOperation&message={text.replace('=', '%3D')} HTTP/1.1\r\nHost: a\r\n"
    reply = await site.raw_reply(f"{request}Connection: close\r\n\r\n".encode())
    assert reply.status == 200
    the_certificate(parse_answer(reply.body), message)


def test_apple_wants_an_ra_that_signs_and_decrypts_and_a_ca_that_does_neither(tmp_path: Path) -> None:
    """-67731, "key usage is incorrect", before it sends anything; and without Renewal in the capabilities it never renews.

    Of what `certwright init` makes.
    """
    run("init", "--dir", tmp_path / "new")
    config = load(tmp_path / "new" / "certwright.yaml")
    endpoint = scep_endpoint(config, config.scep["default"])
    shown = pkcs7.load_der_pkcs7_certificates(cacerts.current(endpoint).body)
    usages = [found.extensions.get_extension_for_class(x509.KeyUsage).value for found in shown]
    (ra,) = [usage for usage in usages if not usage.key_cert_sign]
    assert (ra.digital_signature, ra.key_encipherment) == (True, True)
    assert [usage.key_encipherment for usage in usages if usage.key_cert_sign] == [False] * (len(shown) - 1)
    assert len(shown) > 1
    assert "Renewal" in endpoint.capabilities()


async def test_macos_renews_by_a_pkcsreq_that_its_old_certificate_signs(site: Site) -> None:
    held = await enrolled(site, pkcs_req(site.ca))
    message = renewal(site.ca, held, rsa_key("device"), message_type="19")
    assert (await enrolled(site, message)).serial_number != held.serial_number


# ---------------------------------------------------------------- MikroTik, PyScep


async def test_routeros_needs_a_sender_nonce_which_is_fresh(site: Site) -> None:
    answers = [await posted(site, pkcs_req(site.ca).encode()) for _ in range(2)]
    assert [len(answer.sender_nonce) for answer in answers] == [16, 16]
    assert len({answers[0].sender_nonce, answers[1].sender_nonce, b"n" * 16}) == 3


async def test_pyscep_crashes_where_a_failure_has_no_content_at_all(site: Site) -> None:
    site.issuance.script.append(Pending("req", 60))
    waiting = await posted(site, pkcs_req(site.ca).encode())
    refused = await posted(site, pkcs_req(site.ca, challenge="guess").encode())
    for answer in (waiting, refused):
        assert seq(oid("1.2.840.113549.1.7.1"), bytes.fromhex("a0020400")) in answer.der


# ---------------------------------------------------------------- Go, jscep


async def test_go_puts_its_ciphertext_into_a_constructed_0_and_encrypts_to_everybody(site: Site) -> None:
    """micromdm's scepclient takes all of GetCACert for recipients: the CA, which cannot decrypt here, before the RA."""
    key = rsa_key("device")
    stranger = seq(
        integer(0), issuer_and_serial(site.ca.certificate), seq(oid("1.2.840.113549.1.1.1"), NULL), octets(bytes(256))
    )
    content = go_envelope(enveloped(csr(key), site.ca.ra, before=(stranger,)))
    await enrolled(site, Message(key=key, content=content))


async def test_go_sends_a_transaction_id_of_base64_and_renews_by_17(site: Site) -> None:
    key = rsa_key("device")
    first = Message(key=key, content=enveloped(csr(key), site.ca.ra), transaction_id="q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQ/+==")
    answer = await posted(site, first.encode())
    assert answer.transaction_id == first.transaction_id
    held = the_certificate(answer, first)
    again = renewal(site.ca, held, key, transaction_id="q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQ/+==", challenge=SECRET)
    assert (await enrolled(site, again)).serial_number != held.serial_number


@pytest.mark.parametrize("size", [1, 100, 1000, 100_000])
async def test_jscep_streams_its_envelope_in_pieces(site: Site, size: int) -> None:
    """BouncyCastle's generator: indefinite lengths, OCTET STRINGs of 1000. The digest is over the octets, not their pieces."""
    message = pkcs_req(site.ca)
    message.content = streamed_envelope(message.content, size=size)
    await enrolled(site, message)
    await enrolled(site, message, streamed_message(message.encode(), size=size))
