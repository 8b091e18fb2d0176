"""DNS by hand, next to dnspython as the oracle; and whatever bytes come in, a reply, None or Malformed goes out."""

from __future__ import annotations

import itertools

import dns.flags
import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation import dnswire
from validation.dnswire import AliasLoop, Malformed, RecordType, Reply

IDENT = 0x1234
SECTION = dnswire.question(dnswire.labels("www.Example.com"), RecordType.A)

_label = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=63)
_names = st.lists(_label, min_size=1, max_size=3).map(".".join)


def answer(*records: tuple[str, str, str], name: str = "www.example.com", recursive: bool = True) -> bytes:
    message = dns.message.make_response(dns.message.make_query(name, "A"))
    message.id = IDENT
    if recursive:
        message.flags |= dns.flags.RA
    message.answer = [dns.rrset.from_text(f"{owner}.", 60, "IN", kind, text) for owner, kind, text in records]
    return message.to_wire()


def data(*octets: int) -> tuple[bytes, ...]:
    return (bytes(octets),)


@given(_names, st.sampled_from([RecordType.A, RecordType.AAAA, RecordType.TXT]), st.integers(0, 0xFFFF))
def test_queries_are_what_dnspython_writes(name: str, wanted: RecordType, ident: int) -> None:
    theirs = dns.message.make_query(name, wanted.name)
    theirs.id = ident
    theirs.flags |= dns.flags.AD
    assert dnswire.query(ident, dnswire.question(dnswire.labels(name), wanted)) == theirs.to_wire()


@given(_names, st.sampled_from([RecordType.CAA, RecordType.TXT]), st.integers(0, 0xFFFF))
def test_queries_with_edns_are_what_dnspython_writes(name: str, wanted: RecordType, ident: int) -> None:
    theirs = dns.message.make_query(name, wanted.name, use_edns=0, payload=dnswire.UDP_PAYLOAD)
    theirs.id = ident
    theirs.flags |= dns.flags.AD
    assert dnswire.query(ident, dnswire.question(dnswire.labels(name), wanted), edns=True) == theirs.to_wire()


def test_a_ttl_with_its_highest_bit_set_is_none() -> None:
    """RFC 2181 §8."""
    wire = answer(("www.example.com", "A", "192.0.2.1"))
    reply = dnswire.reply(wire.replace((60).to_bytes(4), (0x8000_0000).to_bytes(4)), IDENT, SECTION)
    assert reply is not None
    assert reply.ttl == 0


@pytest.mark.parametrize("position", ["authority", "additional"])
def test_the_error_that_only_edns_tells_is_found_where_edns_has_its_place(position: str) -> None:
    message = dns.message.make_response(dns.message.make_query("www.example.com", "A"))
    message.id = IDENT
    message.authority = [dns.rrset.from_text("example.com.", 60, "IN", "NS", "ns.example.com.")]
    message.use_edns(0, ednsflags=1 << 24)
    wire = message.to_wire()
    if position == "authority":  # an OPT there is no OPT
        wire = wire[:8] + b"\0\2\0\0" + wire[12:]
    reply = dnswire.reply(wire, IDENT, SECTION)
    assert reply is not None
    assert reply.rcode == (16 if position == "additional" else 0)


@given(_names, st.lists(_names, max_size=5, unique=True), st.lists(st.ip_addresses(v=4), min_size=1, max_size=4, unique=True))
def test_what_dnspython_writes_is_read(name: str, chain: list[str], addresses: list[object]) -> None:
    owners = [name, *(link for link in chain if link != name)]
    records = [(a, "CNAME", f"{b}.") for a, b in itertools.pairwise(owners)]
    wire = answer(*records, *((owners[-1], "A", str(address)) for address in addresses), name=name)
    reply = dnswire.reply(wire, IDENT, dnswire.question(dnswire.labels(name), RecordType.A))
    assert reply is not None
    assert reply.follow is None
    assert {".".join(map(str, rdata)) for rdata in reply.data} == set(map(str, addresses))


def test_names_compare_without_regard_to_case() -> None:
    """RFC 4343."""
    wire = answer(
        ("WWW.EXAMPLE.COM", "CNAME", "Other.Example.NET."), ("oTHER.example.net", "A", "192.0.2.1"), name="wWw.example.com"
    )
    assert dnswire.reply(wire, IDENT, SECTION) == Reply(0, truncated=False, data=data(192, 0, 2, 1), follow=None, ttl=60)


