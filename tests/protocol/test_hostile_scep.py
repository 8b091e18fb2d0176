"""SCEP by people who mean harm, at a real server: what is sent, and that nothing comes of it.

After each test: no certificate that should not be, no traceback, no 500, and the server still serves.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding

from tests.helpers import scep
from tests.helpers.exposed import Site, opened, unharmed
from tests.helpers.front_doors import Door, Doors, refusal
from tests.helpers.keygen import spki_of
from tests.helpers.scep import Message, children, enveloped, explicit, integer, octets, oid, retag, seq, set_of
from tests.helpers.scep_parts import (
    certificate_of,
    enveloped_info,
    enveloped_of,
    nested,
    rsa_spki,
    signed_of,
    signed_parts,
    spki,
    with_signer,
)
from tests.helpers.server import run
from tests.helpers.wanted import Wanted, ec_key, rsa_key
from tests.helpers.wire import Reply

LIMIT = 256 * 1024
BAD_ALG, BAD_MESSAGE_CHECK, BAD_REQUEST = "0", "1", "2"
UNREADABLE = "the encrypted content cannot be read"
AUTHENTICATED_DATA, PKI_DATA = "1.2.840.113549.1.9.16.1.2", "1.3.6.1.5.5.7.12.2"
EC, DSA, X25519 = "1.2.840.10045.2.1", "1.2.840.10040.4.1", "1.3.101.110"


@pytest.fixture(scope="module")
def whole_site() -> Iterator[Site]:
    with opened() as site:
        yield site


@pytest.fixture
def site(whole_site: Site, tmp_path: Path) -> Iterator[Site]:
    with unharmed(whole_site, tmp_path):
        yield whole_site


@pytest.fixture
def doors(site: Site) -> Doors:
    return site.doors


def honest(doors: Doors, wanted: Wanted | None = None) -> Message:
    return doors.pkcs_req(wanted or Wanted(), challenge=doors.secrets.challenge)


def refused(reply: Reply, what: str) -> tuple[str, str]:
    """failInfo ("" where there was nobody to answer) and text."""
    try:
        text = refusal(Door.SCEP_POST, reply)
    except AssertionError as error:
        raise AssertionError(what) from error
    return (scep.parse_answer(reply.body).fail_info or "" if reply.status == 200 else ""), text


# ---------------------------------------------------------------------- taken apart and put together


def with_content(doors: Doors, content: bytes) -> bytes:
    return replace(honest(doors), content=content).encode()


# ---------------------------------------------------------------------- inside the envelope


def test_whatever_is_wrong_inside_the_envelope_is_told_in_one_way(doors: Doors) -> None:
    """Bleichenbacher, Vaudenay, and whatever else would tell what somebody else has encrypted."""
    request, modulus = Wanted().csr(challenge=doors.secrets.challenge), doors.ra.public_key().public_numbers().n  # type: ignore[union-attr]  # it is RSA
    right = children(children(scep.asn1_content(enveloped(request, doors.ra)))[2])[2]
    body, stranger = right[-(len(right) // 16 * 16) :], Wanted(key=lambda: rsa_key("stranger"))
    key = doors.ra.public_key()
    tampered = {
        "the last block is another": enveloped(request, doors.ra, ciphertext=body[:-1] + bytes([body[-1] ^ 1])),
        "no ciphertext": enveloped(request, doors.ra, ciphertext=b""),
        "half a block": enveloped(request, doors.ra, ciphertext=body[:-8]),
        "a block alone": enveloped(request, doors.ra, ciphertext=os.urandom(16)),
        "noise": enveloped(request, doors.ra, ciphertext=os.urandom(1024)),
        "noise to the limit": enveloped(request, doors.ra, ciphertext=os.urandom(200_000)),
        "a key of no octets": enveloped(request, doors.ra, cek=b""),
        "a key one octet short": enveloped(request, doors.ra, cek=b"k" * 15),
        "a key for another cipher": enveloped(request, doors.ra, cek=b"k" * 32),
        "another key": enveloped(request, doors.ra, cek=b"k" * 16),
        "an encrypted key of zeros": enveloped(request, doors.ra, encrypted_key=bytes(256)),
        "an encrypted key of one": enveloped(request, doors.ra, encrypted_key=bytes(255) + b"\x01"),
        "the modulus less one": enveloped(request, doors.ra, encrypted_key=(modulus - 1).to_bytes(256, "big")),
        "the modulus": enveloped(request, doors.ra, encrypted_key=modulus.to_bytes(256, "big")),
        "beyond the modulus": enveloped(request, doors.ra, encrypted_key=b"\xff" * 256),
        "a short encrypted key": enveloped(request, doors.ra, encrypted_key=b"\x01" * 255),
        "a long encrypted key": enveloped(request, doors.ra, encrypted_key=b"\0" + key.encrypt(b"k" * 16, padding.PKCS1v15())),  # type: ignore[union-attr]  # it is RSA
        "no encrypted key": enveloped(request, doors.ra, encrypted_key=b""),
        "nothing inside": enveloped(b"", doors.ra),
        "noise inside": enveloped(os.urandom(600), doors.ra),
        "half a request inside": enveloped(request[: len(request) // 2], doors.ra),
        "a request with something behind it": enveloped(request + b"\0", doors.ra),
        "a nest inside": enveloped(b"\x30\x80" * 5_000, doors.ra),
        "a certificate inside": enveloped(scep.der_of(doors.ra), doors.ra),
        "another message inside": enveloped(honest(doors).encode(), doors.ra),
        "a request of another key inside": enveloped(stranger.csr(challenge=doors.secrets.challenge), doors.ra),
    }
    told = {refused(doors.pki_operation(with_content(doors, content)), what) for what, content in tampered.items()}
    assert told == {(BAD_MESSAGE_CHECK, UNREADABLE)}


def test_recipients_that_nobody_meant_open_nothing(doors: Doors) -> None:
    """Also a second one that would fit: whoever tries all of them tells which is right (CVE-2019-1563)."""
    request = Wanted().csr(challenge=doors.secrets.challenge)
    right = enveloped(request, doors.ra)
    [info] = children(children(scep.asn1_content(right))[1])
    foreign = scep.self_signed(scep.rsa_key("foreign"))
    [wrong] = children(children(scep.asn1_content(enveloped(request, doors.ra, cek=b"x" * 16)))[1])
    agreement = retag(0xA1, seq(integer(3), explicit(octets(b"x")), seq(oid(EC)), seq()))
    for what, content, text in (
        ("nobody", enveloped_of(right, infos=set_of()), "another certificate"),
        ("somebody else", enveloped(request, foreign), "another certificate"),
        (
            "a thousand others",
            enveloped_of(right, infos=retag(0x31, seq(*[enveloped_info(foreign)] * 600))),
            "another cert|too large|413|octets|elements",
        ),
        ("key agreement", enveloped_of(right, infos=set_of(agreement)), "another certificate"),
        ("no kind that there is", enveloped_of(right, infos=set_of(retag(0xAF, info))), "another certificate"),
        ("no RecipientInfo", enveloped_of(right, infos=set_of(seq(integer(0)))), "a field is missing"),
        ("ours, with a wrong key before the right one", enveloped_of(right, infos=retag(0x31, seq(wrong, info))), UNREADABLE),
    ):
        found = refused(doors.pki_operation(with_content(doors, content)), what)
        assert any(part in found[1] for part in text.split("|")), (what, found)


def test_what_an_envelope_says_of_itself_changes_nothing(whole_site: Site, tmp_path: Path) -> None:
    """Versions, originators and unprotected attributes are nobody's word: the request is what it is without them."""
    doors, certificates = whole_site.doors, set()
    right = enveloped(Wanted().csr(challenge=doors.secrets.challenge), doors.ra)
    numbers = (0, 2, 4, 255, -1, 1 << 4096)
    for number in numbers:
        content = enveloped_of(right, version=integer(number), before=[retag(0xA0, seq())], after=[retag(0xA1, seq(seq()))])
        message = replace(honest(doors), content=content)
        reply = doors.pki_operation(message.encode())
        certificates.add(doors.certificate(Door.SCEP_POST, reply, Wanted(), tmp_path).serial_number)
    assert len(certificates) == len(numbers)
    with unharmed(whole_site, tmp_path):
        for what, content in {
            "no version": seq(oid(scep.ENVELOPED_DATA), explicit(seq(*children(scep.asn1_content(right))[1:]))),
            "a text as version": enveloped_of(right, version=octets(b"\0")),
            "two of everything": enveloped_of(right, after=children(scep.asn1_content(right))),
            "SignedData by its type": seq(oid(scep.SIGNED_DATA), children(right)[1]),
            "AuthenticatedData": seq(oid(AUTHENTICATED_DATA), children(right)[1]),
            "nothing": b"",
            "a request in the clear": Wanted().csr(challenge=doors.secrets.challenge),
        }.items():
            assert refused(doors.pki_operation(with_content(doors, content)), what)[0] == BAD_REQUEST, what


