"""tls-alpn-01 as subscribers' servers meet it: RFC 8737, RFC 8738 §6, and everything that must not pass for it."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from pki import der
from pki.identifiers import DnsName, Identifier, parse_dns, parse_ip
from tests.helpers.alpn import (
    ACME_IDENTIFIER,
    DRAFT_IDENTIFIER,
    SUBJECT_ALTERNATIVE_NAME,
    AlpnTarget,
    Shown,
    acme_identifier,
    digest_of,
    dns,
    extension,
    names,
)
from tests.helpers.challenges import challenge
from tests.helpers.dns import DnsFault
from tests.helpers.world import World
from validation.outcome import Failed, FailureKind, Outcome, Proved
from validation.reach import Failure
from validation.tlsalpn01 import judge, server_name, tlsalpn01

TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
PROOF = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
NAME = parse_dns("www.example.com")
RIGHT = Shown((dns("www.example.com"), acme_identifier(PROOF)))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as simulated:
        simulated.dns[NAME.name] = ["127.0.0.1"]
        yield simulated


async def attempt(world: World, port: int, *allow: str, identifier: Identifier = NAME, deadline: float = 10) -> Outcome:
    return await tlsalpn01(
        challenge(identifier, PROOF),
        resolver=world.resolver(),
        egress=world.egress(*allow),
        clock=world.clock,
        port=port,
        deadline=deadline,
    )


def failed(outcome: Outcome, kind: FailureKind) -> Failed:
    assert isinstance(outcome, Failed), outcome
    assert outcome.kind is kind, outcome
    assert str(outcome.evidence.identifier) in outcome.detail  # says which name
    return outcome


# --- what proves control


async def test_the_right_certificate_proves_control_and_no_octet_of_data_is_sent(world: World) -> None:
    async with AlpnTarget(RIGHT) as target:
        outcome = await attempt(world, target.port)
        assert isinstance(outcome, Proved), outcome
        assert target.server_names == ["www.example.com"]
        await asyncio.sleep(0)
        assert target.received == b""
    assert outcome.evidence.as_json() | {"started": 0, "finished": 0} == {
        "method": "tls-alpn-01",
        "identifier": "www.example.com",
        "resolver": world.dns.address,
        "resolved": ["127.0.0.1"],
        "tried": ["127.0.0.1"],
        "redirects": [],
        "status": None,
        "records": [],
        "secure": False,
        "attempts": 1,
        "perspectives": [],
        "started": 0,
        "finished": 0,
    }


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(Shown((acme_identifier(PROOF), dns("WWW.Example.COM"))), id="another case, another order"),
        pytest.param(
            Shown((dns("www.example.com"), acme_identifier(PROOF), extension("2.5.29.19", b"\x30\0", critical=True))),
            id="a further extension",
        ),
        pytest.param(
            Shown((dns("www.example.com"), acme_identifier(PROOF), extension("1.2.3.4", b"\xff\xff"))),
            id="a further extension that nobody can read",
        ),
        pytest.param(Shown(RIGHT.extensions, at_most=ssl.TLSVersion.TLSv1_2), id="TLS 1.2"),
        pytest.param(Shown(RIGHT.extensions, alpn=("h2", "acme-tls/1")), id="more protocols than ours"),
    ],
)
async def test_it_may_look_different(world: World, shown: Shown) -> None:
    async with AlpnTarget(shown) as target:
        assert isinstance(await attempt(world, target.port), Proved)


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("127.0.0.1", "1.0.0.127.in-addr.arpa"),
        ("::1", "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa"),
    ],
)
async def test_an_address_is_asked_for_by_its_reverse_name(world: World, text: str, sent: str) -> None:
    """RFC 8738 §6."""
    identifier = parse_ip(text)
    shown = Shown((names((0x87, identifier.address.packed)), acme_identifier(PROOF)))
    async with AlpnTarget(shown, text) as target:
        assert isinstance(await attempt(world, target.port, identifier=identifier), Proved)
        assert target.server_names == [sent]
    assert world.dns.queries == []


def test_the_reverse_names_are_those_of_the_rfc() -> None:
    """RFC 8738 §6's examples."""
    assert server_name(parse_ip("192.0.2.1")) == "1.2.0.192.in-addr.arpa"
    assert server_name(parse_ip("2001:db8::1")) == "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"


