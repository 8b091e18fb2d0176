"""unbound (Debian): our look-ups through a resolver that validates, to a signed zone; so that AD is seen as it really comes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

import pytest

from interop.support import needs
from pki.clock import SystemClock
from pki.identifiers import DnsName
from tests.helpers.challenges import challenge
from tests.helpers.dnssec import SignedRoot
from tests.helpers.server import free_ports
from validation.caa import CaaOutcome, Failed, Forbidden, Permitted, check_caa
from validation.dns01 import dns01
from validation.outcome import Failed as NotProved
from validation.outcome import Proved
from validation.resolver import DnsFault, DnsResolver, LookupFailed

pytestmark = needs("unbound", package="unbound")

KEY_AUTHORIZATION = "token.thumbprint"
DIGEST = base64.urlsafe_b64encode(hashlib.sha256(KEY_AUTHORIZATION.encode()).digest()).decode().rstrip("=")
RECORDS = f"""\
signed.test. 60 IN A 192.0.2.1
signed.test. 60 IN AAAA 2001:db8::1
signed.test. 60 IN CAA 0 issue "ca.test"
_acme-challenge.signed.test. 60 IN TXT "{DIGEST}"
alias.signed.test. 60 IN CNAME signed.test.
closed.signed.test. 60 IN CAA 0 issue ";"
bare.test. 60 IN A 192.0.2.2
forged.test. 60 IN A 192.0.2.3
forged.test. 60 IN CAA 0 issue "ca.test"
_acme-challenge.forged.test. 60 IN TXT "{DIGEST}"
_acme-challenge.stripped.test. 60 IN TXT "{DIGEST}"
island.test. 60 IN A 192.0.2.4
island.test. 60 IN CAA 0 issue "ca.test"
_acme-challenge.island.test. 60 IN TXT "{DIGEST}"
long.test. 60 IN TXT {" ".join('"' + "x" * 250 + '"' for _ in range(12))}
"""
CONFIG = """\
server:
    interface: 127.0.0.1@{port}
    do-ip6: no
    do-daemonize: no
    use-syslog: no
    verbosity: 1
    num-threads: 1
    username: ""
    chroot: ""
    directory: "{directory}"
    pidfile: ""
    access-control: 127.0.0.0/8 allow
    do-not-query-localhost: no
    local-zone: "test." nodefault
    trust-anchor: "{anchor}"
    domain-insecure: "island.test"
    module-config: "validator iterator"
remote-control:
    control-enable: no
stub-zone:
    name: "."
    stub-addr: 127.0.0.1@{upstream}
