"""Who guesses is locked out, and nobody else: on both engines, with passwords, tokens and Digest alike."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from typing import Any

import pytest

from issuance.credentials import Credential, CredentialKind, Credentials
from issuance.digests import DigestHashes, Digests, hashes
from issuance.hashing import generate_secret
from issuance.lockout import Attempt, FailureLimits, Lockouts
from issuance.sealed import SealedSecrets
from pki.clock import Micros
from pki.reasons import Reason, Rejection, Unavailable
from pki.sealing import Sealer
from policy.limits import Limit
from storage.database import Database, Row, Step
from tests.helpers.clock import FakeClock
from tests.helpers.counted import CountedDatabase

QUARTER = timedelta(minutes=15)
LIMITS = FailureLimits(per_name=Limit(10, QUARTER), per_address=Limit(30, QUARTER))
HERE, THERE = "192.0.2.1", "192.0.2.2"


class Door:
    """One endpoint's users, and what happens to whoever knocks."""

    def __init__(self, database: Database, clock: FakeClock) -> None:
        self.clock = clock
        self.lockouts = Lockouts(database=database, clock=clock)
        self.credentials = Credentials(database=database, clock=clock, lockouts=self.lockouts)
        self.sealed = SealedSecrets(database=database, clock=clock, sealer=Sealer([b"k" * 32]))
        self.digests = Digests(database=database, clock=clock, sealed=self.sealed, lockouts=self.lockouts)

    async def add(self, user: str, password: str, *, endpoint: str = "default") -> None:
        digest = self.digests.step(endpoint=endpoint, user=user, realm="estrealm", password=password)
        await self.credentials.set_est_user(
            endpoint=endpoint, user=user, password=password, roles=["device"], profile="", digest=digest
        )

    async def password(self, user: str, password: str, *, address: str = HERE, endpoint: str = "default") -> Reason | None:
        return await verdict(
            self.credentials.check_est_user(endpoint=endpoint, user=user, password=password, address=address, limits=LIMITS)
        )

    async def token(self, token: str, *, address: str = HERE) -> Reason | None:
        return await verdict(self.credentials.check_est_token(endpoint="default", token=token, address=address, limits=LIMITS))

    async def digest(self, user: str, password: str, *, address: str = HERE, realm: str = "estrealm") -> Reason | None:
        own = hashes(user=user, realm=realm, password=password)

        def answers(stored: DigestHashes) -> bool:
            return stored == own

        return await verdict(self.digests.check(endpoint="default", user=user, answers=answers, address=address, limits=LIMITS))


async def verdict(attempt: Coroutine[Any, Any, Credential]) -> Reason | None:
    """None when it was let in."""
    try:
        await attempt
    except Rejection as rejection:
        return rejection.reason
    return None


@pytest.fixture
async def door(database: Database, clock: FakeClock) -> Door:
    door = Door(database, clock)
    await door.add("a", generate_secret())
    await door.add("b", "bpassword")
    return door


async def test_after_ten_wrong_passwords_the_right_one_is_not_looked_at_either(door: Door) -> None:
    assert [await door.password("b", f"wrong{n}") for n in range(10)] == [Reason.UNAUTHENTICATED] * 10
    for guess in ("wrong", "bpassword"):
        assert await door.password("b", guess) is Reason.RATE_LIMITED


async def test_another_address_and_another_user_are_not_locked_with_them(door: Door) -> None:
    for n in range(11):
        await door.password("b", f"wrong{n}")
    assert await door.password("b", "bpassword") is Reason.RATE_LIMITED
    assert await door.password("b", "bpassword", address=THERE) is None
    await door.add("c", "cpassword")
    assert await door.password("c", "cpassword") is None
    await door.add("b", "bpassword", endpoint="vpn")
    assert await door.password("b", "bpassword", endpoint="vpn") is None


async def test_a_name_that_nobody_has_is_locked_in_the_same_way(door: Door) -> None:
    said = [await door.password("nobody", f"wrong{n}") for n in range(12)]
    assert said == [Reason.UNAUTHENTICATED] * 10 + [Reason.RATE_LIMITED] * 2


async def test_an_address_that_tries_many_names_is_locked_as_a_whole(door: Door) -> None:
    for n in range(30):
        assert await door.password(f"user{n}", generate_secret()) is Reason.UNAUTHENTICATED
    assert await door.password("b", "bpassword") is Reason.RATE_LIMITED
    assert await door.token("cwe_0123456789abcdef_" + "x" * 43) is Reason.RATE_LIMITED
    assert await door.password("b", "bpassword", address=THERE) is None


