"""The process that alone holds keys: `python -m signer.process`, its configuration on stdin (or `--config FILE`).

It serves one Unix socket, never forks, dumps no core, and writes JSON lines: `ready` to stdout, everything else to stderr.
SIGTERM and SIGINT end it when what is under way is done; SIGHUP tries tokens again whose PIN was refused.
Exit codes: 0 ended as asked, 78 the configuration does not work (a line `cannot-start` on stderr says why).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import orjson
import uvloop

from pki.clock import SystemClock, rfc3339
from pki.reasons import Unavailable
from signer.api import Signer, SignerRefused, TransportUnavailable
from signer.configuration import ConfigurationError, ProcessConfig, parse
from signer.keyring import open_keys
from signer.pkcs11 import Log
from signer.wire import (
    FrameReader,
    Operation,
    Request,
    Response,
    Verdict,
    WireError,
    encode_response,
    parse_request,
)

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid
_MOST_AT_ONCE = 256  # requests of one connection; more wait in its socket
_DRAIN = 5.0  # seconds that requests under way have at the end
_EX_CONFIG = 78
_ORDINARY = frozenset({"ready", "ended", "token-back", "token-unpads"})


def log(event: str, **fields: object) -> None:
    """One JSON line on stderr, in the shape of all our processes' lines."""
    level = "info" if event in _ORDINARY else "error"
    line = {"time": rfc3339(SystemClock().micros()), "level": level, "process": "signer", "event": event, **fields}
    sys.stderr.buffer.write(orjson.dumps(line, default=str) + b"\n")
    sys.stderr.buffer.flush()


async def answer(signer: Signer, request: Request, *, log: Log) -> Response:
    """One request to its response. This is the outermost edge: what is not expected becomes `failed`, and a log line."""
    try:
        async with asyncio.timeout(request.milliseconds / 1000):
            payload = await _perform(signer, request)
    except SignerRefused as refused:
        log("refused", operation=request.operation.value, key=request.key, detail=str(refused))
        return Response(request.id, Verdict.REFUSED, str(refused))
    except TransportUnavailable as unavailable:
        return Response(request.id, Verdict.NO_TRANSPORT, str(unavailable))
    except Unavailable as unavailable:
        return Response(request.id, Verdict.UNAVAILABLE, unavailable.what)
    except TimeoutError:
        return Response(request.id, Verdict.UNAVAILABLE, f"not done within {request.milliseconds} ms")
    except Exception as error:  # noqa: BLE001  # the outermost edge
        log("failed", operation=request.operation.value, key=request.key, error=f"{type(error).__name__}: {error}")
        return Response(request.id, Verdict.FAILED, type(error).__name__)
    return Response(request.id, Verdict.OK, "", payload)


async def _perform(signer: Signer, request: Request) -> bytes:
    match request:
        case Request(operation=Operation.PUBLIC_KEY, key=key):
            return await signer.public_key(key)
        case Request(operation=Operation.SIGN_CERTIFICATE, key=key, payload=tbs):
            return await signer.sign_certificate(key, tbs)
        case Request(operation=Operation.SIGN_CRL, key=key, payload=tbs):
            return await signer.sign_crl(key, tbs)
        case Request(operation=Operation.SIGN_OCSP, key=key, payload=tbs):
            return await signer.sign_ocsp(key, tbs)
        case Request(operation=Operation.SIGN_ANNOUNCEMENT, key=key, payload=attributes):
            return await signer.sign_announcement(key, attributes)
        case Request(operation=Operation.RA_SIGN, key=key, payload=data, digest=digest) if digest is not None:
            return await signer.ra_sign(key, data, digest)
        case Request(operation=Operation.RA_DECRYPT, length=length, transport=transport) if length is not None and transport:
            return await signer.ra_decrypt(request.key, request.payload, length, transport)
        case Request(operation=Operation.PING):
            await signer.ping()
            return b""
        case _:
            raise SignerRefused(f"{request.operation.value} without its digest, length or key transport")


