"""Which addresses, TXT and CAA records does a name have? Asked each time, never from a cache of ours, never with a search list.

Law of this file: a look-up gives records or raises LookupFailed with a closed kind; what a server put into its answer besides
the records asked for goes no further. Whether DNSSEC proved them is what the configured resolver says (AD): its path to us must
be one that we trust. `localhost` and the names below it are loopback without asking anybody (RFC 6761 §6.3).
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
MOST_AT_ONCE = 1024  # exchanges of one resolver, each a socket: one finalize may ask for the CAA records of thousands of names
_LOOPBACK_V6 = ipaddress.IPv6Address("::1")
_LOOPBACK_V4 = ipaddress.IPv4Address("127.0.0.1")


@dataclass(frozen=True, slots=True)
class Addresses:
    """In the order received; at least one of the two holds something. `resolver` says who answered."""

    v6: tuple[ipaddress.IPv6Address, ...]
    v4: tuple[ipaddress.IPv4Address, ...]
    resolver: str
    secure: bool | None = None  # whether DNSSEC proved all of it; None when no DNS server was asked


@dataclass(frozen=True, slots=True)
class Texts:
    """The TXT records of a name, each with its strings joined; at least one."""

    values: tuple[bytes, ...]
    resolver: str
    secure: bool


@dataclass(frozen=True, slots=True)
class CaaSet:
    """The RDATA of a name's CAA records; none is an answer, too (RFC 8659 §3). `ttl` is that of the records, 0 for none."""

    records: tuple[bytes, ...]
    resolver: str
    secure: bool
    ttl: int = 0


class DnsFault(enum.Enum):
    """Why there is no answer. The value completes the sentence "the DNS look-up for NAME failed: ..."."""

    NXDOMAIN = "the name does not exist (NXDOMAIN)"
    NO_DATA = "the name exists but has no record of the kind asked for"
    SERVFAIL = "the DNS server could not answer (SERVFAIL); are the zone's servers and its DNSSEC signatures in order?"
    REFUSED = "the DNS server refused to answer (REFUSED)"
    REFERRAL = "the DNS server knows only whom to ask instead; the CA's resolver must be one that recurses"
    INSECURE = "DNSSEC does not prove the answer, and this CA takes only what it proves; is the zone signed?"
    ERROR = "the DNS server answered with an error code"
    TIMEOUT = "the DNS server did not answer in time"
    UNREACHABLE = "the DNS server cannot be reached"
    LOOP = "its CNAME records go in a circle, or are too many"
    MALFORMED = "the DNS server's answer is malformed"
    NO_NAME = "the name is too long for the DNS"


class LookupFailed(Exception):
    """`str()` is one sentence that may be shown. `secure` is whether DNSSEC proved that there is nothing."""

    def __init__(self, name: str, kinds: str, fault: DnsFault, resolver: str, *, secure: bool = False) -> None:
        super().__init__(f"the DNS look-up of {kinds} for {name} failed: {fault.value}")
        self.fault = fault
        self.resolver = resolver
        self.secure = secure