# ---------------------------------------------------------------------- the signature around it


def test_a_message_that_two_could_read_in_two_ways_is_refused(doors: Doors) -> None:
    """Signature wrapping: what is verified has to be what is read, and to be there once."""
    message = honest(doors)
    plain, parts = message.encode(), signed_parts(message.encode())
    other = signed_parts(replace(message, transaction_id="OTHER").encode())
    attributes = set_of(*message.attributes())
    twice = scep.attribute(scep.TRANSACTION_ID, scep.printable("TX-A"), scep.printable("TX-B"))
    detached = [*parts[:2], seq(oid(scep.DATA)), *parts[3:]]

    def unsigned(fields: list[bytes]) -> list[bytes]:
        return [*fields[:3], *fields[4:]]

    in_the_open = [*parts[:2], seq(oid(scep.DATA), explicit(octets(attributes))), *parts[3:]]
    for what, data, text in (
        ("two signers", replace(message, signers=2).encode(), "2 signers"),
        (
            "two signers, one of another message",
            signed_of([*parts[:4], set_of(*children(parts[4]), *children(other[4]))]),
            "2 signers",
        ),
        ("no signer", signed_of([*parts[:4], set_of()]), "0 signers"),
        (
            "an attribute twice",
            replace(message, extra_attributes=[scep.attribute(scep.MESSAGE_TYPE, scep.printable("19"))]).encode(),
            "once",
        ),
        (
            "another type beside",
            replace(message, extra_attributes=[scep.attribute(scep.MESSAGE_TYPE, scep.printable("17"))]).encode(),
            "once",
        ),
        ("two values", replace(message, transaction_id=None, extra_attributes=[twice]).encode(), "once"),
        (
            "no value",
            replace(message, transaction_id=None, extra_attributes=[scep.attribute(scep.TRANSACTION_ID)]).encode(),
            "once",
        ),
        ("no signed attributes", with_signer(plain, unsigned), "no signed attributes"),
        ("the attributes as content", with_signer(signed_of(in_the_open), unsigned), "no signed attributes"),
        (
            "attributes that nobody signed",
            with_signer(plain, lambda fields: [*unsigned(fields), retag(0xA1, fields[3])]),
            "no signed",
        ),
        (
            "the attributes of another message",
            with_signer(plain, lambda fields: [*fields[:3], children(children(other[4])[0])[3], *fields[4:]]),
            "not by the key",
        ),
        (
            "other attributes before those",
            with_signer(plain, lambda fields: [*fields[:3], children(children(other[4])[0])[3], *fields[3:]]),
            "of another type",
        ),
        ("detached", signed_of(detached), "was changed on its way"),
        (
            "content of another type",
            signed_of([*parts[:2], seq(oid(PKI_DATA), children(parts[2])[1]), *parts[3:]]),
            "contentType",
        ),
        ("two contents", signed_of([*parts[:2], parts[2], parts[2], *parts[3:]]), "of another type"),
        ("the digest of something else", replace(message, content_digest=b"d" * 32).encode(), "was changed on its way"),
        (
            "a digest that nobody knows",
            with_signer(plain, lambda fields: [*fields[:2], seq(oid("1.2.3")), *fields[3:]]),
            "1.2.3",
        ),
        (
            "another digest than it signs with",
            with_signer(plain, lambda fields: [*fields[:2], seq(oid(scep.HASH_OIDS["sha512"])), *fields[3:]]),
            "was changed|not by the key",
        ),
        ("an empty signature", with_signer(plain, lambda fields: [*fields[:5], octets(b"")]), "not by the key"),
        ("a signature of zeros", with_signer(plain, lambda fields: [*fields[:5], octets(bytes(256))]), "not by the key"),
        ("a long signature", with_signer(plain, lambda fields: [*fields[:5], octets(b"\1" * 100_000)]), "not by the key"),
        ("no certificate", replace(message, bag=[]).encode(), "not in the message"),
        ("another certificate", replace(message, bag=[scep.der_of(doors.ra)]).encode(), "not in the message"),
        ("AuthenticatedData", signed_of(parts, kind=AUTHENTICATED_DATA), "AuthenticatedData"),
        ("EnvelopedData", signed_of(parts, kind=scep.ENVELOPED_DATA), ""),
        ("PKIData", signed_of(parts, kind=PKI_DATA), ""),
        ("a request in the clear", Wanted().csr(challenge=doors.secrets.challenge), ""),
        ("an envelope that nobody signed", message.content, ""),
    ):
        found = refused(doors.pki_operation(data), what)
        assert any(part in found[1] for part in text.split("|")), (what, found)