async def test_a_wildcard_cannot_even_be_asked_for(world: World) -> None:
    with pytest.raises(ValueError, match="wildcard"):
        await attempt(world, 9, identifier=DnsName("example.com", wildcard=True))


# --- what does not: the negative matrix of RFC 8737

SAN = dns("www.example.com")
ACME = acme_identifier(PROOF)
DIGEST = digest_of(PROOF)


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        pytest.param(Shown(()), "no subjectAltName", id="no extension at all"),
        pytest.param(Shown((SAN,)), "no acmeIdentifier", id="no acmeIdentifier"),
        pytest.param(
            Shown((SAN, extension(DRAFT_IDENTIFIER, DIGEST, critical=True))), "no acmeIdentifier", id="the draft's identifier"
        ),
        pytest.param(
            Shown((SAN, extension("1.3.6.1.5.5.7.1.32", DIGEST, critical=True))), "no acmeIdentifier", id="a neighbour's"
        ),
        pytest.param(Shown((SAN, extension(ACME_IDENTIFIER, DIGEST))), "not critical", id="not critical"),
        pytest.param(Shown((SAN, acme_identifier(PROOF + "x"))), "not the SHA-256", id="another key authorization"),
        pytest.param(Shown((SAN, acme_identifier(TOKEN))), "not the SHA-256", id="the token alone"),
        pytest.param(
            Shown((SAN, extension(ACME_IDENTIFIER, der.encode(der.OCTET_STRING, b"x" * 31), critical=True))),
            "32 octets",
            id="31 octets",
        ),
        pytest.param(
            Shown((SAN, extension(ACME_IDENTIFIER, der.encode(der.OCTET_STRING, DIGEST[2:] + b"x"), critical=True))),
            "32 octets",
            id="33 octets",
        ),
        pytest.param(Shown((SAN, extension(ACME_IDENTIFIER, DIGEST[2:], critical=True))), "it ", id="no OCTET STRING inside"),
        pytest.param(
            Shown((SAN, extension(ACME_IDENTIFIER, b"\x0c" + DIGEST[1:], critical=True))), "tag", id="a UTF8String inside"
        ),
        pytest.param(
            Shown((SAN, extension(ACME_IDENTIFIER, DIGEST + b"\x05\0", critical=True))), "behind", id="more behind it"
        ),
        pytest.param(Shown((SAN, ACME, ACME)), "twice", id="acmeIdentifier twice"),
        pytest.param(
            Shown((SAN, ACME, extension("1.2.3", b""), extension("1.2.3", b""))), "twice", id="another extension twice"
        ),
        pytest.param(Shown((ACME,)), "no subjectAltName", id="no subjectAltName"),
        pytest.param(Shown((names(), ACME)), "0 names", id="no name"),
        pytest.param(Shown((dns("other.example.com"), ACME)), "not the dNSName", id="another name"),
        pytest.param(Shown((dns("example.com"), ACME)), "not the dNSName", id="the parent"),
        pytest.param(Shown((dns("*.example.com"), ACME)), "not the dNSName", id="a wildcard"),
        pytest.param(Shown((dns("www.example.com."), ACME)), "not the dNSName", id="a dot behind it"),
        pytest.param(Shown((dns("www.example.com\0.evil.example"), ACME)), "not the dNSName", id="a NUL behind it"),
        pytest.param(
            Shown((names((0x82, b"www.example.com"), (0x82, b"www.example.com")), ACME)), "2 names", id="the name twice"
        ),
        pytest.param(Shown((names((0x82, b"www.example.com"), (0x82, b"evil.example")), ACME)), "2 names", id="a second name"),
        pytest.param(
            Shown((names((0x82, b"www.example.com"), (0x87, b"\x7f\0\0\1")), ACME)), "2 names", id="an address besides"
        ),
        pytest.param(
            Shown((names((0x82, b"www.example.com"), (0x81, b"a@b.example")), ACME)), "2 names", id="a mail address besides"
        ),
        pytest.param(Shown((names((0x81, b"www.example.com")), ACME)), "not the dNSName", id="as a mail address"),
        pytest.param(Shown((names((0x86, b"www.example.com")), ACME)), "not the dNSName", id="as a URI"),
        pytest.param(Shown((SAN, ACME), issuer="Somebody else"), "issuer is not its subject", id="issued by another name"),
        pytest.param(Shown((SAN, ACME), signed_by_another=True), "signature is not by its own key", id="signed by another key"),
        pytest.param(Shown((SAN, ACME), alpn=()), "ALPN", id="no ALPN"),
        pytest.param(Shown((SAN, ACME), alpn=("h2", "http/1.1")), "ALPN", id="another ALPN"),
        pytest.param(Shown((SAN, ACME), alpn=("acme-tls/1.0",)), "ALPN", id="nearly the ALPN"),
    ],
)
async def test_anything_less_or_more_does_not(world: World, shown: Shown, words: str) -> None:
    async with AlpnTarget(shown) as target:
        outcome = await attempt(world, target.port)
        if isinstance(outcome, Failed) and outcome.kind is FailureKind.TLS:  # a TLS library may refuse first: no protocol
            assert shown.alpn != ("acme-tls/1",)
            return
        assert words in failed(outcome, FailureKind.UNAUTHORIZED).detail


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        pytest.param(Shown((SAN, SAN, ACME)), "twice", id="subjectAltName twice"),
        pytest.param(
            Shown((extension(SUBJECT_ALTERNATIVE_NAME, b"\xff"), ACME)),
            "it has|it ends|bytes behind",
            id="a broken subjectAltName",
        ),
        pytest.param(
            Shown((extension(SUBJECT_ALTERNATIVE_NAME, der.encode(der.SEQUENCE, b"\x82\x0f" + b"w") + b"x"), ACME)),
            "it has|it ends|bytes behind",
            id="a cut subjectAltName",
        ),
    ],
)
def test_certificates_that_no_tls_library_would_show_do_not_either(shown: Shown, words: str) -> None:
    with pytest.raises(Failure, match=words):
        judge(shown.certificate(), NAME, PROOF)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_tls_below_1_2_is_no_session(world: World, version: ssl.TLSVersion) -> None:
    """Let's Encrypt, January 2022."""
    async with AlpnTarget(Shown(RIGHT.extensions, at_most=version)) as target:
        assert failed(await attempt(world, target.port), FailureKind.TLS).problem == "tls"


