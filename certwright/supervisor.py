"""The parent of all: binds the sockets, starts signer and workers, replaces the dead, reloads and ends them in order.

Law of this file: one thread, no event loop, no secret, no request. It forks, so it must stay as small and as still as that.
A *generation* is one configuration with its signer and its workers. SIGHUP makes the next one beside the old one, and only when
it is ready the old one is drained; a generation that never gets ready changes nothing.
"""

from __future__ import annotations

import contextlib
import enum
import gc
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from certwright.config import Config
from certwright.listeners import Sockets
from certwright.logs import Log
from certwright.notify import notify
from certwright.yaml_positions import ConfigError
from signer.configuration import ProcessConfig, dump

EX_OK, EX_FAILED = 0, 1
START_LIMIT = 30.0  # seconds that a generation may take to get ready
DRAIN_LIMIT = 30.0  # seconds that requests in flight have before their worker is killed
SIGNER_LIMIT = 6.0
FIRST_BACKOFF, LONGEST_BACKOFF = 0.1, 10.0
_SETTLED = 30.0  # seconds of life after which a death is not one in a row any more


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a worker is born with. `ready` and `life` are descriptors: to write to once when it serves, and whose end (EOF)
    says that the supervisor is gone.
    """

    config: Config
    signer_path: Path
    sockets: Sockets
    number: int
    ready: int
    life: int


Work = Callable[[Assignment], int]
"""Runs a worker in this process and gives its exit code."""


class Kind(enum.Enum):
    SIGNER = "signer"
    WORKER = "worker"


@dataclass(slots=True)
class Child:
    kind: Kind
    number: int  # 0.., workers only
    pid: int
    started: float
    deaths: int  # of its predecessors, in a row
    ready_pipe: int | None
    ready: bool = False


@dataclass(slots=True)
class Generation:
    number: int
    config: Config
    signer_path: Path
    signer_socket: socket.socket | None  # None: somebody else's signer
    children: list[Child] = field(default_factory=list)
    due: list[tuple[float, Kind, int, int]] = field(default_factory=list)  # restarts: when, what, number, deaths so far
    was_ready: bool = False
    began: float = 0.0
    drain_until: float | None = None  # when set, it is ending

    def of(self, kind: Kind) -> list[Child]:
        return [child for child in self.children if child.kind is kind]

    @property
    def ready(self) -> bool:
        workers = self.of(Kind.WORKER)
        return len(workers) == self.config.workers and all(child.ready for child in self.children)


class Supervisor:
    """`load` reads the configuration again for SIGHUP; `on_ready` is told once when the first generation serves.

    `directory` is private to this run and has a short name: a socket's path has 107 octets at most.
    """

    def __init__(
        self,
        *,
        config: Config,
        sockets: Sockets,
        directory: Path,
        load: Callable[[], Config],
        work: Work,
        log: Log,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._sockets = sockets
        self._directory = directory
        self._load = load
        self._work = work
        self._log = log
        self._on_ready = on_ready
        self._selector = selectors.DefaultSelector()
        self._life_read, self._life_write = os.pipe()  # its end tells the workers that we are gone
        self._wake_read, self._wake_write = os.pipe()
        self._announced = False
        self._exit_code = EX_OK
        self._stopping = False
        self._farewell = signal.SIGTERM  # what tells a worker to end
        self._numbers = 0
        self._current = self._generation(config)
        self._next: Generation | None = None
        self._old: list[Generation] = []

    # ------------------------------------------------------------------ the loop

    def run(self) -> int:
        """Until SIGTERM or SIGINT, or until the first start has failed; the exit code."""
        with self._signals():
            self._start(self._current)
            while self._generations():
                self._select()
                self._reap()
                self._look()
        return self._exit_code

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals become bytes in a pipe, so the loop does one thing at a time."""
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        wakeup = signal.set_wakeup_fd(self._wake_write)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _generations(self) -> list[Generation]:
        living = [self._current, *self._old, *([self._next] if self._next else [])]
        return [one for one in living if one.children or one.due]

    def _select(self) -> None:
        for key, _ in self._selector.select(self._patience()):
            if key.fd == self._wake_read:
                for number in os.read(self._wake_read, 4096):
                    self._on_signal(number)
            else:
                self._on_ready_pipe(key.fd)

    def _patience(self) -> float:
        """Seconds until something is due."""
        now = time.monotonic()
        due = [when for one in self._generations() for when, *_ in one.due]
        due += [one.drain_until for one in self._generations() if one.drain_until is not None]
        due += [one.began + START_LIMIT for one in self._generations() if not one.was_ready]
        return max(0.0, min(due, default=now + 60.0) - now)

    def _on_signal(self, number: int) -> None:
        if number in {signal.SIGTERM, signal.SIGINT}:
            if self._stopping:
                self._kill_all()
            self._farewell = signal.Signals(number)  # Ctrl-C is more urgent; workers know the difference
            self._stop(EX_OK)
        elif number == signal.SIGHUP and not self._stopping:
            self._reload()

    def _on_ready_pipe(self, descriptor: int) -> None:
        said = os.read(descriptor, 64)
        self._selector.unregister(descriptor)
        os.close(descriptor)
        for generation in self._generations():
            for child in generation.children:
                if child.ready_pipe == descriptor:
                    child.ready_pipe = None
                    child.ready = bool(said)

    # ------------------------------------------------------------------ generations

    def _generation(self, config: Config) -> Generation:
        number, self._numbers = self._numbers, self._numbers + 1
        if config.signer_socket is not None:
            return Generation(number, config, config.signer_socket, None)
        path = self._directory / f"signer-{number}.sock"
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        listening.listen(256)
        return Generation(number, config, path, listening)

    def _start(self, generation: Generation) -> None:
        generation.began = time.monotonic()
        if generation.signer_socket is not None:
            self._start_child(generation, Kind.SIGNER, 0, 0)
        gc.collect()
        gc.freeze()  # what is shared with the workers stays shared
        for number in range(generation.config.workers):
            self._start_child(generation, Kind.WORKER, number, 0)

    def _look(self) -> None:
        """After every event: restart what is due, notice what got ready, end what is over."""
        now = time.monotonic()
        for generation in self._generations():
            for entry in [entry for entry in generation.due if entry[0] <= now]:
                generation.due.remove(entry)
                self._start_child(generation, *entry[1:])
            if generation.ready and not generation.was_ready:
                generation.was_ready = True
                self._became_ready(generation)
            elif not generation.was_ready and generation.drain_until is None and now > generation.began + START_LIMIT:
                self._failed_to_start(generation, f"not ready after {START_LIMIT:.0f} s")
            if generation.drain_until is not None:
                self._end(generation, now)

    def _became_ready(self, generation: Generation) -> None:
        if generation is self._next:
            self._log.info("reloaded", generation=generation.number, file=str(generation.config.file))
            self._drain(self._current)
            self._old.append(self._current)
            self._current, self._next = generation, None
        notify("READY=1")
        if not self._announced:
            self._announced = True
            self._log.info("ready", workers=generation.config.workers, base_url=generation.config.base_url)
            self._on_ready()

    def _failed_to_start(self, generation: Generation, why: str) -> None:
        if generation is self._next:
            self._log.error("reload failed; the old configuration goes on", why=why)
            self._next = None
            self._old.append(generation)
            self._drain(generation)
            notify("READY=1")
        elif not self._stopping:
            self._log.error("start failed", why=why)
            self._stop(EX_FAILED)

    def _reload(self) -> None:
        if self._next is not None or not self._current.was_ready:
            self._log.warning("reload refused: the last start is still under way")
            return
        notify("RELOADING=1\nMONOTONIC_USEC=" + str(time.monotonic_ns() // 1000))
        try:
            config = self._load()
        except ConfigError as error:
            for problem in error.problems:
                self._log.error("configuration", problem=str(problem))
            self._log.error("reload failed; the old configuration goes on", why="the configuration is not valid")
            notify("READY=1")
            return
        if config.listen != self._current.config.listen:
            self._log.warning("addresses in `listen` change with a restart only; the old ones are kept")
        self._next = self._generation(config)
        self._start(self._next)

    def _stop(self, exit_code: int) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._exit_code = exit_code
        notify("STOPPING=1")
        self._log.info("stopping")
        for sockets in self._sockets.values():
            for sock in sockets:
                sock.close()
        for generation in self._generations():
            self._drain(generation)

    def _drain(self, generation: Generation) -> None:
        """Workers first: they may need the signer for what is under way."""
        generation.due.clear()
        if generation.drain_until is None:
            generation.drain_until = time.monotonic() + DRAIN_LIMIT
            for child in generation.of(Kind.WORKER):
                _send(child, self._farewell)

    def _end(self, generation: Generation, now: float) -> None:
        if generation.of(Kind.WORKER):
            if generation.drain_until is not None and now > generation.drain_until:
                generation.drain_until = now + DRAIN_LIMIT
                for child in generation.of(Kind.WORKER):
                    self._log.warning("worker killed: it did not end in time", pid=child.pid)
                    _send(child, signal.SIGKILL)
            return
        if generation.signer_socket is not None:
            generation.signer_socket.close()
            generation.signer_socket = None
            generation.signer_path.unlink(missing_ok=True)
            generation.drain_until = now + SIGNER_LIMIT
            for child in generation.of(Kind.SIGNER):
                _send(child, signal.SIGTERM)
        elif generation.drain_until is not None and now > generation.drain_until:
            generation.drain_until = now + SIGNER_LIMIT
            for child in generation.children:
                _send(child, signal.SIGKILL)
        if not generation.children and generation in self._old:
            self._old.remove(generation)

    def _kill_all(self) -> None:
        for generation in self._generations():
            for child in generation.children:
                _send(child, signal.SIGKILL)

    # ------------------------------------------------------------------ children

    def _start_child(self, generation: Generation, kind: Kind, number: int, deaths: int) -> None:
        ready_read, ready_write = os.pipe()
        pid = (
            self._spawn_signer(generation, ready_write) if kind is Kind.SIGNER else self._fork(generation, number, ready_write)
        )
        os.close(ready_write)
        self._selector.register(ready_read, selectors.EVENT_READ)
        generation.children.append(Child(kind, number, pid, time.monotonic(), deaths, ready_read))

    def _spawn_signer(self, generation: Generation, ready_write: int) -> int:
        """A program of its own, for it shares no page with those who listen to strangers. It says `ready` on its stdout."""
        listening = generation.signer_socket
        assert listening is not None  # `_start` asked
        config = ProcessConfig(listen=listening.fileno(), keys=generation.config.keys, parent=os.getpid())
        told = os.memfd_create("signer-configuration")
        try:
            os.write(told, dump(config))
            os.lseek(told, 0, os.SEEK_SET)
            os.set_inheritable(listening.fileno(), True)  # noqa: FBT003  # positional-only
            return os.posix_spawn(
                sys.executable,
                [sys.executable, "-P", "-m", "signer.process"],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, told, 0), (os.POSIX_SPAWN_DUP2, ready_write, 1)],
                setpgroup=0,  # a terminal's Ctrl-C is ours to handle: the signer outlives the workers
                setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE],
            )
        finally:
            os.set_inheritable(listening.fileno(), False)  # noqa: FBT003  # positional-only
            os.close(told)

    def _fork(self, generation: Generation, number: int, ready_write: int) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = EX_FAILED
        try:
            signal.set_wakeup_fd(-1)
            for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(signum, signal.SIG_IGN)  # until the worker's loop listens for SIGTERM
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self._life_write)
            self._selector.close()
            assignment = Assignment(
                config=generation.config,
                signer_path=generation.signer_path,
                sockets=self._sockets,
                number=number,
                ready=ready_write,
                life=self._life_read,
            )
            code = self._work(assignment)
        except BaseException as error:  # noqa: BLE001  # the end of this process; nothing may reach the parent's frames
            self._log.bug("worker failed", error)
        finally:
            os._exit(code)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for generation in self._generations():
                for child in [child for child in generation.children if child.pid == pid]:
                    generation.children.remove(child)
                    self._died(generation, child, os.waitstatus_to_exitcode(status))

    def _died(self, generation: Generation, child: Child, code: int) -> None:
        if child.ready_pipe is not None:
            self._selector.unregister(child.ready_pipe)
            os.close(child.ready_pipe)
        if generation.drain_until is not None:
            return
        if not generation.was_ready:
            self._failed_to_start(generation, f"the {child.kind.value} ended with {code}; the lines above say why")
            return
        now = time.monotonic()
        deaths = 0 if now - child.started > _SETTLED else child.deaths + 1
        pause = 0.0 if deaths == 0 else min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** (deaths - 1))
        self._log.error("child ended", kind=child.kind.value, pid=child.pid, code=code, restart_in_seconds=pause)
        generation.due.append((now + pause, child.kind, child.number, deaths))


def _send(child: Child, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid, number)
