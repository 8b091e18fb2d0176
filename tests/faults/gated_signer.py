"""A signer that somebody else started (`signer: {socket: …}`), behind a gate: what it is asked of one kind can be held for as long as we
like, while everything else goes through. So a worker stands at an exact point of its work, and can be killed there.

    server = Server(edit=through(socket))
    server.init()
    with GatedSigner(server, socket) as signer:
        server.start()
        with signer.held("sign_certificate"):
            ...

A worker waits 10 seconds for an answer. Frames are read with other code than ours: u32 length, u16 length of a JSON header.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

from certwright.config import load
from signer.configuration import ProcessConfig, dump
from tests.helpers.server import PATIENCE, Server, cleaned_environment

_LENGTHS = struct.Struct("!IH")


def through(socket: Path) -> Callable[[str], str]:
    return lambda text: f"{text}\nsigner: {{socket: {socket}}}\n"


class GatedSigner:
    def __init__(self, server: Server, socket: Path) -> None:
        self._config = load(server.config_file)
        self._socket = socket
        self._inner = socket.with_suffix(".inner")
        self._log = socket.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gate")
        self._away = False
        self._closed = ""  # the operation that is held
        self._behind: list[tuple[asyncio.StreamWriter, bytes]] = []  # what is held
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    def __enter__(self) -> Self:
        self._start()
        self._thread.start()
        self._server = self._run(asyncio.start_unix_server(self._serve, self._socket))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        assert self._process is not None
        self._process.terminate()
        self._process.wait(PATIENCE)

    def kill(self) -> None:
        """As the kernel would, and another one is there at once."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(PATIENCE)
        self._start()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Nobody is there: whoever asks has lost its connection at once."""
        assert self._process is not None
        self._away = True
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(PATIENCE)
        try:
            yield
        finally:
            self._start()
            self._away = False

    @contextlib.contextmanager
    def held(self, operation: str) -> Iterator[None]:
        """Nothing of this kind reaches the signer; what is behind the gate at the end is let go, if anybody is still there."""
        self._closed = operation
        try:
            yield
        finally:
            self._closed = ""
            asyncio.run_coroutine_threadsafe(self._let_go(), self._loop).result(PATIENCE)

    def waiting(self) -> int:
        return len(self._behind)

    # ------------------------------------------------------------------ inside

    def _start(self) -> None:
        told = ProcessConfig(listen=self._inner, keys=self._config.keys, allowed_uids=frozenset({os.getuid()}))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "signer.process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=cleaned_environment(),
            )
        assert self._process.stdin is not None
        self._process.stdin.write(dump(told))
        self._process.stdin.close()

    async def _serve(self, worker: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(ConnectionRefusedError):
                await self._both_ways(worker, answers, *await self._connect())
        finally:
            answers.close()
            self._connections.discard(task)

    async def _both_ways(
        self,
        worker: asyncio.StreamReader,
        answers: asyncio.StreamWriter,
        signer: asyncio.StreamReader,
        requests: asyncio.StreamWriter,
    ) -> None:
        """Who has lost one way has lost both."""
        ways = [asyncio.create_task(self._requests(worker, requests)), asyncio.create_task(_copy(signer, answers))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            requests.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while not self._away:
            with contextlib.suppress(OSError):
                return await asyncio.open_unix_connection(self._inner)
            await asyncio.sleep(0.02)
        raise ConnectionRefusedError

    async def _requests(self, worker: asyncio.StreamReader, signer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = await worker.readexactly(_LENGTHS.size)
                length, header = _LENGTHS.unpack(head)
                rest = await worker.readexactly(length - 2)
                if orjson.loads(rest[:header])["o"] == self._closed:
                    self._behind.append((signer, head + rest))
                    continue
                signer.write(head + rest)

    async def _let_go(self) -> None:
        behind, self._behind = self._behind, []
        for signer, frame in behind:
            if not signer.is_closing():
                signer.write(frame)

    async def _end(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _run(self, work: object) -> asyncio.Server:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)  # type: ignore[arg-type]  # a coroutine


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