async def test_a_name_does_not_prove_the_address_and_an_address_not_the_name(world: World) -> None:
    reverse = "1.0.0.127.in-addr.arpa"
    address = parse_ip("127.0.0.1")
    for identifier, shown in (
        (address, Shown((dns(reverse), ACME))),
        (address, Shown((dns("127.0.0.1"), ACME))),
        (address, Shown((names((0x87, b"\x7f\0\0\2")), ACME))),
        (address, Shown((names((0x87, bytes(12) + b"\x7f\0\0\1")), ACME))),
        (NAME, Shown((names((0x87, b"\x7f\0\0\1")), ACME))),
    ):
        async with AlpnTarget(shown) as target:
            failed(await attempt(world, target.port, identifier=identifier), FailureKind.UNAUTHORIZED)


@pytest.mark.parametrize(
    ("key", "right"),
    [
        pytest.param(rsa.generate_private_key(65537, 2048), True, id="RSA"),
        pytest.param(ec.generate_private_key(ec.SECP384R1()), True, id="P-384"),
        pytest.param(ed25519.Ed25519PrivateKey.generate(), True, id="Ed25519"),
        pytest.param(dsa.generate_private_key(2048), False, id="DSA"),
    ],
)
def test_the_kinds_of_keys_that_clients_make_are_enough(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | dsa.DSAPrivateKey, right: bool
) -> None:
    """As a library makes the certificate, too; and nobody has us compute with what no client needs."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ACME challenge")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2020, 2, 1, tzinfo=dt.UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME.name)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(ACME_IDENTIFIER), digest_of(PROOF)), critical=True)
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
    if right:
        judge(certificate, NAME, PROOF)
        return
    with pytest.raises(Failure, match="neither EC"):
        judge(certificate, NAME, PROOF)


async def test_what_the_certificate_says_does_not_come_back(world: World) -> None:
    shown = Shown((dns("secret.internal.example"), ACME), issuer="secret CA")
    async with AlpnTarget(shown) as first, AlpnTarget(Shown((dns("secret.internal.example"), ACME))) as second:
        for port in (first.port, second.port):
            assert "secret" not in repr(await attempt(world, port))


@given(st.binary(max_size=300))
def test_any_octets_are_refused_with_a_reason(octets: bytes) -> None:
    with pytest.raises(Failure):
        judge(octets, NAME, PROOF)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # a serial of zero is only warned of
@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_no_single_octet_of_the_right_certificate_can_be_another(at: int, change: int) -> None:
    right = bytearray(RIGHT.certificate())
    at %= len(right)
    right[at] ^= change
    with pytest.raises(Failure):
        judge(bytes(right), NAME, PROOF)


def test_a_signature_that_is_no_whole_number_of_octets_is_refused() -> None:
    """Where its last octet is even, one bit of it could be said to be unused, and the rest would still verify."""
    right = RIGHT.certificate()
    while right[-1] % 2:
        right = RIGHT.certificate()
    [*_, signature] = der.children(der.whole(right, der.SEQUENCE).content)
    judge(right, NAME, PROOF)
    at = len(right) - len(signature.content)
    with pytest.raises(Failure, match="cannot be read"):
        judge(right[:at] + b"\x01" + right[at + 1 :], NAME, PROOF)


@pytest.mark.parametrize("tag", [0x01, 0x03, 0x05, 0x1E], ids=["a BOOLEAN", "a BIT STRING", "a NULL", "half a BMPString"])
def test_a_name_that_is_none_is_judged_like_every_other_name(tag: int) -> None:
    """What RFC 8737 does not ask for need not be readable: the library's own names raise what nobody expects."""
    text = b"\x0c\x0eACME challenge"
    tbs, algorithm, _ = der.children(der.whole(RIGHT.certificate(), der.SEQUENCE).content)
    assert tbs.raw.count(text) == 2
    odd = tbs.raw.replace(text, bytes((tag,)) + text[1:])
    signature = RIGHT.key.sign(odd, ec.ECDSA(hashes.SHA256()))
    judge(der.encode(der.SEQUENCE, odd + algorithm.raw + der.encode(der.BIT_STRING, b"\0" + signature)), NAME, PROOF)