async def test_a_lock_opens_by_itself_one_attempt_at_a_time(door: Door, clock: FakeClock) -> None:
    for n in range(11):
        await door.password("b", f"wrong{n}")
    with pytest.raises(Rejection) as refused:
        await door.credentials.check_est_user(endpoint="default", user="b", password="x", address=HERE, limits=LIMITS)
    assert refused.value.retry_after == 90
    assert "too many failed attempts from 192.0.2.1: 10 in 15m are admitted; try again after 90 s" in refused.value.detail
    clock.advance(timedelta(seconds=90))
    assert await door.password("b", "bpassword") is None
    assert await door.password("b", "wrong") is Reason.UNAUTHENTICATED
    assert await door.password("b", "bpassword") is Reason.RATE_LIMITED


async def test_a_success_takes_no_failure_back(door: Door) -> None:
    # Else whoever has one account of their own could guess at all others, from one address, for ever.
    for n in range(9):
        await door.password("b", f"wrong{n}")
        assert await door.password("b", "bpassword") is None
    await door.password("b", "wrong")
    assert await door.password("b", "bpassword") is Reason.RATE_LIMITED


async def test_who_comes_with_the_right_secret_is_never_locked_however_often(door: Door) -> None:
    token = await door.credentials.create_est_token(endpoint="default", roles=[], profile="", expires_at=None)
    for _ in range(200):
        assert await door.password("b", "bpassword") is None
        assert await door.token(token) is None
        assert await door.digest("b", "bpassword") is None


async def test_passwords_and_digest_of_one_user_are_one_lock_and_tokens_another(door: Door) -> None:
    token = await door.credentials.create_est_token(endpoint="default", roles=[], profile="", expires_at=None)
    for n in range(5):
        assert await door.password("b", f"wrong{n}") is Reason.UNAUTHENTICATED
        assert await door.digest("b", f"wrong{n}") is Reason.UNAUTHENTICATED
    assert await door.digest("b", "bpassword") is Reason.RATE_LIMITED
    assert await door.password("b", "bpassword") is Reason.RATE_LIMITED
    assert await door.token(token) is None


async def test_of_fifty_guesses_at_once_no_more_than_the_limit_are_looked_at(door: Door) -> None:
    guesses = [door.password("b", f"wrong{n}") for n in range(49)] + [door.digest("b", "wrong")]
    said = await asyncio.gather(*guesses)
    assert said.count(Reason.UNAUTHENTICATED) == 10
    assert said.count(Reason.RATE_LIMITED) == 40


async def test_of_a_hundred_names_at_once_no_more_are_looked_at_than_the_address_may_try(door: Door) -> None:
    # One password against all names: a lock that opens for one attempt would open for as many as come together.
    said = await asyncio.gather(*(door.digest(f"user{n}", "Winter2026") for n in range(100)))
    assert said.count(Reason.UNAUTHENTICATED) == 30
    door.clock.advance(timedelta(seconds=30))
    said = await asyncio.gather(*(door.digest(f"user{n}", "Winter2026") for n in range(100, 200)))
    assert said.count(Reason.UNAUTHENTICATED) == 1
    assert await door.digest("b", "bpassword", address=THERE) is None


async def test_a_tokens_failures_are_counted_by_its_public_part(door: Door) -> None:
    tokens = [f"cwe_{'ab' * 8}_{n:043}" for n in range(11)]
    assert [await door.token(token) for token in tokens] == [Reason.UNAUTHENTICATED] * 10 + [Reason.RATE_LIMITED]
    assert await door.token(f"cwe_{'cd' * 8}_{'x' * 43}") is Reason.UNAUTHENTICATED


@pytest.mark.parametrize("name", ["", "x" * 100_000, "a\0b", "\udcff", "default/b", "é" * 5000])
async def test_any_name_is_counted_in_a_row_of_one_size(door: Door, database: Database, name: str) -> None:
    assert await door.password(name, generate_secret()) is Reason.UNAUTHENTICATED
    assert await door.digest(name, "x") is Reason.UNAUTHENTICATED
    rows = await database.fetch("SELECT owner, name FROM rate_bucket")
    assert len(rows) == 2
    assert all(len(row["name"]) <= 64 for row in rows)


async def test_what_people_type_as_their_name_is_not_stored(door: Door, database: Database) -> None:
    await door.password("hunter2", "b")
    assert "hunter2" not in repr([dict(row) for row in await database.fetch("SELECT * FROM rate_bucket")])