class Resolver(Protocol):
    async def addresses(self, name: str) -> Addresses:
        """The addresses of an A-label name. Raises LookupFailed, also when there is none."""

    async def txt(self, name: str) -> Texts:
        """The TXT records of a name. Raises LookupFailed, also when there is none."""

    async def caa(self, name: str) -> CaaSet:
        """The CAA records of exactly this name, or of what it is an alias of. Raises LookupFailed, but not for none."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What the whole chain of CNAMEs came to for one kind of record."""

    data: tuple[bytes, ...] = ()
    fault: DnsFault | None = None
    secure: bool = False
    ttl: int = 0


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
        require_secure: bool = False,
        random_id: Callable[[], int] = lambda: secrets.randbits(16),
        gate: asyncio.Semaphore | None = None,
    ) -> None:
        """`servers`: "192.0.2.1:53", "[2001:db8::1]:53"; port 53 when left out. Asked in turn, `tries` times in all (at
        least two, and once each) with `timeout` seconds each. With `require_secure` every answer that DNSSEC did not prove is a
        fault, also one that says that there is nothing. `gate` bounds what is under way at once, MOST_AT_ONCE without one; who
        waits for it waits on his caller's deadline. Raises ValueError for other text.
        """
        self._servers = tuple(_server(text) for text in servers)
        if not self._servers:
            raise ValueError("no DNS server is configured")
        self._timeout = timeout
        self._tries = max(2, tries, len(self._servers))
        self._require_secure = require_secure
        self._random_id = random_id
        self._gate = gate or asyncio.Semaphore(MOST_AT_ONCE)
        self.label = ",".join(servers)

    async def addresses(self, name: str) -> Addresses:
        local = _localhost(name)
        if local is not None:
            return local
        found = await self._resolve(name, (RecordType.AAAA, RecordType.A))
        v6, v4 = found[RecordType.AAAA], found[RecordType.A]
        insecure = DnsFault.INSECURE in {v6.fault, v4.fault}
        if insecure or (v6.fault and v4.fault):
            # Only when neither family has an address is one family's trouble the name's; "no data" says least of the two.
            fault = DnsFault.INSECURE if insecure else v4.fault if v6.fault is DnsFault.NO_DATA else v6.fault
            raise LookupFailed(name, "AAAA and A records", fault or DnsFault.ERROR, self.label, secure=v6.secure and v4.secure)
        return Addresses(
            tuple(ipaddress.IPv6Address(data) for data in v6.data),
            tuple(ipaddress.IPv4Address(data) for data in v4.data),
            self.label,
            v6.secure and v4.secure,
        )

    async def txt(self, name: str) -> Texts:
        found = (await self._resolve(name, (RecordType.TXT,)))[RecordType.TXT]
        if found.fault is not None:
            raise LookupFailed(name, "TXT records", found.fault, self.label, secure=found.secure)
        try:
            return Texts(tuple(dnswire.strings(data) for data in found.data), self.label, found.secure)
        except dnswire.Malformed as error:
            raise LookupFailed(name, "TXT records", DnsFault.MALFORMED, self.label) from error

    async def caa(self, name: str) -> CaaSet:
        found = (await self._resolve(name, (RecordType.CAA,)))[RecordType.CAA]
        if found.fault not in {None, DnsFault.NO_DATA, DnsFault.NXDOMAIN}:
            raise LookupFailed(name, "CAA records", found.fault, self.label)
        return CaaSet(found.data, self.label, found.secure, found.ttl)

    async def _resolve(self, name: str, kinds: tuple[RecordType, ...]) -> dict[RecordType, _Found]:
        """For each kind the records at the end of the CNAMEs, or why there are none."""
        try:
            start = dnswire.labels(name)
        except (ValueError, UnicodeError):
            return dict.fromkeys(kinds, _Found(fault=DnsFault.NO_NAME))
        if start[-1] == b"onion":  # RFC 7686 §2: the DNS has none, and is not to be asked
            return dict.fromkeys(kinds, _Found(fault=DnsFault.NXDOMAIN))
        answers = await self._ask(start, kinds)
        found = {kind: await self._follow(kind, answers[kind]) for kind in kinds}
        if self._require_secure:
            found = {kind: _proved(each) for kind, each in found.items()}
        return found

    async def _follow(self, kind: RecordType, answer: Reply | DnsFault) -> _Found:
        """Asks again for each CNAME that the server did not follow. Secure is only what was so at every step."""
        secure, ttl = True, 2**31
        for _ in range(MAX_FOLLOWED):
            if isinstance(answer, DnsFault) or answer.follow is None:
                break
            secure, ttl = secure and answer.secure, min(ttl, answer.ttl)
            answer = (await self._ask(answer.follow, (kind,)))[kind]
        if isinstance(answer, DnsFault):
            return _Found(fault=answer)
        secure, fault = secure and answer.secure, _fault(kind, answer)
        return _Found(answer.data, None, secure, min(ttl, answer.ttl)) if fault is None else _Found(fault=fault, secure=secure)

    async def _ask(self, name: Labels, kinds: tuple[RecordType, ...]) -> dict[RecordType, Reply | DnsFault]:
        """All kinds at once, from one server after the other until each has a conclusive answer."""
        answers: dict[RecordType, Reply | DnsFault] = dict.fromkeys(kinds, DnsFault.TIMEOUT)
        for attempt in range(self._tries):
            open_ = {kind: _Question(name, kind, answers[kind]) for kind in kinds if not _conclusive(answers[kind])}
            if not open_:
                break
            server = self._servers[attempt % len(self._servers)]
            try:
                async with self._gate, asyncio.timeout(self._timeout):
                    await self._exchange(server, open_, answers)
            except TimeoutError:
                continue
            except OSError:
                answers |= {kind: DnsFault.UNREACHABLE for kind in open_ if answers[kind] is DnsFault.TIMEOUT}
        return answers

    async def _exchange(
        self, server: _Server, questions: Mapping[RecordType, _Question], answers: dict[RecordType, Reply | DnsFault]
    ) -> None:
        """Sends every question from one fresh socket and writes into `answers` what comes back."""
        loop = asyncio.get_running_loop()
        waiting: dict[int, RecordType] = {}
        family = socket.AF_INET if server.address.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as udp:
            udp.connect((str(server.address), server.port))
            for kind, question in questions.items():
                ident = self._random_id()
                while ident in waiting:
                    ident = self._random_id()
                waiting[ident] = kind
                udp.send(question.message(ident))
            while waiting:
                message = await loop.sock_recv(udp, 4096)
                ident = int.from_bytes(message[:2])
                answered = waiting.get(ident)
                if answered is None:  # somebody else's guess; the right answer may still come
                    continue
                answer = _read(message, ident, questions[answered].section)
                if answer is None:
                    continue
                del waiting[ident]
                if isinstance(answer, Reply) and answer.truncated:
                    answer = await self._by_tcp(server, questions[answered])
                answers[answered] = answer

    async def _by_tcp(self, server: _Server, question: _Question) -> Reply | DnsFault:
        """RFC 7766: the same question on a connection of its own, with a length before each message."""
        reader, writer = await asyncio.open_connection(str(server.address), server.port)
        try:
            ident = self._random_id()
            message = question.message(ident)
            writer.write(len(message).to_bytes(2) + message)
            size = int.from_bytes(await reader.readexactly(2))
            answer = _read(await reader.readexactly(size), ident, question.section)
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
        self._gate = asyncio.Semaphore(MOST_AT_ONCE)

    async def addresses(self, name: str) -> Addresses:
        known = _localhost(name) or _from_hosts(self._hosts, name)
        return known or await self._resolver().addresses(name)

    async def txt(self, name: str) -> Texts:
        return await self._resolver().txt(name)

    async def caa(self, name: str) -> CaaSet:
        return await self._resolver().caa(name)

    def _resolver(self) -> DnsResolver:
        servers = _from_resolv_conf(self._servers) or ["127.0.0.1"]  # resolv.conf(5): the default
        return DnsResolver(servers, gate=self._gate)


