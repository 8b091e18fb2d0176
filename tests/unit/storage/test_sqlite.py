"""What only the embedded engine does: files, group commit, and a scratch file that lives as long as the machine runs."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sqlite3
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pki.reasons import Unavailable
from storage.database import Conflict, Step
from storage.sqlite import SqliteDatabase

INSERT = "INSERT INTO note (id, text) VALUES ($1, $2)"
REDEEM = "INSERT INTO nonce_used (nonce, expires_at) VALUES ($1, 1) ON CONFLICT DO NOTHING RETURNING nonce"


@contextlib.asynccontextmanager
async def opened(path: Path, *, boot_id: str = "boot-1") -> AsyncIterator[SqliteDatabase]:
    database = await SqliteDatabase.open(path, boot_id=boot_id, busy_timeout=0.05)
    try:
        await database.write(Step("CREATE TABLE IF NOT EXISTS note (id TEXT PRIMARY KEY, text TEXT NOT NULL)", rows=None))
        yield database
    finally:
        await database.close()


@contextlib.contextmanager
def held_by_another_process(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


@contextlib.contextmanager
def no_file_grows_beyond(size: int) -> Iterator[None]:
    """As on a full disk: the write fails half-way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def commits(path: Path) -> int:
    """Commit frames in the write-ahead log (https://www.sqlite.org/fileformat2.html#the_write_ahead_log)."""
    log = path.with_name(path.name + "-wal").read_bytes()
    (page,) = struct.unpack(">I", log[8:12])
    frames = range(32, len(log), 24 + page)
    return sum(1 for frame in frames if struct.unpack(">I", log[frame + 4 : frame + 8])[0])


def modes_in(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}


async def notes(database: SqliteDatabase) -> list[str]:
    return [row["id"] for row in await database.fetch("SELECT id FROM note ORDER BY id")]


async def test_all_files_are_for_their_owner_alone_even_when_they_were_not(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    path.touch(mode=0o644)
    async with opened(path) as database:
        await database.scratch.id()
        modes = modes_in(tmp_path)
    assert set(modes) >= {"c.db", "c.db-wal", "c.db-shm", "c.db.scratch-boot-1"}
    assert set(modes.values()) == {0o600}


async def test_writes_that_wait_together_are_committed_together(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    async with opened(path) as database:
        before = commits(path)
        with held_by_another_process(path) as other:
            waiting = [asyncio.ensure_future(database.write(Step(INSERT, (str(n // 2), "")))) for n in range(40)]
            await asyncio.sleep(0)  # now all have been put: the writer has one and waits for the lock, the rest queue up
            other.execute("COMMIT")
        verdicts = await asyncio.gather(*waiting, return_exceptions=True)
        assert commits(path) - before <= 2
        assert sum(isinstance(verdict, Conflict) for verdict in verdicts) == 20
        assert len(await notes(database)) == 20


async def test_a_database_that_another_process_holds_too_long_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    async with opened(path) as database:
        with held_by_another_process(path):
            with pytest.raises(Unavailable) as caught:
                await database.write(Step(INSERT, ("a", "")))
            assert caught.value.retry_after == 5
            assert await notes(database) == []  # reads go on
        await database.write(Step(INSERT, ("a", "")))
        assert await notes(database) == ["a"]


async def test_a_full_disk_undoes_the_whole_batch_and_nobody_hears_of_a_conflict(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    async with opened(path) as database:
        with no_file_grows_beyond(200_000):
            verdicts = await asyncio.gather(
                database.write(Step(INSERT, ("a", ""))),
                database.write(Step(INSERT, ("a", "x" * 5_000_000))),
                database.write(Step(INSERT, ("b", "x" * 5_000_000))),
                return_exceptions=True,
            )
        assert isinstance(verdicts[2], Unavailable)
        present = await notes(database)
        assert ("a" in present) == (not isinstance(verdicts[0], Exception))
        assert "b" not in present
        await database.write(Step(INSERT, ("b", "")))
        assert "b" in await notes(database)


async def test_a_write_handed_to_fetch_is_a_bug_and_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "c.db") as database:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await database.fetch(INSERT, "a", "")
        assert await notes(database) == []


async def test_what_was_written_is_there_after_closing_and_a_closed_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    async with opened(path) as database:
        pending = asyncio.ensure_future(database.write(Step(INSERT, ("a", ""))))
        await asyncio.sleep(0)
        await database.close()
        await pending
        for call in (database.ping, database.scratch.id, lambda: database.write(Step(INSERT, ("b", "")))):
            with pytest.raises(Unavailable):
                await call()
    async with opened(path) as database:
        assert await notes(database) == ["a"]


async def test_a_cancelled_caller_does_not_disturb_the_others(tmp_path: Path) -> None:
    async with opened(tmp_path / "c.db") as database:
        writes = [asyncio.ensure_future(database.write(Step(INSERT, (str(n), "")))) for n in range(4)]
        await asyncio.sleep(0)
        writes[1].cancel()
        verdicts = await asyncio.gather(*writes, return_exceptions=True)
    assert [isinstance(verdict, asyncio.CancelledError) for verdict in verdicts] == [False, True, False, False]


async def test_used_nonces_survive_the_process_and_are_forgotten_with_their_id_when_the_machine_restarts(
    tmp_path: Path,
) -> None:
    path = tmp_path / "c.db"
    async with opened(path) as database:
        first = await database.scratch.id()
        assert await database.scratch.write(Step(REDEEM, ("n",), rows=None)) == [[{"nonce": "n"}]]
    async with opened(path) as database:
        assert await database.scratch.id() == first
        assert await database.scratch.write(Step(REDEEM, ("n",), rows=None)) == [[]]
    async with opened(path, boot_id="boot-2") as database:
        assert await database.scratch.id() != first
        assert await database.scratch.fetch_one("SELECT nonce FROM nonce_used") is None
    assert not any("boot-1" in name for name in modes_in(tmp_path))


async def test_a_scratch_file_that_cannot_be_read_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    async with opened(path) as database:
        first = await database.scratch.id()
    (tmp_path / "c.db.scratch-boot-1").write_bytes(b"not a database " * 1000)
    async with opened(path) as database:
        assert await database.scratch.id() != first


async def test_a_file_that_is_no_database_is_unavailable_and_a_missing_folder_says_so(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    path.write_bytes(b"not a database " * 1000)
    with pytest.raises(Unavailable, match="SQLITE_NOTADB"):
        await SqliteDatabase.open(path)
    with pytest.raises(FileNotFoundError):
        await SqliteDatabase.open(tmp_path / "missing" / "c.db")
