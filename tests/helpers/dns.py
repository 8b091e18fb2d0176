"""A small DNS server on loopback: zones are data, faults are data, every query is remembered."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, assert_never, cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

HOST = "127.0.0.1"
_MAX_CHAIN = 20


class DnsFault(enum.Enum):
    """What a name's server does instead of answering."""

    SERVFAIL = enum.auto()
    REFUSED = enum.auto()
    REFUSED_BARE = enum.auto()  # without repeating the question
    SILENT = enum.auto()
    SILENT_ONCE = enum.auto()
    TRUNCATED = enum.auto()  # by UDP; TCP answers in full
    TRUNCATED_ALWAYS = enum.auto()
    WRONG_ID = enum.auto()  # a forged answer with another id, then the right one
    WRONG_QUESTION = enum.auto()  # a forged answer to another question, then the right one
    ONLY_FORGED = enum.auto()  # the forged one alone
    GARBAGE = enum.auto()  # the right header, then nonsense
    TCP_CUT = enum.auto()  # truncated by UDP; TCP closes in the middle
    NO_EDNS = enum.auto()  # a server from before EDNS: FORMERR, the right answer only without
    BADVERS = enum.auto()  # an error that only EDNS can tell: NOERROR and no data for who does not look
    REFERRAL = enum.auto()  # neither recursion nor authority: ask those others
    NX_WITH_DATA = enum.auto()  # contradicts itself