_RCODE_FAULTS: Mapping[int, DnsFault] = {
    Rcode.NOERROR: DnsFault.NO_DATA,
    Rcode.SERVFAIL: DnsFault.SERVFAIL,
    Rcode.NXDOMAIN: DnsFault.NXDOMAIN,
    Rcode.REFUSED: DnsFault.REFUSED,
}
_RDATA_SIZES: Mapping[RecordType, int] = {RecordType.A: 4, RecordType.AAAA: 16}
_LONG = frozenset({RecordType.TXT, RecordType.CAA})  # whose answers often need more than 512 octets


class _Question:
    """One question, without EDNS for a server that said it cannot read the last one (RFC 6891 §7)."""

    __slots__ = ("_edns", "section")

    def __init__(self, name: Labels, kind: RecordType, last: Reply | DnsFault) -> None:
        self.section = dnswire.question(name, kind)
        self._edns = kind in _LONG and not (isinstance(last, Reply) and last.rcode == Rcode.FORMERR)

    def message(self, ident: int) -> bytes:
        return dnswire.query(ident, self.section, edns=self._edns)


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


def _fault(kind: RecordType, answer: Reply) -> DnsFault | None:
    """What is wrong with the last answer, if anything."""
    if answer.rcode not in {Rcode.NOERROR, Rcode.NXDOMAIN}:
        return _RCODE_FAULTS.get(answer.rcode, DnsFault.ERROR)
    if answer.rcode == Rcode.NXDOMAIN and answer.data:
        return DnsFault.MALFORMED
    if not answer.data and not answer.knows:
        return DnsFault.REFERRAL
    if answer.follow is not None and answer.rcode == Rcode.NOERROR:  # still, after MAX_FOLLOWED look-ups
        return DnsFault.LOOP
    if not answer.data:
        return _RCODE_FAULTS[answer.rcode]
    if any(len(data) != _RDATA_SIZES.get(kind, len(data)) for data in answer.data):
        return DnsFault.MALFORMED
    return None


def _proved(found: _Found) -> _Found:
    """What stays of it where DNSSEC is required: a failure to answer is one as before, an answer must be proved."""
    answered = found.fault in {None, DnsFault.NO_DATA, DnsFault.NXDOMAIN}
    return _Found(fault=DnsFault.INSECURE) if answered and not found.secure else found


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