async def test_the_neighbours_in_one_site_are_one_address(door: Door) -> None:
    # RFC 6177: a site is given a /48, so whoever guesses has as many addresses as they like.
    for n in range(10):
        await door.password("b", f"wrong{n}", address=f"2001:db8:1:{n}::1")
    assert await door.password("b", "bpassword", address="2001:db8:1:ffff::1") is Reason.RATE_LIMITED
    assert await door.password("b", "bpassword", address="2001:db8:2::1") is None


async def test_without_limits_nothing_is_counted(door: Door, database: Database) -> None:
    for n in range(20):
        attempt = door.credentials.check_est_user(endpoint="default", user="a", password=f"wrong{n}", address=HERE)
        assert await verdict(attempt) is Reason.UNAUTHENTICATED
    assert await database.fetch("SELECT * FROM rate_bucket") == []


async def test_an_attempt_is_the_same_however_its_letters_are_composed() -> None:
    one, other = (Attempt("est-user", "default", name, HERE, LIMITS) for name in ("J\u00f6rg", "Jo\u0308rg"))
    assert one.by_name == other.by_name


# ---------------------------------------------------------------------- tokens


async def test_a_token_opens_one_endpoint_until_its_time(door: Door, clock: FakeClock) -> None:
    until = Micros(clock.micros() + 1_000_000)
    token = await door.credentials.create_est_token(endpoint="default", roles=["device"], profile="vpn", expires_at=until)
    credential = await door.credentials.check_est_token(endpoint="default", token=token)
    assert credential == Credential(token[4:20], CredentialKind.EST_TOKEN, "default", frozenset({"device"}), "vpn")
    other = token[:-1] + ("E" if token.endswith("A") else "A")  # a last character stands for four bits of 256
    for endpoint, presented in [("vpn", token), ("default", other), ("default", "x"), ("default", token.upper())]:
        attempt = door.credentials.check_est_token(endpoint=endpoint, token=presented)
        assert await verdict(attempt) is Reason.UNAUTHENTICATED
    clock.advance(timedelta(seconds=1))
    assert await door.token(token) is Reason.UNAUTHENTICATED


async def test_a_token_is_no_other_secret_and_no_other_secret_a_token(door: Door) -> None:
    token = await door.credentials.create_est_token(endpoint="default", roles=[], profile="", expires_at=None)
    key = await door.credentials.create_api_key(roles=[], profile="", expires_at=None)
    await door.credentials.set_scep_challenge(endpoint="default", challenge=token, roles=[], profile="")
    assert await verdict(door.credentials.check_api_key(token)) is Reason.UNAUTHENTICATED
    assert await door.token(key) is Reason.UNAUTHENTICATED
    assert await door.token("cwe" + key[2:]) is Reason.UNAUTHENTICATED
    assert await door.password(token[4:20], token) is Reason.UNAUTHENTICATED
    await door.credentials.disable(CredentialKind.EST_TOKEN, token[4:20])
    assert await door.token(token) is Reason.UNAUTHENTICATED


# ---------------------------------------------------------------------- Digest


async def test_a_digest_user_is_the_user_of_the_password(door: Door) -> None:
    own = hashes(user="b", realm="estrealm", password="bpassword")
    credential = await door.digests.check(endpoint="default", user="b", answers=lambda stored: stored == own)
    assert credential == Credential("default/b", CredentialKind.EST_USER, "default", frozenset({"device"}), "")


async def test_digest_ends_with_the_password_that_it_was_made_of(door: Door) -> None:
    # A label may have stopped taking Digest meanwhile: the old password must not come back with it.
    await door.credentials.set_est_user(endpoint="default", user="b", password="new", roles=[], profile="")
    assert await door.digest("b", "bpassword") is Reason.UNAUTHENTICATED
    assert await door.digest("b", "new") is Reason.UNAUTHENTICATED
    await door.add("b", "newer")
    assert await door.digest("b", "newer") is None
    await door.credentials.disable(CredentialKind.EST_USER, "default/b")
    assert await door.digest("b", "newer") is Reason.UNAUTHENTICATED


async def test_digest_of_one_endpoint_or_realm_opens_no_other(door: Door) -> None:
    attempt = door.digests.check(endpoint="vpn", user="b", answers=lambda _: True)
    assert await verdict(attempt) is Reason.UNAUTHENTICATED
    assert await door.digest("b", "bpassword", realm="other") is Reason.UNAUTHENTICATED


