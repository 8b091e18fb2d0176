"""Secrets that have to be read back are sealed for their place and end at once: on both engines."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from issuance.sealed import KEY_ID_OCTETS, SealedKind, SealedSecrets
from pki.clock import after
from pki.reasons import Reason, Rejection, Unavailable
from pki.sealing import Sealer
from storage.database import Database, Step
from tests.helpers.clock import FakeClock

RAW_SQL = "SELECT secret FROM sealed_secret WHERE kind = $1 AND endpoint = $2 AND name = $3"
MOVE_SQL = "UPDATE sealed_secret SET name = $4 WHERE kind = $1 AND endpoint = $2 AND name = $3"


@pytest.fixture
def sealed(database: Database, clock: FakeClock) -> SealedSecrets:
    return SealedSecrets(database=database, clock=clock, sealer=Sealer([b"k" * 32]))


async def stored(database: Database, kind: SealedKind, name: str) -> bytes:
    row = await database.fetch_one(RAW_SQL, kind.value, "default", name)
    assert row is not None
    return bytes(row["secret"])


async def test_a_cmc_secret_is_shown_once_and_read_back_from_its_seal(sealed: SealedSecrets, database: Database) -> None:
    text = await sealed.set_cmc_secret(
        endpoint="default", identification="router7", roles=["device"], profile="vpn", expires_at=None
    )
    assert re.fullmatch(r"[a-z2-7]{32}", text)  # 160 bits, and nothing that needs quoting anywhere
    found = await sealed.cmc_secret(endpoint="default", identification="router7")
    assert found is not None
    assert (found.id, found.endpoint, found.secret) == ("default/router7", "default", text.encode())
    assert (found.roles, found.profile) == (frozenset({"device"}), "vpn")
    assert text not in repr(found)
    assert text.encode() not in await stored(database, SealedKind.CMC_SECRET, "router7")


async def test_a_key_is_found_by_its_octets(sealed: SealedSecrets, database: Database) -> None:
    made = await sealed.set_key(endpoint="default", key_id=b"\0\xff", expires_at=None)
    own = await sealed.set_key(endpoint="default", key_id=b"a", expires_at=None, key=b"s" * 16)
    assert (len(made), own) == (32, b"s" * 16)
    found = await sealed.key_encryption_key(endpoint="default", key_id=b"\0\xff")
    assert found is not None
    assert (found.id, found.secret) == ("default/00ff", made)
    assert made not in await stored(database, SealedKind.EST_KEY, "00ff")


async def test_a_secret_of_one_place_is_none_of_another(sealed: SealedSecrets) -> None:
    await sealed.set_cmc_secret(endpoint="default", identification="aa", roles=[], profile="", expires_at=None)
    await sealed.set_key(endpoint="default", key_id=b"\xbb", expires_at=None)
    assert await sealed.cmc_secret(endpoint="vpn", identification="aa") is None
    assert await sealed.cmc_secret(endpoint="default", identification="bb") is None
    assert await sealed.key_encryption_key(endpoint="default", key_id=b"\xaa") is None
    assert await sealed.key_encryption_key(endpoint="vpn", key_id=b"\xbb") is None


@pytest.mark.parametrize("identification", ["", "a\0", "a:b", "x" * 129, "x" * 100_000, "\udcff", "default/router7"])
async def test_what_no_identification_can_be_is_nobodys(sealed: SealedSecrets, identification: str) -> None:
    assert await sealed.cmc_secret(endpoint="default", identification=identification) is None


async def test_an_id_of_any_octets_is_asked_for_safely(sealed: SealedSecrets) -> None:
    for key_id in (b"", b"\0", b"\xff" * KEY_ID_OCTETS, b"x" * 100_000):
        assert await sealed.key_encryption_key(endpoint="default", key_id=key_id) is None


async def test_expired_disabled_and_absent_are_one_case(sealed: SealedSecrets, clock: FakeClock) -> None:
    until = after(clock.micros(), timedelta(seconds=1))
    await sealed.set_cmc_secret(endpoint="default", identification="old", roles=[], profile="", expires_at=until)
    await sealed.set_key(endpoint="default", key_id=b"\x01", expires_at=None)
    assert await sealed.cmc_secret(endpoint="default", identification="old") is not None
    clock.advance(timedelta(seconds=1))
    assert await sealed.cmc_secret(endpoint="default", identification="old") is None
    await sealed.disable(SealedKind.EST_KEY, endpoint="default", name="01")
    assert await sealed.key_encryption_key(endpoint="default", key_id=b"\x01") is None
    [state] = await sealed.list(SealedKind.EST_KEY)
    assert (state.name, state.opens(clock.micros())) == ("01", False)
    with pytest.raises(Rejection) as refused:
        await sealed.disable(SealedKind.EST_KEY, endpoint="default", name="01")
    assert refused.value.reason is Reason.NOT_FOUND


async def test_a_new_secret_ends_the_one_before_it(sealed: SealedSecrets) -> None:
    async def put(secret: str | None) -> str:
        return await sealed.set_cmc_secret(
            endpoint="default", identification="a", roles=[], profile="", expires_at=None, secret=secret
        )

    await put("a shared secret of theirs")
    await sealed.disable(SealedKind.CMC_SECRET, endpoint="default", name="a")
    second = await put(None)
    found = await sealed.cmc_secret(endpoint="default", identification="a")
    assert found is not None
    assert found.secret == second.encode()


async def test_composed_and_decomposed_letters_are_one_identification(sealed: SealedSecrets) -> None:
    await sealed.set_cmc_secret(endpoint="default", identification="J\u00f6rg", roles=[], profile="", expires_at=None)
    assert await sealed.cmc_secret(endpoint="default", identification="Jo\u0308rg") is not None


async def test_a_box_in_another_row_is_an_outage_and_opens_nothing(sealed: SealedSecrets, database: Database) -> None:
    await sealed.set_cmc_secret(endpoint="default", identification="weak", roles=[], profile="", expires_at=None)
    await database.write(Step(MOVE_SQL, ("cmc-secret", "default", "weak", "admin")))
    with pytest.raises(Unavailable, match="not what was sealed as cmc-secret default/admin"):
        await sealed.cmc_secret(endpoint="default", identification="admin")


async def test_without_the_file_of_keys_nothing_is_made_or_opened(
    sealed: SealedSecrets, database: Database, clock: FakeClock
) -> None:
    await sealed.set_key(endpoint="default", key_id=b"\x01", expires_at=None)
    keyless = SealedSecrets(database=database, clock=clock, sealer=None)
    assert await keyless.key_encryption_key(endpoint="default", key_id=b"\x02") is None
    for attempt in (
        keyless.key_encryption_key(endpoint="default", key_id=b"\x01"),
        keyless.set_key(endpoint="default", key_id=b"\x01", expires_at=None),
    ):
        with pytest.raises(Unavailable, match="secrets_key_file"):
            await attempt


@pytest.mark.parametrize(
    ("identification", "secret"),
    [("", "s" * 16), ("a:b", "s" * 16), ("a", "s" * 15), ("a", "s" * 16 + "\n"), ("a", "s" * 1025)],
)
async def test_a_secret_that_could_not_be_used_is_refused(sealed: SealedSecrets, identification: str, secret: str) -> None:
    with pytest.raises(Rejection) as refused:
        await sealed.set_cmc_secret(
            endpoint="default", identification=identification, roles=[], profile="", expires_at=None, secret=secret
        )
    assert refused.value.reason is Reason.MALFORMED
    assert "sss" not in str(refused.value)


@pytest.mark.parametrize(("key_id", "key"), [(b"", b"k" * 16), (b"i" * 65, b"k" * 16), (b"i", b"k" * 17), (b"i", b"")])
async def test_a_key_of_a_size_that_aes_has_not_is_refused(sealed: SealedSecrets, key_id: bytes, key: bytes) -> None:
    with pytest.raises(Rejection) as refused:
        await sealed.set_key(endpoint="default", key_id=key_id, expires_at=None, key=key)
    assert refused.value.reason is Reason.MALFORMED
