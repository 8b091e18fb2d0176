"""An authoritative server of one signed zone, the root itself, so that a validating resolver has a chain to everything in it.

Zones are text; what is asked with DO is answered with signatures, and what is not there is denied with NSEC (RFC 4035 §3.1).
"""

from __future__ import annotations

import asyncio
import datetime as dt
from types import TracebackType
from typing import Self

import dns.dnssec
import dns.flags
import dns.message
import dns.name
import dns.node
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec
from dns.rdtypes.ANY.RRSIG import RRSIG

from tests.helpers.dns import HOST, UdpAnswers

NSEC_TYPE = dns.rdatatype.NSEC
_APEX = """\
. 60 IN SOA ns.test. hostmaster.test. 1 3600 600 86400 60
. 60 IN NS ns.test.
ns.test. 60 IN A 127.0.0.1
"""


class SignedRoot:
    """`records` in zone file form. A name in `forged` has signatures that are another record's; in `unsigned`, none at all."""

    def __init__(self, records: str, *, forged: frozenset[str] = frozenset(), unsigned: frozenset[str] = frozenset()) -> None:
        self._zone = dns.zone.from_text(_APEX + records, origin=".", relativize=False)
        key = ec.generate_private_key(ec.SECP256R1())
        dnskey = dns.dnssec.make_dnskey(key.public_key(), "ECDSAP256SHA256", flags=257)
        now = dt.datetime.now(dt.UTC)
        dns.dnssec.sign_zone(
            self._zone,
            keys=[(key, dnskey)],
            dnskey_ttl=60,
            inception=now - dt.timedelta(hours=1),
            expiration=now + dt.timedelta(hours=1),
        )
        self._forged = {dns.name.from_text(name) for name in forged}
        self._unsigned = {dns.name.from_text(name) for name in unsigned}
        self._names = sorted(self._zone.nodes)
        self.trust_anchor = f". IN DNSKEY {dnskey.to_text()}"
        self.port = 0
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._tcp = await asyncio.start_server(self._serve_tcp, HOST, 0)
        self.port = self._tcp.sockets[0].getsockname()[1]
        self._udp, _ = await loop.create_datagram_endpoint(
            lambda: UdpAnswers(lambda wire: [self.reply(wire, tcp=False)]), local_addr=(HOST, self.port)
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._udp is not None
        assert self._tcp is not None
        self._udp.close()
        self._tcp.close()
        await self._tcp.wait_closed()

    def reply(self, wire: bytes, *, tcp: bool) -> bytes:
        query = dns.message.from_wire(wire)
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.AA
        asked = query.question[0]
        self._fill(answer, asked.name, asked.rdtype, signed=bool(query.ednsflags & dns.flags.DO))
        right = answer.to_wire(max_size=65535)
        if tcp or len(right) <= max(512, query.payload):
            return right
        short = dns.message.make_response(query)
        short.flags |= dns.flags.TC
        return short.to_wire()

    def _fill(self, answer: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType, *, signed: bool) -> None:
        node = self._zone.get_node(name)
        if node is not None:
            for each in (kind, dns.rdatatype.CNAME):
                if self._add(answer.answer, name, each, signed=signed):
                    return
        below = any(each.is_subdomain(name) for each in self._names)
        if not below:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        self._add(answer.authority, dns.name.root, dns.rdatatype.SOA, signed=signed)
        if signed:
            for denied in (name,) if below else (name, self._wildcard(name)):
                owner = max(each for each in self._names if each <= denied and self._zone.get_rdataset(each, NSEC_TYPE))
                self._add(answer.authority, owner, NSEC_TYPE, signed=True)

    def _wildcard(self, name: dns.name.Name) -> dns.name.Name:
        """At the closest encloser, RFC 4035 §3.1.3.2."""
        while not any(each.is_subdomain(name) for each in self._names):
            name = name.parent()
        return dns.name.from_text("*", name)

    def _add(self, section: list[dns.rrset.RRset], name: dns.name.Name, kind: dns.rdatatype.RdataType, *, signed: bool) -> bool:
        found = self._zone.get_rrset(name, kind)
        if found is None:
            return False
        if found not in section:
            section.append(found)
            signatures = self._zone.get_rrset(name, dns.rdatatype.RRSIG, covers=kind)
            if signed and signatures is not None and name not in self._unsigned:
                section.append(self._as_forged(signatures) if name in self._forged else signatures)
        return True

    def _as_forged(self, signatures: dns.rrset.RRset) -> dns.rrset.RRset:
        forged = dns.rrset.RRset(signatures.name, signatures.rdclass, signatures.rdtype, signatures.covers)
        for one in signatures:
            assert isinstance(one, RRSIG)
            forged.add(one.replace(signature=bytes(reversed(one.signature))), signatures.ttl)
        return forged

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(2))
                reply = self.reply(await reader.readexactly(size), tcp=True)
                writer.write(len(reply).to_bytes(2) + reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
