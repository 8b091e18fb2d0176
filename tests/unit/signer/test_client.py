"""Client and server side of the socket in one loop, around signers that are as odd as the test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pki.cms.transport import KeyTransport
from pki.reasons import Unavailable
from signer.api import Hash, SignerRefused
from signer.client import SignerClient
from signer.process import Peer, answer
from signer.wire import Operation, Request, Response, Verdict, encode_response


class Signer:
    """Does what the test wants for every operation, and counts how many are under way."""

    def __init__(self, behave: Callable[[str, bytes], Awaitable[bytes]]) -> None:
        self._behave = behave
        self.under_way = 0
        self.most = 0

    async def _do(self, what: str, data: bytes = b"") -> bytes:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            return await self._behave(what, data)
        finally:
            self.under_way -= 1

    async def public_key(self, key: str) -> bytes:
        return await self._do(f"public_key {key}")

    async def sign_certificate(self, key: str, tbs: bytes) -> bytes:
        return await self._do(f"sign_certificate {key}", tbs)

    async def sign_crl(self, key: str, tbs: bytes) -> bytes:
        return await self._do(f"sign_crl {key}", tbs)

    async def sign_ocsp(self, key: str, tbs: bytes) -> bytes:
        return await self._do(f"sign_ocsp {key}", tbs)

    async def ra_sign(self, key: str, data: bytes, digest: Hash) -> bytes:
        return await self._do(f"ra_sign {key} {digest.value}", data)

    async def sign_announcement(self, key: str, attributes: bytes) -> bytes:
        return await self._do(f"sign_announcement {key}", attributes)

    async def ra_decrypt(self, key: str, ciphertext: bytes, length: int, transport: KeyTransport) -> bytes:
        return await self._do(f"ra_decrypt {key} {length} {transport.value}", ciphertext)

    async def ping(self) -> None:
        await self._do("ping")

    async def close(self) -> None: ...


async def echo(what: str, data: bytes) -> bytes:
    return what.encode() + b":" + data


class Events:
    """A log that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, object]]] = []

    def __call__(self, event: str, **fields: object) -> None:
        self.seen.append((event, fields))


@asynccontextmanager
async def serving(signer: Signer, path: Path, *, events: Events | None = None) -> AsyncIterator[SignerClient]:
    peers: set[Peer] = set()
    server = await asyncio.get_running_loop().create_unix_server(
        lambda: Peer(signer=signer, uids=frozenset({0, _uid()}), peers=peers, log=events or Events()), str(path)
    )
    client = SignerClient(path, timeout=20)
    yield client
    await client.close()
    server.close()
    await asyncio.gather(*(peer.drain() for peer in tuple(peers)))
    await server.wait_closed()


def _uid() -> int:
    import os

    return os.geteuid()


async def test_every_operation_arrives_with_all_that_it_needs(tmp_path: Path) -> None:
    async with serving(Signer(echo), tmp_path / "s") as client:
        assert await client.public_key("k") == b"public_key k:"
        assert await client.sign_certificate("k", b"tbs") == b"sign_certificate k:tbs"
        assert await client.sign_crl("k", b"tbs") == b"sign_crl k:tbs"
        assert await client.sign_ocsp("k", b"tbs") == b"sign_ocsp k:tbs"
        assert await client.ra_sign("k", b"data", Hash.SHA384) == b"ra_sign k sha384:data"
        assert await client.sign_announcement("k", b"data") == b"sign_announcement k:data"
        assert await client.ra_decrypt("k", b"data", 24, KeyTransport.OAEP_SHA256) == b"ra_decrypt k 24 oaep-sha256:data"
        await client.ping()


async def test_a_crl_of_ten_megabytes_gets_through(tmp_path: Path) -> None:
    async def measure(what: str, data: bytes) -> bytes:
        return str(len(data)).encode()

    async with serving(Signer(measure), tmp_path / "s") as client:
        assert await client.sign_crl("k", bytes(10_000_000)) == b"10000000"