"""


@pytest.fixture
async def unbound(tmp_path: Path) -> AsyncIterator[str]:
    """Its address. One for each test: it remembers what it has seen."""
    forged = frozenset({"forged.test.", "_acme-challenge.forged.test."})
    async with SignedRoot(RECORDS, forged=forged, unsigned=frozenset({"_acme-challenge.stripped.test."})) as root:
        with (tmp_path / "log").open("wb") as log:
            process, address = await started(root, tmp_path, log)
            try:
                yield address
            finally:
                if process.returncode is None:
                    process.terminate()
                await process.wait()


async def started(root: SignedRoot, folder: Path, log: BinaryIO) -> tuple[asyncio.subprocess.Process, str]:
    """It needs a port for UDP and TCP, which somebody else may take before it does: then with another."""
    file = folder / "unbound.conf"
    for _ in range(5):
        (port,) = free_ports(1)
        file.write_text(CONFIG.format(port=port, directory=folder, anchor=root.trust_anchor, upstream=root.port))
        process = await asyncio.create_subprocess_exec("unbound", "-d", "-c", file, stdout=log, stderr=log)
        try:
            await answers(f"127.0.0.1:{port}", process, folder / "log")
        except AssertionError:
            if process.returncode is None:
                process.kill()
                await process.wait()
            if "address already in use" not in said(folder / "log"):
                raise
        else:
            return process, f"127.0.0.1:{port}"
    raise AssertionError(said(folder / "log"))


def said(log: Path) -> str:
    return log.read_text()


async def answers(address: str, process: asyncio.subprocess.Process, log: Path) -> None:
    """Until it does, for a bounded time."""
    asking = DnsResolver([address], timeout=0.3, tries=2)
    for _ in range(40):
        assert process.returncode is None, said(log)
        try:
            await asking.addresses("bare.test")
        except LookupFailed as error:
            if error.fault not in {DnsFault.TIMEOUT, DnsFault.UNREACHABLE}:
                raise AssertionError(f"{error}\n{said(log)}") from error
            await asyncio.sleep(0.1)
        else:
            return
    raise AssertionError(said(log))


def strict(address: str) -> DnsResolver:
    return DnsResolver([address], require_secure=True)


async def caa(address: str, name: str, *, require_secure: bool) -> CaaOutcome:
    return await check_caa(
        name,
        wildcard=False,
        resolver=DnsResolver([address], require_secure=require_secure),
        issuer_domains=["ca.test"],
        account_url="",
        methods=(),
        clock=SystemClock(),
    )


async def test_what_a_validating_resolver_proved_is_seen_as_proved(unbound: str) -> None:
    asking = DnsResolver([unbound])
    for name in ("signed.test", "alias.signed.test"):
        found = await asking.addresses(name)
        assert (str(found.v4[0]), str(found.v6[0]), found.secure) == ("192.0.2.1", "2001:db8::1", True)
    records = await asking.caa("signed.test")
    assert (records.records, records.secure) == ((b"\0\5issueca.test",), True)
    assert 0 < records.ttl <= 60
    assert (await asking.txt("_acme-challenge.signed.test")).secure


async def test_denials_are_proved_too(unbound: str) -> None:
    asking = strict(unbound)
    assert (await asking.caa("bare.test")).records == ()  # the name is there, the record is not
    assert (await asking.caa("test")).secure  # a name with nothing but names below it
    for name, fault in (("nowhere.test", DnsFault.NXDOMAIN), ("bare.test", DnsFault.NO_DATA)):
        with pytest.raises(LookupFailed) as caught:
            await asking.txt(name)
        assert (caught.value.fault, caught.value.secure) == (fault, True)


async def test_forged_and_stripped_signatures_are_no_answer_at_all(unbound: str) -> None:
    """Whatever `dnssec` says: a resolver that validates answers SERVFAIL."""
    for asking in (DnsResolver([unbound]), strict(unbound)):
        for name in ("_acme-challenge.forged.test", "_acme-challenge.stripped.test"):
            with pytest.raises(LookupFailed) as caught:
                await asking.txt(name)
            assert caught.value.fault is DnsFault.SERVFAIL
    outcome = await caa(unbound, "forged.test", require_secure=False)
    assert isinstance(outcome, Failed)
    assert "SERVFAIL" in outcome.detail


async def test_an_unsigned_zone_serves_unless_dnssec_is_required(unbound: str) -> None:
    name = challenge(DnsName("island.test"), KEY_AUTHORIZATION)
    outcome = await dns01(name, resolver=DnsResolver([unbound]), clock=SystemClock())
    assert isinstance(outcome, Proved)
    assert outcome.evidence.secure is False
    refused = await dns01(name, resolver=strict(unbound), clock=SystemClock())
    assert isinstance(refused, NotProved)
    assert "DNSSEC does not prove the answer" in refused.detail
    with pytest.raises(LookupFailed, match="DNSSEC"):
        await strict(unbound).addresses("island.test")
    assert isinstance(await caa(unbound, "island.test", require_secure=False), Permitted)
    assert isinstance(await caa(unbound, "island.test", require_secure=True), Failed)


async def test_a_signed_zone_serves_where_dnssec_is_required(unbound: str) -> None:
    outcome = await dns01(challenge(DnsName("signed.test"), KEY_AUTHORIZATION), resolver=strict(unbound), clock=SystemClock())
    assert isinstance(outcome, Proved)
    assert outcome.evidence.secure is True
    for name, expected in (
        ("www.signed.test", Permitted),
        ("alias.signed.test", Permitted),
        ("closed.signed.test", Forbidden),
        ("below.closed.signed.test", Forbidden),
        ("www.bare.test", Permitted),  # nothing up to the root, and that is proved
    ):
        outcome_of_caa = await caa(unbound, name, require_secure=True)
        assert isinstance(outcome_of_caa, expected), (name, outcome_of_caa)
        assert outcome_of_caa.evidence.secure


async def test_what_does_not_fit_into_a_packet_comes_by_tcp(unbound: str) -> None:
    found = await strict(unbound).txt("long.test")
    assert found.values == (b"x" * 3000,)


async def test_unbound_reads_our_queries_as_they_were_meant(unbound: str) -> None:
    """AD in the query asks for AD in the answer (RFC 6840 §5.7), EDNS allows 1232 octets; neither is refused."""
    host, port = unbound.split(":")
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as udp:
        udp.connect((host, int(port)))
        question = b"\x06signed\x04test\0\x01\x01\0\1"
        for flags, expected in ((b"\x01\x20", 0x20), (b"\x01\x00", 0)):
            udp.send(b"\0\7" + flags + b"\0\1\0\0\0\0\0\0" + question)
            reply = await asyncio.wait_for(loop.sock_recv(udp, 4096), 5)
            assert reply[3] & 0x20 == expected