class DnsServer:
    """`server["example.com"] = ["192.0.2.1", "2001:db8::1"]`; also `cname`, `txt`, `caa`, `flip`, `faults`, `secure`.

    With `recursive` the answers say that recursion was available, and CNAMEs are followed; without, only the first is given.
    Answers that do not fit into 512 octets, or into what the query's EDNS allows, are truncated by UDP.
    """

    def __init__(self, *, recursive: bool = True) -> None:
        self._recursive = recursive
        self._records: dict[tuple[str, str], list[str]] = {}
        self._broken: dict[tuple[str, str], bytes] = {}
        self._flips: dict[str, list[Sequence[str]]] = {}
        self.faults: dict[str, DnsFault] = {}
        self.secure: set[str] | None = set()  # names for which a query with AD is told that DNSSEC proved it; None: all
        self.ttls: dict[str, int] = {}  # of a name's records, else 60
        self.queries: list[tuple[str, str]] = []  # (name, type), in the order received, UDP and TCP
        self.tcp_queries = 0
        self.address = ""  # "127.0.0.1:port" once started
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None

    def __setitem__(self, name: str, addresses: Sequence[str]) -> None:
        """These addresses and no others."""
        self._records[name, "A"] = [address for address in addresses if ":" not in address]
        self._records[name, "AAAA"] = [address for address in addresses if ":" in address]

    def __delitem__(self, name: str) -> None:
        for key in [key for key in self._records if key[0] == name]:
            del self._records[key]

    def cname(self, name: str, target: str) -> None:
        self._records[name, "CNAME"] = [target]

    def txt(self, name: str, *values: str) -> None:
        """Each value is one record; split into strings of 255 octets as DNS wants it."""
        self._records[name, "TXT"] = [
            " ".join(f'"{value[i : i + 255]}"' for i in range(0, max(1, len(value)), 255)) for value in values
        ]

    def caa(self, name: str, *records: str) -> None:
        """As zone files have them: `0 issue "ca.test"`."""
        self._records[name, "CAA"] = list(records)

    def broken(self, name: str, kind: str, rdata: bytes) -> None:
        """A record with these octets, whatever its type says."""
        self._broken[name, kind] = rdata

    def flip(self, name: str, *answers: Sequence[str]) -> None:
        """A rebinding name: each query for A takes the next of `answers`, the last one stays."""
        self._flips[name] = list(answers)
        self[name] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for _ in range(20):  # the same free port for both
            self._tcp = await asyncio.start_server(self._serve_tcp, HOST, 0)
            port = self._tcp.sockets[0].getsockname()[1]
            try:
                self._udp, _ = await loop.create_datagram_endpoint(
                    lambda: UdpAnswers(lambda wire: self.replies(wire, tcp=False)), local_addr=(HOST, port)
                )
            except OSError:
                self._tcp.close()
                continue
            self.address = f"{HOST}:{port}"
            return self
        raise RuntimeError("no port is free for both UDP and TCP")

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._udp is not None
        assert self._tcp is not None
        self._udp.close()
        self._tcp.close()
        await self._tcp.wait_closed()

    def replies(self, wire: bytes, *, tcp: bool) -> list[bytes]:
        """What goes back for one query."""
        query = dns.message.from_wire(wire)
        asked = query.question[0]
        name = asked.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(asked.rdtype)
        self.queries.append((name, kind))
        self.tcp_queries += tcp
        answer = self._answer(query, name, kind)
        right = _sized(query, answer, tcp=tcp)
        match self.faults.get(name):
            case None:
                return [right]
            case DnsFault.SERVFAIL:
                return [_refusal(query, dns.rcode.SERVFAIL).to_wire()]
            case DnsFault.REFUSED:
                return [_refusal(query, dns.rcode.REFUSED).to_wire()]
            case DnsFault.REFUSED_BARE:
                bare = _refusal(query, dns.rcode.REFUSED)
                bare.question = []
                return [bare.to_wire()]
            case DnsFault.SILENT:
                return []
            case DnsFault.SILENT_ONCE:
                return [] if self.queries.count((name, kind)) == 1 else [right]
            case DnsFault.TRUNCATED if tcp:
                return [right]
            case DnsFault.TCP_CUT if tcp:
                return [right[:-3]]
            case DnsFault.TRUNCATED | DnsFault.TRUNCATED_ALWAYS | DnsFault.TCP_CUT:
                short = dns.message.make_response(query)
                short.flags |= dns.flags.TC
                return [short.to_wire()]
            case DnsFault.WRONG_ID:
                return [self._forged(query), right]
            case DnsFault.ONLY_FORGED:
                return [self._forged(query)]
            case DnsFault.WRONG_QUESTION:
                other = dns.message.make_query("forged.example", asked.rdtype)
                other.id = query.id
                return [self._answer(other, "forged.example", kind).to_wire(), right]
            case DnsFault.NO_EDNS if query.edns >= 0:
                refusal = _refusal(query, dns.rcode.FORMERR)
                refusal.use_edns(False)
                return [refusal.to_wire()]
            case DnsFault.NO_EDNS:
                return [right]
            case DnsFault.BADVERS:
                bad = dns.message.make_response(query)
                bad.flags |= dns.flags.RA
                bad.authority.append(dns.rrset.from_text("example.", 60, "IN", "SOA", "ns.example. h.example. 1 2 3 4 5"))
                bad.use_edns(0, ednsflags=1 << 24)
                return [bad.to_wire()]
            case DnsFault.REFERRAL:
                others = dns.message.make_response(query)
                others.authority.append(dns.rrset.from_text("example.", 60, "IN", "NS", "ns.example."))
                return [others.to_wire()]
            case DnsFault.NX_WITH_DATA:
                answer.set_rcode(dns.rcode.NXDOMAIN)
                return [answer.to_wire()]
            case DnsFault.GARBAGE:  # seven answers are promised
                return [right[:6] + b"\0\7" + right[8 : len(wire)] + b"\xff\xfe"]
            case fault:
                assert_never(fault)

    def _forged(self, query: dns.message.Message) -> bytes:
        forged = dns.message.make_response(query)
        forged.id = query.id ^ 1
        owner = query.question[0].name
        forged.answer.append(dns.rrset.from_text(owner, 60, "IN", "A", "203.0.113.66"))
        return forged.to_wire()

    def _answer(self, query: dns.message.Message, name: str, kind: str) -> dns.message.Message:
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA if self._recursive else dns.flags.AA
        if query.flags & dns.flags.AD and (self.secure is None or name in self.secure):
            answer.flags |= dns.flags.AD
        flips = self._flips.get(name)
        if flips and kind == "A":
            self[name] = flips.pop(0) if len(flips) > 1 else flips[0]
        for _ in range(_MAX_CHAIN):
            target = self._records.get((name, "CNAME"))
            if target is None:
                break
            answer.answer.append(dns.rrset.from_text(f"{name}.", self._ttl(name), "IN", "CNAME", f"{target[0]}."))
            name = target[0]
            if not self._recursive:
                return answer
        values = self._records.get((name, kind), [])
        if (name, kind) in self._broken:
            answer.answer.append(_generic(name, kind, self._broken[name, kind]))
        elif values:
            answer.answer.append(dns.rrset.from_text_list(f"{name}.", self._ttl(name), "IN", kind, values))
        elif not any(owner == name for owner, _ in self._records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer

    def _ttl(self, name: str) -> int:
        return self.ttls.get(name, 60)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            size = int.from_bytes(await reader.readexactly(2))
            wire = await reader.readexactly(size)
            for reply in self.replies(wire, tcp=True):
                cut = self.faults.get(self.queries[-1][0]) is DnsFault.TCP_CUT
                writer.write((len(reply) + (3 if cut else 0)).to_bytes(2) + reply)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class UdpAnswers(asyncio.DatagramProtocol):
    """Sends back what `replies` makes of a query, which may be nothing or several."""

    def __init__(self, replies: Callable[[bytes], Sequence[bytes]]) -> None:
        self._replies = replies
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # asyncio's own class does not inherit from it

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        for reply in self._replies(data):
            self._transport.sendto(reply, addr)


def _sized(query: dns.message.Message, answer: dns.message.Message, *, tcp: bool) -> bytes:
    right = answer.to_wire(max_size=65535)
    if tcp or len(right) <= max(512, query.payload if query.edns >= 0 else 0):
        return right
    short = dns.message.make_response(query)
    short.flags |= dns.flags.TC
    return short.to_wire()


def _refusal(query: dns.message.Message, rcode: dns.rcode.Rcode) -> dns.message.Message:
    answer = dns.message.make_response(query)
    answer.set_rcode(rcode)
    return answer


def _generic(name: str, kind: str, octets: bytes) -> dns.rrset.RRset:
    rdtype = dns.rdatatype.from_text(kind)
    records = dns.rrset.RRset(dns.name.from_text(name), dns.rdataclass.IN, rdtype)
    records.add(dns.rdata.GenericRdata(dns.rdataclass.IN, rdtype, octets), 60)
    return records