def by_certificate(doors: Doors, key: bytes, signature: bytes = b"", *, serial: int = 7) -> bytes:
    """A message whose signer has this key; its signature, unless given, is somebody else's."""
    message = honest(doors)
    message.bag = [certificate_of(key, serial=serial)]
    message.sid = seq(scep.name("device").public_bytes(), integer(serial))
    message.signature = signature or None
    return message.encode()


def test_keys_that_are_none_or_too_much_sign_nothing(doors: Doors) -> None:
    n, big = rsa_key("subscriber").public_key().public_numbers().n, (1 << 16_383) + 1
    for what, key, signature in (
        ("RSA with 16384 bits", rsa_spki(big, 65537), b"\1" * 2048),
        ("RSA with 16384 bits of exponent", rsa_spki(big, big), b"\1" * 2048),
        ("an exponent of 2048 bits", rsa_spki(n, n - 2), b"\1" * 256),
        ("RSA with 512 bits", rsa_spki((1 << 511) + 1, 65537), b"\1" * 64),
        ("an exponent of one", rsa_spki(n, 1), b"\0\1" + b"\xff" * 254),
        ("an exponent of zero", rsa_spki(n, 0), b""),
        ("an exponent of two", rsa_spki(n, 2), b""),
        ("an even exponent", rsa_spki(n, 1 << 40), b""),
        ("a negative exponent", rsa_spki(n, -65537), b""),
        ("an even modulus", rsa_spki(n - 1, 65537), b"\1" * 256),
        ("a power of two as modulus", rsa_spki(1 << 2047, 65537), b"\1" * 256),
        ("a modulus of zero", rsa_spki(0, 65537), b""),
        ("a negative modulus", rsa_spki(-n, 65537), b""),
        ("a modulus of 200 kB", rsa_spki(1 << 800_000 | 1, 65537), b""),
        ("EC P-256", spki_of(ec_key("device")), b""),
        ("a point on no curve", spki(seq(oid(EC), oid("1.2.840.10045.3.1.7")), b"\4" + b"\1" * 64), b""),
        ("a curve that nobody knows", spki(seq(oid(EC), oid("1.2.3.4")), b"\4" + b"\1" * 64), b""),
        ("DSA", spki(seq(oid(DSA)), integer(5)), b""),
        ("a key that signs nothing", spki(seq(oid(X25519)), b"\1" * 32), b""),
        ("RSASSA-PSS alone", spki(seq(oid("1.2.840.113549.1.1.10")), seq(integer(n), integer(65537))), b""),
        ("an algorithm that nobody knows", spki(seq(oid("1.2.3")), b"x"), b""),
        ("nothing", seq(), b""),
    ):
        assert refused(doors.pki_operation(by_certificate(doors, key, signature)), what)[0] in {
            "",
            BAD_ALG,
            BAD_MESSAGE_CHECK,
            BAD_REQUEST,
        }, what