class Peer(asyncio.Protocol):
    """One connection: who is it, what does it ask, and the answers in the order in which they are ready."""

    def __init__(self, *, signer: Signer, uids: frozenset[int], peers: set[Peer], log: Log) -> None:
        self._signer = signer
        self._peers = peers
        self._uids = uids
        self._log = log
        self._frames = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        peer = stream.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        pid, uid, _ = _PEER.unpack(peer)
        if uid not in self._uids:
            self._log("peer-refused", pid=pid, uid=uid)
            farewell = Response(0, Verdict.REFUSED, f"user {uid} may not use this signer")
            stream.write(encode_response(farewell))
            stream.close()
            return
        self._transport = stream
        self._peers.add(self)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        try:
            for header, payload in self._frames.feed(data):
                self._begin(parse_request(header, payload))
        except WireError as error:
            self._log("peer-makes-no-sense", error=str(error))
            self._transport.write(encode_response(Response(0, Verdict.REFUSED, str(error))))
            self._transport.close()
            self._transport = None

    def _begin(self, request: Request) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(request))
        self._tasks.add(task)
        if len(self._tasks) >= _MOST_AT_ONCE and self._transport is not None:
            self._transport.pause_reading()

    async def _serve(self, request: Request) -> None:
        response = await answer(self._signer, request, log=self._log)
        if self._transport is not None:
            self._transport.write(encode_response(response))
        task = asyncio.current_task()
        if task is not None:
            self._tasks.discard(task)
        if len(self._tasks) == _MOST_AT_ONCE - 1 and self._transport is not None:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio calls it so
        self._transport = None
        self._peers.discard(self)

    async def drain(self) -> None:
        """Waits for what is under way, then hangs up."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_DRAIN)
        if self._transport is not None:
            self._transport.close()


def harden(parent: int | None) -> None:
    """No core dumps, no reading of our memory by others of the same user, and no life after the parent's."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_DUMPABLE, 0), *(((_PR_SET_PDEATHSIG, signal.SIGTERM),) if parent is not None else ())):
        if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
            raise ConfigurationError(f"prctl({option}) failed: {os.strerror(ctypes.get_errno())}")
    if parent is not None and os.getppid() != parent:  # it ended before we asked to be told
        raise ConfigurationError(f"the parent, process {parent}, is gone")


def listen(where: Path | int) -> socket.socket:
    """The listening socket: the inherited one, or a new one that only this user may connect to."""
    if isinstance(where, int):
        try:
            inherited = socket.socket(fileno=where)
        except OSError as error:
            raise ConfigurationError(f"listen: descriptor {where} is no socket ({error.strerror})") from None
        inherited.settimeout(0)
        return inherited
    _remove_stale(where)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        made.bind(str(where))
    except OSError as error:
        made.close()
        raise ConfigurationError(f"{where}: {error.strerror}") from None
    finally:
        os.umask(before)
    made.settimeout(0)
    return made


def _remove_stale(path: Path) -> None:
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:  # nobody listens: left behind by a signer that was killed
            path.unlink()
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}") from None
        else:
            raise ConfigurationError(f"{path}: another process is listening there")


async def serve(config: ProcessConfig, *, log: Log = log) -> None:
    """Until SIGTERM or SIGINT. Raises ConfigurationError before `ready`."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    ring = await open_keys(config.keys, log=log)
    loop.add_signal_handler(signal.SIGHUP, ring.reload)
    listener = listen(config.listen)
    uids = config.allowed_uids | {0, os.geteuid()}
    peers: set[Peer] = set()
    server = await loop.create_unix_server(
        lambda: Peer(signer=ring, uids=uids, peers=peers, log=log), sock=listener, backlog=256
    )
    ready = {"event": "ready", "pid": os.getpid(), "keys": ring.uses(), "away": ring.away()}
    sys.stdout.buffer.write(orjson.dumps(ready) + b"\n")
    sys.stdout.buffer.flush()
    await stopped.wait()
    server.close()
    await asyncio.gather(*(peer.drain() for peer in tuple(peers)))
    await ring.close()
    if isinstance(config.listen, Path):
        with contextlib.suppress(FileNotFoundError):
            config.listen.unlink()
    log("ended")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m signer.process", description="Holds the keys of the CA and signs with them."
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="JSON; without it, stdin is read")
    options = parser.parse_args(arguments)
    try:
        config = parse(_configuration(options.config))
        harden(config.parent)
        uvloop.run(serve(config))
    except ConfigurationError as error:
        log("cannot-start", error=str(error))
        return _EX_CONFIG
    return 0


def _configuration(path: Path | None) -> bytes:
    if path is None:
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})") from None


if __name__ == "__main__":
    code = main(sys.argv[1:])
    # A thread that hangs inside a token's driver must not keep the process.
    os._exit(code)
