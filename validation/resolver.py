"""Which addresses does a name have? Asked once per connection, never from a cache of ours, never with a search list.

Law of this file: a look-up gives records or raises LookupFailed with a closed kind; what a server put into its answer besides
addresses and TXT strings goes no further. `localhost` and the names below it are loopback without asking anybody (RFC 6761 §6.3).
"""

from __future__ import annotations

import asyncio
import enum
import ipaddress
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from validation import dnswire
from validation.dnswire import Labels, Rcode, RecordType, Reply
from validation.egress import IpAddr

MAX_FOLLOWED = 8  # further look-ups for CNAMEs that a server did not follow itself
_LOOPBACK_V6 = ipaddress.IPv6Address("::1")
_LOOPBACK_V4 = ipaddress.IPv4Address("127.0.0.1")


@dataclass(frozen=True, slots=True)
class Addresses:
    """In the order received; at least one of the two holds something. `resolver` says who answered."""

    v6: tuple[ipaddress.IPv6Address, ...]
    v4: tuple[ipaddress.IPv4Address, ...]
    resolver: str


class DnsFault(enum.Enum):
    """Why there is no answer. The value completes the sentence "the DNS look-up for NAME failed: ..."."""

    NXDOMAIN = "the name does not exist (NXDOMAIN)"
    NO_DATA = "the name exists but has no record of the kind asked for"
    SERVFAIL = "the DNS server could not answer (SERVFAIL); are the zone's servers and its DNSSEC signatures in order?"
    REFUSED = "the DNS server refused to answer (REFUSED)"
    ERROR = "the DNS server answered with an error code"
    TIMEOUT = "the DNS server did not answer in time"
    UNREACHABLE = "the DNS server cannot be reached"
    LOOP = "its CNAME records go in a circle, or are too many"
    MALFORMED = "the DNS server's answer is malformed"


class LookupFailed(Exception):
    """`str()` is one sentence that may be shown."""

    def __init__(self, name: str, kinds: str, fault: DnsFault, resolver: str) -> None:
        super().__init__(f"the DNS look-up of {kinds} for {name} failed: {fault.value}")
        self.fault = fault
        self.resolver = resolver


class Resolver(Protocol):
    async def addresses(self, name: str) -> Addresses:
        """The addresses of an A-label name. Raises LookupFailed, also when there is none."""

    async def txt(self, name: str) -> tuple[bytes, ...]:
        """The TXT records of a name, each with its strings joined. Raises LookupFailed, also when there is none."""