async def test_answers_may_come_in_any_order(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def slow_first(what: str, data: bytes) -> bytes:
        if data == b"first":
            await gate.wait()
        return data

    async with serving(Signer(slow_first), tmp_path / "s") as client:
        first = asyncio.ensure_future(client.sign_crl("k", b"first"))
        assert await client.sign_crl("k", b"second") == b"second"
        assert not first.done()
        gate.set()
        assert await first == b"first"


async def test_no_connection_has_more_than_256_requests_under_way(tmp_path: Path) -> None:
    async def yielding(what: str, data: bytes) -> bytes:
        await asyncio.sleep(0)
        return data

    signer = Signer(yielding)
    async with serving(signer, tmp_path / "s") as client:
        sent = [b"%d" % number + bytes(4000) for number in range(1000)]
        assert await asyncio.gather(*(client.sign_crl("k", data) for data in sent)) == sent
    # Reading pauses at 256; what had been read by then (one buffer of up to 256 KiB) is still begun.
    assert signer.most <= 256 + 64


async def test_refusals_and_outages_keep_their_types_over_the_wire(tmp_path: Path) -> None:
    async def moody(what: str, data: bytes) -> bytes:
        if what.startswith("sign_crl"):
            raise SignerRefused("the version is not 2")
        raise Unavailable("token 'hsm-7' is away")

    async with serving(Signer(moody), tmp_path / "s") as client:
        with pytest.raises(SignerRefused, match="version is not 2"):
            await client.sign_crl("k", b"")
        with pytest.raises(Unavailable) as caught:
            await client.ping()
    assert caught.value.what == "signer"
    assert caught.value.__notes__ == ["token 'hsm-7' is away"]


async def test_a_bug_in_the_signer_is_a_bug_in_the_worker_and_a_line_in_the_log(tmp_path: Path) -> None:
    async def broken(what: str, data: bytes) -> bytes:
        raise KeyError("some internal")

    events = Events()
    async with serving(Signer(broken), tmp_path / "s", events=events) as client:
        with pytest.raises(RuntimeError, match="KeyError") as caught:
            await client.ping()
    assert "some internal" not in str(caught.value)
    assert [event for event, _ in events.seen] == ["failed"]


async def test_a_request_past_its_time_is_ended_in_the_signer_too() -> None:
    async def never(what: str, data: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    response = await answer(Signer(never), Request(1, Operation.PING, "", 1), log=Events())
    assert response == Response(1, Verdict.UNAVAILABLE, "not done within 1 ms")


async def test_a_caller_that_gives_up_leaves_the_connection_usable(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def slow(what: str, data: bytes) -> bytes:
        if data == b"slow":
            await gate.wait()
        return data

    async with serving(Signer(slow), tmp_path / "s") as client:
        given_up = asyncio.ensure_future(client.sign_crl("k", b"slow"))
        await client.sign_crl("k", b"quick")
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        gate.set()
        assert await client.sign_crl("k", b"quick") == b"quick"


async def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    client = SignerClient(tmp_path / "absent")
    with pytest.raises(Unavailable) as caught:
        await client.ping()
    assert caught.value.what == "signer"
    await client.close()


@pytest.mark.parametrize(
    "nonsense",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", encode_response(Response(1, Verdict.OK))[:-1] + b"\xff", b""],
    ids=["http", "broken header", "silence and hanging up"],
)
async def test_a_server_that_makes_no_sense_is_unavailable(tmp_path: Path, nonsense: bytes) -> None:
    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(nonsense)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_unix_server(odd, tmp_path / "s"):
        client = SignerClient(tmp_path / "s", timeout=20)
        with pytest.raises(Unavailable):
            await client.ping()
        await client.close()


async def test_being_turned_away_is_a_refusal_with_its_reason(tmp_path: Path) -> None:
    events = Events()
    signer = Signer(echo)
    server = await asyncio.get_running_loop().create_unix_server(
        lambda: Peer(signer=signer, uids=frozenset({_uid() + 1}), peers=set(), log=events), str(tmp_path / "s")
    )
    client = SignerClient(tmp_path / "s", timeout=20)
    with pytest.raises((SignerRefused, Unavailable)):
        await client.ping()
    await client.close()
    server.close()
    await server.wait_closed()
    assert signer.most == 0
    assert [event for event, _ in events.seen] == ["peer-refused"]


async def test_many_first_requests_share_one_connection(tmp_path: Path) -> None:
    connections = 0
    signer = Signer(echo)

    def accepted() -> Peer:
        nonlocal connections
        connections += 1
        return Peer(signer=signer, uids=frozenset({_uid()}), peers=set(), log=Events())

    server = await asyncio.get_running_loop().create_unix_server(accepted, str(tmp_path / "s"))
    client = SignerClient(tmp_path / "s", timeout=20)
    await asyncio.gather(*(client.ping() for _ in range(50)))
    assert connections == 1
    await client.close()
    server.close()
    await server.wait_closed()
