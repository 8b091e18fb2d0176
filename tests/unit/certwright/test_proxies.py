"""What a proxy says of its client: four spellings of a certificate, two of an address, and who is believed."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from certwright.config import Config, parse
from certwright.proxies import (
    BadForwarding,
    Proxies,
    Proxy,
    SourceHeader,
    Spelling,
    forwarded_chain,
    hops,
    read_envoy,
    read_haproxy,
    read_nginx,
    read_rfc9440,
)
from certwright.yaml_positions import ConfigError
from est.connection import MAX_CHAIN
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import ThrowAwayCa

CA = ThrowAwayCa()
SPKI = CA.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
LEAF = CA.leaf(SPKI, (), "device").public_bytes(Encoding.DER)
OTHER = CA.leaf(SPKI, (), "other").public_bytes(Encoding.DER)
FUTURE = LEAF.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x04", 1)  # a certificate in all but its version, 5

PROXY, SECOND_PROXY, CLIENT = "10.0.0.5", "10.0.1.77", "203.0.113.9"
HEADER = {
    Spelling.RFC9440: "Client-Cert",
    Spelling.NGINX: "X-SSL-Client-Cert",
    Spelling.HAPROXY: "X-SSL-Client-Cert",
    Spelling.ENVOY: "X-Forwarded-Client-Cert",
}

Headers = CIMultiDictProxy[str]


def headers(*pairs: tuple[str, str]) -> Headers:
    return CIMultiDictProxy(CIMultiDict(pairs))


def b64(der: bytes) -> str:
    return base64.b64encode(der).decode()


def binary(der: bytes) -> str:
    return f":{b64(der)}:"


def pem(*certificates: bytes) -> str:
    """Percent-encoded as nginx and Envoy do."""
    text = "".join(
        f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(der).decode()}-----END CERTIFICATE-----\n" for der in certificates
    )
    return quote(text, safe="")


def written(spelling: Spelling, der: bytes) -> str:
    match spelling:
        case Spelling.RFC9440:
            return binary(der)
        case Spelling.NGINX:
            return pem(der)
        case Spelling.HAPROXY:
            return b64(der)
        case Spelling.ENVOY:
            return f'Hash=abc;Cert="{pem(der)}";Subject="CN=a,O=\\"b\\";x"'


def proxy(spelling: Spelling = Spelling.RFC9440, source: SourceHeader | None = None) -> Proxy:
    return Proxy((ip_network(f"{PROXY}/32"), ip_network("10.0.1.0/24")), spelling, HEADER[spelling], source)


class World:
    """The listed proxies, and what became known of strangers."""

    def __init__(self, *listed: Proxy) -> None:
        self.clock = FakeClock()
        self.counted = 0
        self.warned: list[str] = []
        self.proxies = Proxies(listed, clock=self.clock, ignored=self._count, warn=self.warned.append)

    def _count(self) -> None:
        self.counted += 1


# ---------------------------------------------------------------------- certificates


@pytest.mark.parametrize("spelling", Spelling)
def test_each_spelling_gives_the_certificate(spelling: Spelling) -> None:
    assert forwarded_chain(proxy(spelling), headers((HEADER[spelling].lower(), written(spelling, LEAF)))) == (LEAF,)


@pytest.mark.parametrize("spelling", Spelling)
def test_without_the_header_the_client_presented_nothing(spelling: Spelling) -> None:
    assert forwarded_chain(proxy(spelling), headers(("Accept", "*/*"))) == ()


@pytest.mark.parametrize("spelling", [Spelling.NGINX, Spelling.HAPROXY])
def test_a_variable_that_is_empty_is_no_certificate(spelling: Spelling) -> None:
    assert forwarded_chain(proxy(spelling), headers((HEADER[spelling], ""))) == ()


@pytest.mark.parametrize("spelling", Spelling)
def test_two_headers_are_refused_even_when_they_agree(spelling: Spelling) -> None:
    name, value = HEADER[spelling], written(spelling, LEAF)
    with pytest.raises(BadForwarding, match="twice"):
        forwarded_chain(proxy(spelling), headers((name, value), (name.lower(), value)))


@pytest.mark.parametrize("spelling", Spelling)
@pytest.mark.parametrize("other", Spelling)
def test_only_the_configured_spelling_counts(spelling: Spelling, other: Spelling) -> None:
    if HEADER[spelling] == HEADER[other]:
        if spelling is not other:
            with pytest.raises(BadForwarding):
                forwarded_chain(proxy(spelling), headers((HEADER[other], written(other, LEAF))))
        return
    assert forwarded_chain(proxy(spelling), headers((HEADER[other], written(other, LEAF)))) == ()
    with pytest.raises(BadForwarding):
        forwarded_chain(proxy(spelling), headers((HEADER[spelling], written(other, LEAF))))


@pytest.mark.parametrize("spelling", Spelling)
@pytest.mark.parametrize(
    "der",
    [b"", b"0", b"\x30\x00", LEAF[:-1], LEAF + b"\0", FUTURE],
    ids=["empty", "text", "nothing", "cut", "more", "version 5"],
)
def test_what_is_no_certificate_is_refused(spelling: Spelling, der: bytes) -> None:
    if spelling is Spelling.HAPROXY and not der:
        return  # an empty variable
    with pytest.raises(BadForwarding):
        forwarded_chain(proxy(spelling), headers((HEADER[spelling], written(spelling, der))))


def test_the_chain_of_rfc_9440_comes_in_a_list_of_its_own_in_one_header_or_more() -> None:
    # §2.3: "It MAY have a list of values or occur multiple times in a request."
    assert read_rfc9440(binary(LEAF), [f"{binary(OTHER)}, {binary(CA.der)}"]) == (LEAF, OTHER, CA.der)
    assert read_rfc9440(binary(LEAF), [binary(OTHER), binary(CA.der)]) == (LEAF, OTHER, CA.der)


def test_a_chain_without_its_leaf_is_refused() -> None:
    # §2.3: "Client-Cert-Chain MUST NOT appear unless Client-Cert is also present"
    with pytest.raises(BadForwarding, match="without Client-Cert"):
        read_rfc9440(None, [binary(CA.der)])


def test_padding_may_be_missing_in_a_byte_sequence() -> None:
    # RFC 8941 §4.2.7: parsers "SHOULD NOT fail" on it.
    assert read_rfc9440(binary(b"\x30\x00").replace("=", ""), []) == (b"\x30\x00",)


@pytest.mark.parametrize(
    "value", ["", ":", "abc", ":abc", ":a:b:", ":YQ==:;a=1", ":YQ==:, :YQ==:", ":YQ=:YQ:", ":Y Q==:", ':"YQ==":']
)
def test_what_is_no_byte_sequence_is_refused(value: str) -> None:
    with pytest.raises(BadForwarding):
        read_rfc9440(value, [])


def test_a_plus_of_base64_is_no_blank() -> None:
    der = bytes(range(256)) * 3
    assert "+" in b64(der)
    assert read_nginx(pem(der)) == (der,)
    assert read_nginx(pem(der).replace("%2B", "+")) == (der,)


@pytest.mark.parametrize(
    "value", [pem(LEAF, CA.der), pem(LEAF) + "x", "x" + pem(LEAF), b64(LEAF), "-----BEGIN CERTIFICATE-----"]
)
def test_nginx_says_one_certificate_and_nothing_else(value: str) -> None:
    with pytest.raises(BadForwarding):
        read_nginx(value)


def test_envoys_chain_begins_with_the_leaf() -> None:
    assert read_envoy(f'Cert="{pem(LEAF)}";Chain="{pem(LEAF, CA.der)}"') == (LEAF, CA.der)
    assert read_envoy(f'By=spiffe://a;chain="{pem(LEAF, CA.der)}";URI=https://b?c=d') == (LEAF, CA.der)


@pytest.mark.parametrize(
    "value",
    [
        f'Cert="{pem(LEAF)}",Cert="{pem(OTHER)}"',  # two hops
        f'Cert="{pem(LEAF)}";Cert="{pem(LEAF)}"',
        f'Cert="{pem(OTHER)}";Chain="{pem(LEAF, CA.der)}"',
        f'Cert="{pem(LEAF, CA.der)}"',
        'Hash=abc;Subject="CN=a"',  # Envoy was not told to send it
        'Cert=""',
        "Cert=",
        'Cert="' + pem(LEAF),
        f'Cert="{pem(LEAF)}";',
        "",
        "nonsense",
    ],
)
def test_what_envoy_says_is_one_element_with_one_certificate(value: str) -> None:
    with pytest.raises(BadForwarding):
        read_envoy(value)


def test_a_subject_in_quotes_is_no_second_certificate() -> None:
    # The subject is the client's own choice.
    assert read_envoy(f'Subject="CN=a\\",Cert=\\"{pem(OTHER)}";Cert="{pem(LEAF)}"') == (LEAF,)


def test_a_chain_has_an_end() -> None:
    with pytest.raises(BadForwarding, match="more than"):
        forwarded_chain(
            proxy(), headers(("Client-Cert", binary(LEAF)), ("Client-Cert-Chain", ",".join([binary(CA.der)] * MAX_CHAIN)))
        )


PIECES = st.sampled_from(
    [":", ";", ",", '"', "\\", "=", "%", "%2", "%0A", " ", "Cert=", "Chain=", 'Cert="', "é", "+", b64(LEAF), pem(LEAF)]
)
TEXTS = st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=8).map("".join))


@given(st.sampled_from(Spelling), TEXTS, TEXTS)
def test_a_header_gives_certificates_or_bad_forwarding_and_nothing_else(spelling: Spelling, value: str, above: str) -> None:
    given_headers = headers((HEADER[spelling], value), ("Client-Cert-Chain", above))
    try:
        chain = forwarded_chain(proxy(spelling), given_headers)
    except BadForwarding as bad:
        assert not value.strip() or value not in str(bad) or len(value) < 40
    else:
        assert all(isinstance(der, bytes) and der for der in chain)


@given(st.binary(min_size=1, max_size=200))
def test_every_spelling_reads_what_it_writes(octets: bytes) -> None:
    assert read_rfc9440(binary(octets), [binary(octets)]) == (octets, octets)
    assert read_nginx(pem(octets)) == (octets,)
    assert read_haproxy(b64(octets)) == (octets,)
    assert read_envoy(written(Spelling.ENVOY, octets)) == (octets,)


# ---------------------------------------------------------------------- who is believed


@pytest.mark.parametrize("spelling", Spelling)
def test_a_listed_address_speaks_for_its_client(spelling: Spelling) -> None:
    for address in (PROXY, SECOND_PROXY, f"::ffff:{PROXY}"):
        said = World(proxy(spelling)).proxies.said(
            address, headers((HEADER[spelling], written(spelling, LEAF))), presented=None
        )
        assert said is not None
        assert said.chain == (LEAF,)


@pytest.mark.parametrize("spelling", Spelling)
@pytest.mark.parametrize("listed", [(), (proxy(Spelling.RFC9440),)], ids=["nobody listed", "somebody listed"])
@pytest.mark.parametrize("remote", [CLIENT, "10.0.0.6", "10.0.2.1", "::1", "", "unix"])
def test_anybody_else_is_not_heard_but_counted(spelling: Spelling, listed: tuple[Proxy, ...], remote: str) -> None:
    world = World(*listed)
    assert world.proxies.said(remote, headers((HEADER[spelling], written(spelling, LEAF))), presented=None) is None
    assert (world.counted, world.warned) == (1, [remote])


def test_strangers_are_logged_once_a_minute_however_many_they_are() -> None:
    world = World()
    for _ in range(3):
        world.proxies.said(CLIENT, headers(("client-cert", "x")), presented=None)
    assert (world.counted, world.warned) == (3, [CLIENT])
    world.clock.advance(timedelta(seconds=61))
    world.proxies.said("192.0.2.1", headers(("client-cert", "x")), presented=None)
    assert (world.counted, world.warned) == (4, [CLIENT, "192.0.2.1"])


def test_a_request_without_such_a_header_is_nobodys_trick() -> None:
    world = World()
    assert world.proxies.said(CLIENT, headers(("X-Forwarded-For", "1.2.3.4")), presented=None) is None
    assert world.counted == 0


def test_what_a_proxy_presents_itself_is_never_its_clients() -> None:
    said = World(proxy()).proxies.said(PROXY, headers(), presented=OTHER)
    assert said is not None
    assert said.chain == ()


def test_a_proxy_that_presents_another_certificate_than_it_forwards_is_refused() -> None:
    world = World(proxy())
    given_headers = headers(("Client-Cert", binary(LEAF)))
    with pytest.raises(BadForwarding, match="its own"):
        world.proxies.said(PROXY, given_headers, presented=OTHER)
    assert world.proxies.said(PROXY, given_headers, presented=LEAF) is not None


# ---------------------------------------------------------------------- addresses

FOR, FORWARDED = SourceHeader.X_FORWARDED_FOR, SourceHeader.FORWARDED


@pytest.mark.parametrize(
    ("source", "lines", "expected"),
    [
        (FOR, [CLIENT], CLIENT),
        (FOR, [f"6.6.6.6, {CLIENT}"], CLIENT),  # what a client claims stands before what the proxy saw
        (FOR, ["6.6.6.6", CLIENT], CLIENT),
        (FOR, [f"{CLIENT}, {SECOND_PROXY}"], CLIENT),
        (FOR, [f"6.6.6.6, {CLIENT}, {SECOND_PROXY}, {PROXY}"], CLIENT),
        (FOR, [f"{CLIENT}:54321"], CLIENT),
        (FOR, ["2001:db8::9"], "2001:db8::9"),
        (FOR, ["[2001:db8::9]:443"], "2001:db8::9"),
        (FOR, [f"::ffff:{CLIENT}"], CLIENT),
        (FOR, [SECOND_PROXY], SECOND_PROXY),
        (FOR, ["unknown"], None),
        (FOR, [f"{CLIENT}, unknown"], None),
        (FOR, [f"unknown, {SECOND_PROXY}"], SECOND_PROXY),
        (FOR, [""], None),
        (FOR, [], None),
        (FORWARDED, [f"for={CLIENT}"], CLIENT),
        (FORWARDED, [f'for=6.6.6.6, for="{CLIENT}:123";proto=https;by={PROXY}'], CLIENT),
        (FORWARDED, ["for=6.6.6.6", f"proto=https;FOR={CLIENT}"], CLIENT),
        (FORWARDED, ['for="[2001:db8::9]:443"'], "2001:db8::9"),
        # The Host is the client's to choose.
        (FORWARDED, [f'for={CLIENT};host="x, for=6.6.6.6"'], CLIENT),
        (FORWARDED, [f'for={CLIENT};host="\\", for=6.6.6.6"'], CLIENT),
        (FORWARDED, ["for=_hidden"], None),
        (FORWARDED, ["proto=https"], None),
        (FORWARDED, [], None),
    ],
)
def test_the_source_is_the_last_hop_that_is_no_proxy_of_ours(
    source: SourceHeader, lines: list[str], expected: str | None
) -> None:
    given_headers = headers(*((source.value, line) for line in lines))
    said = World(proxy(source=source)).proxies.said(PROXY, given_headers, presented=None)
    assert said is not None
    assert said.source == expected


@pytest.mark.parametrize("line", ["for", "for=", 'for="', "for=1.2.3.4,", "for=1.2.3.4;", f'"x, for={CLIENT}', "for=a b"])
def test_a_forwarded_header_that_cannot_be_read_is_refused(line: str) -> None:
    with pytest.raises(BadForwarding):
        hops(FORWARDED, headers(("Forwarded", line)))


def test_without_source_address_nobody_is_asked_for_one() -> None:
    said = World(proxy()).proxies.said(PROXY, headers(("X-Forwarded-For", CLIENT), ("Forwarded", "nonsense")), presented=None)
    assert said is not None
    assert said.source is None


@given(st.sampled_from(SourceHeader), st.lists(TEXTS, max_size=3))
def test_an_address_header_gives_an_address_or_nothing_or_bad_forwarding(source: SourceHeader, lines: list[str]) -> None:
    try:
        said = World(proxy(source=source)).proxies.said(
            PROXY, headers(*((source.value, line) for line in lines)), presented=None
        )
    except BadForwarding:
        return
    assert said is not None


# ---------------------------------------------------------------------- configuration

NGINX = 'proxies: [{addresses: ["10.0.0.5", "10.0.1.0/24"], client_certificate: nginx, header: ssl-client-cert, source_address: forwarded}]\n'


@pytest.fixture
def read(made: Path) -> Callable[[str], Config]:
    file = made / "certwright.yaml"
    return lambda more: parse(file, f"{file.read_text()}\n{more}", {})


def test_nobody_is_listed_unless_the_file_says_so(read: Callable[[str], Config]) -> None:
    assert read("").proxies == ()


def test_the_file_says_who_and_how(read: Callable[[str], Config]) -> None:
    networks = (ip_network("10.0.0.5/32"), ip_network("10.0.1.0/24"))
    assert read(NGINX).proxies == (Proxy(networks, Spelling.NGINX, "ssl-client-cert", SourceHeader.FORWARDED),)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("proxies: [{addresses: [], client_certificate: nginx}]", "list at least one"),
        ('proxies: [{addresses: ["0.0.0.0/0"], client_certificate: nginx}]', "everybody"),
        ('proxies: [{addresses: ["::/0"], client_certificate: nginx}]', "everybody"),
        ('proxies: [{addresses: ["::ffff:10.0.0.5"], client_certificate: nginx}]', "write it as 10.0.0.5/32"),
        ('proxies: [{addresses: ["::ffff:10.0.1.0/120"], client_certificate: nginx}]', "write it as 10.0.1.0/24"),
        (
            'proxies: [{addresses: ["proxy.example.com"], client_certificate: nginx}]',
            "does not appear to be an IPv4 or IPv6 network",
        ),
        ('proxies: [{addresses: ["10.0.0.5"], client_certificate: traefik}]', "rfc9440, nginx, haproxy, envoy"),
        ('proxies: [{addresses: ["10.0.0.5"], client_certificate: envoy, header: X-Other}]', "a name of its own"),
        (
            'proxies: [{addresses: ["10.0.0.0/24"], client_certificate: nginx}, {addresses: ["10.0.0.5"], client_certificate: envoy}]',
            "listed already",
        ),
    ],
)
def test_what_would_let_in_too_many_or_nobody_is_refused(read: Callable[[str], Config], more: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(more)
    assert says in str(refused.value)


def test_a_linked_proof_is_impossible_behind_a_proxy_and_so_both_together_are_refused(made: Path) -> None:
    file = made / "certwright.yaml"
    text = file.read_text().replace("authenticate: [basic,", "proof_linking: required, authenticate: [basic,")
    assert parse(file, text, {}).est["default"].proof_linking == "required"
    with pytest.raises(ConfigError) as refused:
        parse(file, text + NGINX, {})
    assert "a proxy ends the TLS connection" in str(refused.value)
    parse(file, text.replace("proof_linking: required", "proof_linking: optional") + NGINX, {})