def test_an_ec_signer_is_told_that_it_has_to_be_rsa(doors: Doors) -> None:
    fail_info, text = refused(doors.pki_operation(honest(doors, Wanted(key=lambda: ec_key("device"))).encode()), "EC")
    assert (fail_info, "RSA" in text) == (BAD_ALG, True)


def test_a_certificate_that_only_says_to_be_ours_is_nobodys(doors: Doors) -> None:
    ours = x509.load_pem_x509_certificate((doors.server.directory / "ca" / "devices.pem").read_bytes()).subject.public_bytes()
    device = scep.rsa_key("device")
    key = spki_of(device)
    content = enveloped(scep.csr(device, challenge=doors.secrets.challenge, sans=["host.example.test"]), doors.ra)
    for serial in (1, 0, -5, 1 << 160, 1 << 400_000, -(1 << 400_000)):
        for kind in ("17", "19", "20", "21", "22"):
            message = Message(key=device, content=content, transaction_id="TX-OURS", message_type=kind)
            message.bag = [certificate_of(key, issuer=ours, serial=serial)]
            message.sid = seq(ours, integer(serial))
            fail_info, text = refused(doors.pki_operation(message.encode()), f"{kind} by {serial.bit_length()} bits")
            assert fail_info in {BAD_REQUEST, "4"}, text
            assert len(text) <= 500