async def test_nobody_is_let_in_even_where_every_answer_is_right(door: Door) -> None:
    for user in ("nobody", "", "a\0", "x" * 5000, "\udcff"):
        assert (
            await verdict(door.digests.check(endpoint="default", user=user, answers=lambda _: True)) is Reason.UNAUTHENTICATED
        )


async def test_what_digest_needs_is_sealed(door: Door, database: Database) -> None:
    own = hashes(user="b", realm="estrealm", password="bpassword")
    [row] = await database.fetch("SELECT secret FROM sealed_secret WHERE kind = 'est-digest' AND name = 'b'")
    assert own.md5.encode() not in bytes(row["secret"])
    assert own.md5 not in repr(own)
    keyless = Digests(
        database=database,
        clock=door.clock,
        sealed=SealedSecrets(database=database, clock=door.clock, sealer=Sealer([b"x" * 32])),
        lockouts=door.lockouts,
    )
    with pytest.raises(Unavailable):
        await keyless.check(endpoint="default", user="b", answers=lambda stored: stored == own)


@pytest.mark.parametrize("user", ['a"b', "a\\b"])
def test_a_name_that_would_have_to_be_escaped_is_not_for_digest(door: Door, user: str) -> None:
    with pytest.raises(Rejection) as refused:
        door.digests.step(endpoint="default", user=user, realm="estrealm", password="x")
    assert refused.value.reason is Reason.MALFORMED


async def test_digest_compares_once_whether_or_not_there_is_such_a_user(door: Door) -> None:
    for user in ("b", "nobody"):
        asked: list[DigestHashes] = []

        def answers(stored: DigestHashes, asked: list[DigestHashes] = asked) -> bool:
            asked.append(stored)
            return False

        attempt = door.digests.check(endpoint="default", user=user, answers=answers, address=HERE, limits=LIMITS)
        assert await verdict(attempt) is Reason.UNAUTHENTICATED
        [stored] = asked
        assert (len(stored.md5), len(stored.sha256)) == (32, 64)


async def test_who_guesses_holds_up_nobody_who_is_known_elsewhere(door: Door) -> None:
    assert await door.password("b", "bpassword", address=THERE) is None
    guesses = [asyncio.create_task(door.password("b", f"wrong{n}")) for n in range(30)]
    assert await door.password("b", "bpassword", address=THERE) is None
    assert not all(guess.done() for guess in guesses)
    assert set(await asyncio.gather(*guesses)) == {Reason.UNAUTHENTICATED, Reason.RATE_LIMITED}


class FullDisk(CountedDatabase):
    """Answers everything and takes nothing, for as long as it is full."""

    full = False

    async def write(self, *steps: Step) -> Sequence[Sequence[Row]]:
        if self.full:
            raise Unavailable("database (the disk is full)")
        return await super().write(*steps)


async def test_while_failures_cannot_be_counted_nobody_learns_which_guess_was_right(
    database: Database, clock: FakeClock
) -> None:
    disk = FullDisk(database)
    door = Door(disk, clock)
    await door.add("b", "bpassword")
    disk.full = True
    with pytest.raises(Unavailable):
        await door.password("b", "wrong")
    for attempt in (door.password("b", "bpassword"), door.digest("b", "bpassword"), door.password("b", "wrong")):
        with pytest.raises(Unavailable):
            await attempt
    disk.full = False
    assert await door.password("b", "bpassword") is None
    assert len(await database.fetch("SELECT * FROM rate_bucket")) == 2, "and what could not be counted then is counted now"


async def test_nobody_waits_for_their_turn_without_end(database: Database, clock: FakeClock) -> None:
    """A database that does not answer holds one attempt for as long as it may, and must not hold all that come after it as long each."""
    lockouts = Lockouts(database=database, clock=clock, patience=0.05)
    attempt = Attempt("est-user", "default", "b", HERE, LIMITS)
    async with lockouts.turn(attempt):
        with pytest.raises(Unavailable) as away:
            async with lockouts.turn(attempt):
                pytest.fail("it was another's turn")
        assert away.value.retry_after
        async with lockouts.turn(Attempt("est-user", "default", "b", THERE, LIMITS)):
            pass
    async with lockouts.turn(attempt):
        pass


async def test_a_guess_whose_client_has_gone_is_counted(door: Door, database: Database) -> None:
    waiting = asyncio.create_task(door.password("b", "wrong"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    for _ in range(100):
        if await database.fetch("SELECT * FROM rate_bucket"):
            return
        await asyncio.sleep(0.05)
    pytest.fail("it was not counted")