# --- where it connects to


async def test_ipv6_is_tried_first(world: World) -> None:
    world.dns[NAME.name] = ["127.0.0.1", "::1"]
    async with AlpnTarget(RIGHT, "127.0.0.1", "::1") as target:
        outcome = await attempt(world, target.port)
    assert isinstance(outcome, Proved)
    assert outcome.evidence.tried == ("::1",)


async def test_ipv4_is_tried_once_when_ipv6_gives_no_connection(world: World) -> None:
    world.dns[NAME.name] = ["127.0.0.1", "127.0.0.2", "::1"]
    async with AlpnTarget(RIGHT, "127.0.0.1", "127.0.0.2") as target:
        outcome = await attempt(world, target.port)
    assert isinstance(outcome, Proved)
    assert outcome.evidence.tried in {("::1", "127.0.0.1"), ("::1", "127.0.0.2")}


async def test_a_second_ipv4_address_is_not_tried(world: World) -> None:
    world.dns[NAME.name] = ["127.0.0.1", "127.0.0.2"]
    outcome = failed(await attempt(world, 1), FailureKind.CONNECTION)
    assert len(outcome.evidence.tried) == 1


async def test_ipv4_is_not_tried_after_a_wrong_certificate_by_ipv6(world: World) -> None:
    world.dns[NAME.name] = ["127.0.0.1", "::1"]
    async with AlpnTarget(Shown((dns("other.example.com"), ACME)), "::1") as wrong, AlpnTarget(RIGHT, port=wrong.port) as right:
        failed(await attempt(world, wrong.port), FailureKind.UNAUTHORIZED)
        assert right.server_names == []


async def test_a_closed_port_is_a_connection_failure(world: World) -> None:
    assert "Connection refused" in failed(await attempt(world, 1), FailureKind.CONNECTION).detail


async def test_a_name_without_address_is_a_dns_failure(world: World) -> None:
    world.dns.faults[NAME.name] = DnsFault.SERVFAIL
    assert "SERVFAIL" in failed(await attempt(world, 1), FailureKind.DNS).detail


async def test_a_port_that_speaks_no_tls_is_a_tls_failure(world: World) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.internal.example secret\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as mail:
        outcome = failed(await attempt(world, mail.sockets[0].getsockname()[1]), FailureKind.TLS)
    assert "secret" not in repr(outcome)


async def test_a_handshake_that_never_ends_ends_by_the_deadline(world: World) -> None:
    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        assert "handshake" in failed(await attempt(world, port, deadline=0.2), FailureKind.TIMEOUT).detail