class DnsResolver:
    """Asks recursive DNS servers by UDP, and by TCP when an answer does not fit.

    Every exchange has a fresh socket (so a random port, and the kernel drops what comes from elsewhere) and random ids.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        timeout: float = 2.0,
        tries: int = 3,
        random_id: Callable[[], int] = lambda: secrets.randbits(16),
    ) -> None:
        """`servers`: "192.0.2.1:53", "[2001:db8::1]:53"; port 53 when left out. Asked in turn, `tries` times in all (at
        least two, and once each) with `timeout` seconds each. Raises ValueError for other text.
        """
        self._servers = tuple(_server(text) for text in servers)
        if not self._servers:
            raise ValueError("no DNS server is configured")
        self._timeout = timeout
        self._tries = max(2, tries, len(self._servers))
        self._random_id = random_id
        self.label = ",".join(servers)

    async def addresses(self, name: str) -> Addresses:
        local = _localhost(name)
        if local is not None:
            return local
        found = await self._resolve(name, (RecordType.AAAA, RecordType.A))
        v6, v4 = found[RecordType.AAAA], found[RecordType.A]
        if isinstance(v6, DnsFault) and isinstance(v4, DnsFault):
            # Only when neither family has an address is one family's trouble the name's; "no data" says least of the two.
            raise LookupFailed(name, "AAAA and A records", v4 if v6 is DnsFault.NO_DATA else v6, self.label)
        return Addresses(
            () if isinstance(v6, DnsFault) else tuple(ipaddress.IPv6Address(data) for data in v6),
            () if isinstance(v4, DnsFault) else tuple(ipaddress.IPv4Address(data) for data in v4),
            self.label,
        )

    async def txt(self, name: str) -> tuple[bytes, ...]:
        found = (await self._resolve(name, (RecordType.TXT,)))[RecordType.TXT]
        if isinstance(found, DnsFault):
            raise LookupFailed(name, "TXT records", found, self.label)
        try:
            return tuple(dnswire.strings(data) for data in found)
        except dnswire.Malformed as error:
            raise LookupFailed(name, "TXT records", DnsFault.MALFORMED, self.label) from error

    async def _resolve(self, name: str, kinds: tuple[RecordType, ...]) -> dict[RecordType, tuple[bytes, ...] | DnsFault]:
        """For each kind the records at the end of the CNAMEs, or why there are none."""
        try:
            start = dnswire.labels(name)
        except (ValueError, UnicodeError):
            return dict.fromkeys(kinds, DnsFault.NXDOMAIN)  # no such name can exist
        answers = await self._ask(start, kinds)
        for kind in kinds:
            for _ in range(MAX_FOLLOWED):
                answer = answers[kind]
                if isinstance(answer, DnsFault) or answer.follow is None:
                    break
                answers |= await self._ask(answer.follow, (kind,))
        return {kind: _judged(kind, answers[kind]) for kind in kinds}

    async def _ask(self, name: Labels, kinds: tuple[RecordType, ...]) -> dict[RecordType, Reply | DnsFault]:
        """All kinds at once, from one server after the other until each has a conclusive answer."""
        answers: dict[RecordType, Reply | DnsFault] = dict.fromkeys(kinds, DnsFault.TIMEOUT)
        for attempt in range(self._tries):
            open_ = {kind: dnswire.question(name, kind) for kind in kinds if not _conclusive(answers[kind])}
            if not open_:
                break
            server = self._servers[attempt % len(self._servers)]
            try:
                async with asyncio.timeout(self._timeout):
                    await self._exchange(server, open_, answers)
            except TimeoutError:
                continue
            except OSError:
                answers |= {kind: DnsFault.UNREACHABLE for kind in open_ if answers[kind] is DnsFault.TIMEOUT}
        return answers

    async def _exchange(
        self, server: _Server, questions: Mapping[RecordType, bytes], answers: dict[RecordType, Reply | DnsFault]
    ) -> None:
        """Sends every question from one fresh socket and writes into `answers` what comes back."""
        loop = asyncio.get_running_loop()
        waiting: dict[int, RecordType] = {}
        family = socket.AF_INET if server.address.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as udp:
            udp.connect((str(server.address), server.port))
            for kind, section in questions.items():
                ident = self._random_id()
                while ident in waiting:
                    ident = self._random_id()
                waiting[ident] = kind
                udp.send(dnswire.query(ident, section))
            while waiting:
                message = await loop.sock_recv(udp, 4096)
                ident = int.from_bytes(message[:2])
                answered = waiting.get(ident)
                if answered is None:  # somebody else's guess; the right answer may still come
                    continue
                answer = _read(message, ident, questions[answered])
                if answer is None:
                    continue
                del waiting[ident]
                if isinstance(answer, Reply) and answer.truncated:
                    answer = await self._by_tcp(server, questions[answered])
                answers[answered] = answer

    async def _by_tcp(self, server: _Server, section: bytes) -> Reply | DnsFault:
        """RFC 7766: the same question on a connection of its own, with a length before each message."""
        reader, writer = await asyncio.open_connection(str(server.address), server.port)
        try:
            ident = self._random_id()
            message = dnswire.query(ident, section)
            writer.write(len(message).to_bytes(2) + message)
            size = int.from_bytes(await reader.readexactly(2))
            answer = _read(await reader.readexactly(size), ident, section)
        except asyncio.IncompleteReadError:
            answer = None
        finally:
            writer.transport.abort()
        truncated = isinstance(answer, Reply) and answer.truncated
        return DnsFault.MALFORMED if answer is None or truncated else answer


class SystemResolver:
    """The machine's own settings: its hosts file, then the servers of its resolv.conf. Both are read anew each time.

    Not through the C library: its calls hold a thread for as long as a hostile name's servers please, and its search lists
    would let `www.example` be proved by whoever controls `www.example.corp.example.com`.
    """

    label = "system"

    def __init__(self, *, hosts: Path = Path("/etc/hosts"), servers: Path = Path("/etc/resolv.conf")) -> None:
        self._hosts = hosts
        self._servers = servers

    async def addresses(self, name: str) -> Addresses:
        known = _localhost(name) or _from_hosts(self._hosts, name)
        return known or await self._resolver().addresses(name)

    async def txt(self, name: str) -> tuple[bytes, ...]:
        return await self._resolver().txt(name)

    def _resolver(self) -> DnsResolver:
        return DnsResolver(_from_resolv_conf(self._servers) or ["127.0.0.1"])  # resolv.conf(5): the default


_RCODE_FAULTS: Mapping[int, DnsFault] = {
    Rcode.NOERROR: DnsFault.NO_DATA,
    Rcode.SERVFAIL: DnsFault.SERVFAIL,
    Rcode.NXDOMAIN: DnsFault.NXDOMAIN,
    Rcode.REFUSED: DnsFault.REFUSED,
}
_RDATA_SIZES: Mapping[RecordType, int] = {RecordType.A: 4, RecordType.AAAA: 16}


@dataclass(frozen=True, slots=True)
class _Server:
    address: IpAddr
    port: int


def _server(text: str) -> _Server:
    """An IP address; with a port after a colon, IPv6 goes in brackets."""
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        host = host if closed else text
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r} is not an IP address with a port, such as 192.0.2.1:53")
    return _Server(ipaddress.ip_address(host), int(port or 53))


def _read(message: bytes, ident: int, section: bytes) -> Reply | DnsFault | None:
    try:
        return dnswire.reply(message, ident, section)
    except dnswire.AliasLoop:
        return DnsFault.LOOP
    except dnswire.Malformed:
        return DnsFault.MALFORMED


def _conclusive(answer: Reply | DnsFault) -> bool:
    """Nothing is gained by asking again."""
    match answer:
        case DnsFault():
            return answer is DnsFault.LOOP
        case Reply():
            return answer.rcode in {Rcode.NOERROR, Rcode.NXDOMAIN}


def _judged(kind: RecordType, answer: Reply | DnsFault) -> tuple[bytes, ...] | DnsFault:
    if isinstance(answer, DnsFault):
        return answer
    if answer.follow is not None:  # still, after MAX_FOLLOWED look-ups
        return DnsFault.LOOP if answer.rcode == Rcode.NOERROR else _RCODE_FAULTS.get(answer.rcode, DnsFault.ERROR)
    if answer.rcode != Rcode.NOERROR or not answer.data:
        return _RCODE_FAULTS.get(answer.rcode, DnsFault.ERROR)
    if any(len(data) != _RDATA_SIZES.get(kind, len(data)) for data in answer.data):
        return DnsFault.MALFORMED
    return answer.data


def _localhost(name: str) -> Addresses | None:
    if name == "localhost" or name.endswith(".localhost"):
        return Addresses((_LOOPBACK_V6,), (_LOOPBACK_V4,), "RFC 6761")
    return None


def _from_hosts(path: Path, name: str) -> Addresses | None:
    """hosts(5): an address, then its names; all lines that have ours."""
    texts = []
    for line in _lines(path):
        address, *names = line.partition("#")[0].lower().split() or [""]
        if name in names and _is_address(address):
            texts.append(address)
    return _sorted(texts, str(path)) if texts else None


def _from_resolv_conf(path: Path) -> list[str]:
    """resolv.conf(5): the `nameserver` lines that name an address."""
    texts = []
    for line in _lines(path):
        key, *values = line.split() or [""]
        if key == "nameserver" and values and _is_address(values[0]):
            texts.append(f"[{values[0]}]" if ":" in values[0] else values[0])
    return texts


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _lines(path: Path) -> list[str]:
    """Read each time: the files are small, and administrators expect a change to count at once."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _sorted(texts: Sequence[str], resolver: str) -> Addresses:
    addresses = [ipaddress.ip_address(text) for text in dict.fromkeys(texts)]
    return Addresses(
        tuple(address for address in addresses if address.version == 6),
        tuple(address for address in addresses if address.version == 4),
        resolver,
    )
