"""Where log lines go: to a descriptor whose other end may be slow, stuck or gone.

Law of this file: nobody waits for whoever reads the log. (At another CA a full syslog socket once held up what had to be written.
What has to be written here, the audit, is in the database.) What does not fit into the pipe or socket waits in memory, in its
order; what does not fit there either is counted, and the count is told as soon as there is room.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import threading
import weakref
from collections import deque
from collections.abc import Callable

BACKLOG = 4 * 2**20  # octets that wait in memory
PARTING = 1000  # milliseconds that a process which ends gives its reader

Write = Callable[[bytes], int]
Close = Callable[[], None]


class Sink:
    """Lines to `descriptor`. Files and terminals are written to as they are."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._write: Write | None = None  # until there is something to say
        self._waiting: deque[bytes] = deque()
        self._octets = 0
        self._lost = 0
        self._lock = threading.RLock()  # a signal handler may log, too

    def put(self, line: bytes, lost: Callable[[int], bytes]) -> None:
        """`lost` makes the line that says how many are missing."""
        with self._lock:
            write = self._write or self._open()
            self._flush(write)
            if self._octets + len(line) > BACKLOG:
                self._lost += 1
                return
            if self._lost:
                self._append(lost(self._lost))
                self._lost = 0
            self._append(line)
            self._flush(write)

    def _open(self) -> Write:
        self._write, close = _ends(self._descriptor)
        weakref.finalize(self, _part, self._waiting, self._write, close, self._descriptor, os.getpid())
        return self._write

    def _append(self, line: bytes) -> None:
        self._waiting.append(line)
        self._octets += len(line)

    def _flush(self, write: Write) -> None:
        self._octets -= _drain(self._waiting, write)


def _drain(waiting: deque[bytes], write: Write) -> int:
    """One write for each line, so that the lines of several processes do not mix. How much is gone."""
    gone = 0
    while waiting:
        line = waiting[0]
        try:
            count = write(line)
        except BlockingIOError:
            break
        except OSError:
            count = len(line)  # nobody listens; a server does not stop for that
        gone += count
        if count == len(line):
            waiting.popleft()
        else:
            waiting[0] = line[count:]
    return gone


def _part(waiting: deque[bytes], write: Write, close: Close, descriptor: int, process: int) -> None:
    """The last words, once there is room for them; not those of a parent."""
    if waiting and os.getpid() == process:
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        while waiting and poll.poll(PARTING) and _drain(waiting, write):
            pass
    close()


def _ends(descriptor: int) -> tuple[Write, Close]:
    """A write that never waits. `O_NONBLOCK` belongs to the open file, which we share with others (a shell, say), so a pipe is
    opened once more.
    """
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(mode):
            end = socket.socket(fileno=os.dup(descriptor))
            return lambda line: end.send(line, socket.MSG_DONTWAIT), end.close
        if stat.S_ISFIFO(mode):
            own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            return lambda line: os.write(own, line), lambda: os.close(own)
    except OSError:
        pass  # not there, or nobody reads
    return lambda line: os.write(descriptor, line), lambda: None