def test_addresses_of_other_names_in_the_answer_are_nobodys() -> None:
    wire = answer(("evil.example.net", "A", "203.0.113.66"), ("www.example.com", "AAAA", "::1"))
    assert dnswire.reply(wire, IDENT, SECTION) == Reply(0, truncated=False, data=(), follow=None)


def test_an_alias_that_a_server_did_not_follow_is_to_be_followed() -> None:
    alias = ("www.example.com", "CNAME", "a.example.net.")
    reply = dnswire.reply(answer(alias, recursive=False), IDENT, SECTION)
    assert reply is not None
    assert reply.follow == (b"a", b"example", b"net")
    recursed = dnswire.reply(answer(alias), IDENT, SECTION)
    assert recursed is not None
    assert recursed.follow is None


def test_aliases_in_a_circle_are_noticed() -> None:
    around = [("www.example.com", "CNAME", "b.example."), ("b.example", "CNAME", "www.example.com.")]
    long = [(f"{'www.example.com' if i == 0 else f'n{i}.example'}", "CNAME", f"n{i + 1}.example.") for i in range(20)]
    for records in (around, long):
        with pytest.raises(AliasLoop):
            dnswire.reply(answer(*records), IDENT, SECTION)


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"", id="empty"),
        pytest.param(answer()[:11], id="short"),
        pytest.param(b"\x12\x35" + answer()[2:], id="other id"),
        pytest.param(answer(name="www.example.net"), id="other name"),
        pytest.param(answer()[:2] + b"\x01\x00" + answer()[4:], id="a query"),
        pytest.param(answer()[:2] + b"\xa8\x00" + answer()[4:], id="other opcode"),
        pytest.param(answer()[:4] + b"\0\2" + answer()[6:], id="two questions"),
        pytest.param(dnswire.query(IDENT, dnswire.question((b"www", b"example", b"com"), RecordType.AAAA)), id="other type"),
    ],
)
def test_messages_that_do_not_answer_the_question_are_ignored(wire: bytes) -> None:
    assert dnswire.reply(wire, IDENT, SECTION) is None


HEAD = IDENT.to_bytes(2) + b"\x81\x80\0\1\0\1\0\0\0\0" + SECTION
END = len(HEAD)
FIXED = b"\0\1\0\1\0\0\0\0\0\4"


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\3ww",
        b"\xc0",
        b"\xc0" + bytes([END]) + FIXED,  # points at itself
        b"\xc0" + bytes([END + 2]) + FIXED + b"\0\0\0\0",  # forward
        b"\xc0\x0c",
        b"\xc0\x0c" + FIXED + b"abc",
        b"\x40a" + FIXED + b"abcd",
        b"\x80a" + FIXED + b"abcd",
        (b"\x3f" + b"a" * 63) * 4 + b"\0" + FIXED + b"abcd",  # 257 octets
    ],
)
def test_broken_records_are_malformed(record: bytes) -> None:
    with pytest.raises(Malformed):
        dnswire.reply(HEAD + record, IDENT, SECTION)


@given(st.binary(max_size=80), st.binary(max_size=10))
def test_any_bytes_after_the_question_give_a_reply_or_malformed(records: bytes, more: bytes) -> None:
    for wire in (HEAD + records, answer(("www.example.com", "A", "192.0.2.1"))[:-14] + records + more, records):
        try:
            reply = dnswire.reply(wire, IDENT, SECTION)
        except Malformed:
            continue
        assert reply is None or isinstance(reply, Reply)


def test_compression_that_jumps_back_and_forth_ends() -> None:
    pointers = b"".join(b"\xc0" + bytes([END + 2 * i]) for i in range(40))
    with pytest.raises(Malformed):
        dnswire.reply(HEAD + pointers, IDENT, SECTION)


@pytest.mark.parametrize("name", ["", ".", "a..b", "a" * 64, ".".join(["a" * 63] * 4), ".a"])
def test_names_that_fit_into_no_message_are_value_errors(name: str) -> None:
    with pytest.raises(ValueError, match="DNS name"):
        dnswire.labels(name)


def test_the_strings_of_a_txt_record_are_joined() -> None:
    assert dnswire.strings(b"\3abc\0\2de") == b"abcde"
    assert dnswire.strings(b"") == b""
    with pytest.raises(Malformed):
        dnswire.strings(b"\4abc")