# ---------------------------------------------------------------------- sizes


def test_what_has_no_end_or_too_many_parts_is_refused_before_it_costs_anything(site: Site) -> None:
    doors, fill = site.doors, b"\x30\x80"
    parts = signed_parts(honest(doors).encode())
    stub = scep.der_of(scep.self_signed(scep.rsa_key("device")))
    many = retag(0xA0, seq(*[seq(b"\5\0", b"\5\0", b"\5\0")] * 10_000))
    for what, data in {
        **{
            f"256 KiB of {octet:02x}": bytes([octet]) * LIMIT
            for octet in (0x00, 0x02, 0x04, 0x05, 0x24, 0x30, 0x31, 0x80, 0xA0, 0xFF)
        },
        "256 KiB of sequences without end": fill * (LIMIT // 2),
        "256 KiB of strings without end": b"\x24\x80" * (LIMIT // 2),
        "256 KiB of NULLs in a sequence": b"\x30\x83\x03\xff\xf0" + b"\5\0" * 0x1FFF8,
        "a string in 100,000 pieces": b"\x24\x80" + b"\4\1x" * 80_000 + b"\0\0",
        "5,000 levels": nested(5_000),
        "33 levels": nested(33),
        "10,000 certificates": signed_of([*parts[:3], many, *parts[4:]]),
        "300 certificates": signed_of([*parts[:3], retag(0xA0, seq(*[stub] * 300)), *parts[4:]]),
        "10,000 attributes": with_signer(
            honest(doors).encode(),
            lambda fields: [*fields[:3], retag(0xA0, seq(*[scep.attribute("1.2.3", b"\5\0")] * 10_000)), *fields[4:]],
        ),
        "a length of 2^64": b"\x30\x88" + b"\xff" * 8,
        "a length of 126 octets": b"\x30\xfe" + b"\xff" * 126,
        "an OID of 200 kB": signed_of(parts)[:0] + seq(b"\6\x83\3\x0d\x40" + b"\xff" * 200_000),
        "one octet too many": bytes(LIMIT + 1),
    }.items():
        reply = doors.pki_operation(data)
        assert refused(reply, what)[0] in {"", BAD_REQUEST}, what
        assert reply.status in {400, 413, 200}, what
        assert len(reply.body) < 4_000, what


# ---------------------------------------------------------------------- what is said and written


TRANSACTIONS = {
    "a line break": "TX\nINJECTED",
    "a carriage return": "TX\r\nINJECTED",
    "a NUL": "TX\0INJECTED",
    "an escape sequence": "TX\x1b[2JINJECTED",
    "a DEL": "TX\x7fINJECTED",
    "another alphabet": "TX\u202eINJECTED",
    "nothing": "",
    "256 characters": "I" * 256,
    "100,000 characters": "I" * 100_000,
}
SHOWN = {
    "255 characters": "I" * 255,
    "a log line": '","level":"error","event":"INJECTED","x":"',
    "HTML": "<script>alert(1)</script>",
    "a format": "%s%n{0}{transaction.__class__}",
    "SQL": "'; DROP TABLE scep_transaction; --",
    "a path": "../../etc/passwd",
}


def test_a_transaction_id_writes_no_line_of_its_own_into_the_log(site: Site) -> None:
    doors, before = site.doors, len(site.server.log_text())
    for what, identifier in TRANSACTIONS.items():
        value = retag(0x0C, octets(identifier.encode()))
        message = replace(honest(doors), transaction_id=None, extra_attributes=[scep.attribute(scep.TRANSACTION_ID, value)])
        assert doors.pki_operation(message.encode()).status == 400, what
    for identifier in SHOWN.values():
        message = doors.pkcs_req(Wanted(), challenge="a guess")
        message.transaction_id = None
        value = retag(0x13, octets(identifier.encode()))
        reply = doors.pki_operation(replace(message, extra_attributes=[scep.attribute(scep.TRANSACTION_ID, value)]).encode())
        refused(reply, identifier)
        assert scep.parse_answer(reply.body).transaction_id == identifier
    written = site.server.log_text()[before:]
    assert all(character == "\n" or character.isprintable() for character in written)
    lines = [json.loads(line) for line in written.splitlines()]
    assert not [line for line in lines if line["event"] == "INJECTED" or line["level"] == "error"]
    assert any(SHOWN["a log line"] in text for line in lines for text in line.values() if isinstance(text, str))


def test_nothing_of_a_message_is_in_the_log_or_the_metrics(whole_site: Site, tmp_path: Path) -> None:
    """Granted, refused, unreadable, by POST and by GET: no challenge, no body, no query."""
    doors, before = whole_site.doors, len(whole_site.server.log_text())
    guess, challenge = f"guess-{os.urandom(8).hex()}", doors.secrets.challenge
    assert challenge is not None
    sent = []
    for get in (False, True):
        for message in (honest(doors), doors.pkcs_req(Wanted(), challenge=guess), replace(honest(doors), content=b"x")):
            sent.append(message.encode())
            doors.pki_operation(sent[-1], get=get)
            doors.pki_operation(sent[-1][:-1], get=get)
    written = whole_site.server.log_text()[before:] + whole_site.server.get(whole_site.server.metrics_url)[1].decode()
    for secret in (guess, challenge, "PKIOperation", "message=", "BEGIN "):
        assert secret not in written
    for body in sent:
        assert base64.b64encode(body)[40:80].decode() not in written
        assert body[40:80].hex() not in written


# ---------------------------------------------------------------------- again and again


def test_a_replayed_message_gets_the_certificate_that_it_got_and_never_another(whole_site: Site, tmp_path: Path) -> None:
    """Also eight at once, and by whoever has only listened: what comes back is encrypted to the key that asked."""
    doors, wanted = whole_site.doors, Wanted(names=("replayed.example.test",))
    for challenge in (doors.secrets.challenge, one_time(doors)):
        message = doors.pkcs_req(wanted, challenge=challenge).encode()
        before = whole_site.watch.books.count("certificate")
        with ThreadPoolExecutor(8) as several:
            replies = list(several.map(send, [doors] * 8, [message] * 8))
        replies += [send(doors, message) for _ in range(3)]
        granted = [reply for reply in replies if scep.parse_answer(reply.body).status == "0"]
        assert {scep.parse_answer(reply.body).status for reply in replies} <= {"0", "3"}
        serials = {doors.certificate(Door.SCEP_POST, reply, wanted, tmp_path).serial_number for reply in granted[-4:]}
        assert len(serials) == 1
        assert whole_site.watch.books.count("certificate") == before + 1
    whole_site.watch.begin()


def send(doors: Doors, message: bytes) -> Reply:
    """On a connection of its own."""
    mine = Doors(doors.server, doors.around)
    try:
        return mine.pki_operation(message)
    finally:
        mine.close()


def one_time(doors: Doors) -> str:
    made = run("scep", "challenge", "create", "--any-name", "--config", doors.server.config_file, "-o", "json").stdout
    challenge: str = json.loads(made)["challenge"]
    return challenge


def test_a_challenge_that_opens_once_opens_once_however_many_ask_at_once(whole_site: Site, tmp_path: Path) -> None:
    doors = whole_site.doors
    challenge, before = one_time(doors), whole_site.watch.books.count("certificate")
    messages = [
        doors.pkcs_req(Wanted(names=(f"race-{number}.example.test",)), challenge=challenge).encode() for number in range(8)
    ]
    with ThreadPoolExecutor(8) as several:
        answers = [scep.parse_answer(reply.body) for reply in several.map(lambda data: send(doors, data), messages)]
    assert sorted(answer.status for answer in answers) == ["0"] + ["2"] * 7
    assert whole_site.watch.books.count("certificate") == before + 1
    whole_site.watch.begin()


# ---------------------------------------------------------------------- what it costs


def cpu_seconds(site: Site) -> float:
    """Of every thread of the server, in nanoseconds' steps."""
    pids = [site.server.pid, *site.server.children()["worker"], *site.server.children()["signer"]]
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def cost(site: Site, messages: Sequence[bytes]) -> float:
    """CPU seconds of one of them, the least of three rounds: whatever else the machine does can only add."""
    rounds = []
    for _ in range(3):
        before = cpu_seconds(site)
        for message in messages:
            site.doors.pki_operation(message)
        time.sleep(0.02)  # what is written behind the answer is counted, too
        rounds.append((cpu_seconds(site) - before) / len(messages))
    return min(rounds)


def test_no_message_costs_much_more_than_an_honest_one(whole_site: Site) -> None:
    """Compared on the same machine at the same time. Not here: a guess at the challenge, which costs a scrypt; lock-outs are for those."""
    doors = whole_site.doors
    plain, parts = honest(doors).encode(), signed_parts(honest(doors).encode())
    big = (1 << 8_191) + 1
    stub = scep.der_of(scep.self_signed(scep.rsa_key("device")))
    foreign = enveloped_info(scep.self_signed(scep.rsa_key("foreign")))
    content = enveloped(b"", doors.ra)
    costly = {
        "4,000 NULLs": b"\x30\x82\x1f\x40" + b"\5\0" * 4_000,
        "4,000 sequences": b"\x30\x82\x1f\x40" + b"\x30\0" * 4_000,
        "a string in 4,000 pieces": b"\x24\x80" + b"\4\x3c" + b"x" * 60 + (b"\4\x3c" + b"x" * 60) * 4_000 + b"\0\0",
        "60 certificates": signed_of([*parts[:3], retag(0xA0, seq(*[stub] * 60)), *parts[4:]]),
        "900 attributes": replace(
            honest(doors), extra_attributes=[scep.attribute(f"1.2.3.{n}", b"\5\0") for n in range(900)]
        ).encode(),
        "300 recipients": with_content(doors, enveloped_of(content, infos=retag(0x31, seq(*[foreign] * 300)))),
        "240 kB of ciphertext": with_content(doors, enveloped(b"", doors.ra, ciphertext=bytes(240_000))),
        "RSA with 8192 bits": by_certificate(doors, rsa_spki(big, (1 << 63) + 1), b"\1" * 1024),
        "a serial of 200 kB": by_certificate(doors, rsa_spki(big, 65537), b"\1" * 1024, serial=1 << 1_600_000),
        "512 names": doors.pkcs_req(
            Wanted(names=tuple(f"h{n}.example.test" for n in range(512))), challenge=doors.secrets.challenge
        ).encode(),
    }
    for _ in range(20):
        doors.pki_operation(plain)
    usual = cost(whole_site, [honest(doors).encode() for _ in range(10)])
    found = {what: cost(whole_site, [message] * 5) / usual for what, message in costly.items()}
    assert max(found.values()) < 8, found
