"""Challenges of SCEP endpoints on both engines: static ones by name, and those that open once."""

from __future__ import annotations

import pytest

from issuance import hashing
from issuance.credentials import Credential, CredentialKind, Credentials, scep_challenge_id
from issuance.hashing import generate_secret
from pki.reasons import Reason, Rejection
from storage.database import Database
from tests.helpers.clock import FakeClock

SECRETS_SQL = "SELECT id, secret FROM credential WHERE kind = 'scep-challenge' ORDER BY id"


@pytest.fixture
def credentials(database: Database, clock: FakeClock) -> Credentials:
    return Credentials(database=database, clock=clock)


async def set_challenge(
    credentials: Credentials, name: str, challenge: str, *, endpoint: str = "default", role: str = ""
) -> None:
    await credentials.set_scep_challenge(endpoint=endpoint, name=name, challenge=challenge, roles=[role or name], profile="")


async def opens(credentials: Credentials, challenge: str, endpoint: str = "default") -> str:
    """The id of what it opens, "" for nothing."""
    try:
        return (await credentials.check_scep_challenge(endpoint=endpoint, challenge=challenge)).id
    except Rejection as rejection:
        assert rejection.reason is Reason.UNAUTHENTICATED
        return ""


# ---------------------------------------------------------------------- static ones


async def test_each_challenge_of_an_endpoint_opens_with_its_own_roles_until_it_ends(credentials: Credentials) -> None:
    generated = generate_secret()
    for name, challenge in (("", "unnamed"), ("printers", "chosen"), ("routers", "other"), ("phones", generated)):
        await set_challenge(credentials, name, challenge)
    await set_challenge(credentials, "printers", "elsewhere", endpoint="vpn")
    assert [await opens(credentials, one) for one in ("unnamed", "chosen", "other", generated)] == [
        "default",
        "default:printers",
        "default:routers",
        "default:phones",
    ]
    found = await credentials.check_scep_challenge(endpoint="default", challenge="chosen")
    assert found == Credential("default:printers", CredentialKind.SCEP_CHALLENGE, "default", frozenset({"printers"}), "")
    assert [await opens(credentials, one) for one in ("elsewhere", "wrong", generate_secret(), "")] == [""] * 4
    await set_challenge(credentials, "printers", "newer")
    await credentials.disable(CredentialKind.SCEP_CHALLENGE, scep_challenge_id("default", "routers"))
    assert [await opens(credentials, one) for one in ("chosen", "other", "newer", "unnamed")] == [
        "",
        "",
        "default:printers",
        "default",
    ]


async def test_the_chosen_ones_of_an_endpoint_share_a_salt_and_so_one_scrypt(
    credentials: Credentials, database: Database
) -> None:
    for endpoint in ("default", "vpn"):
        for name in ("", "a", "b"):
            await set_challenge(credentials, name, f"secret {name}", endpoint=endpoint)
    await set_challenge(credentials, "b", "another", endpoint="vpn")
    salts: dict[str, set[str]] = {}
    for row in await database.fetch(SECRETS_SQL):
        salts.setdefault(row["id"].partition(":")[0], set()).add(row["secret"].rpartition(":")[0])
    assert [len(found) for found in salts.values()] == [1, 1]
    assert salts["default"] != salts["vpn"]


async def test_challenges_with_salts_of_their_own_go_on_to_open(credentials: Credentials, database: Database) -> None:
    """As two that were set at the same moment have."""
    await set_challenge(credentials, "a", "first")
    first = await database.fetch(SECRETS_SQL)
    await set_challenge(credentials, "", "second", endpoint="vpn")
    for name in ("b", "c"):
        await set_challenge(credentials, name, f"more {name}")
    terms = {row["secret"].rpartition(":")[0] for row in await database.fetch(SECRETS_SQL) if row["id"] != "vpn"}
    assert terms == {first[0]["secret"].rpartition(":")[0]}
    stored = [row["secret"] for row in await database.fetch(SECRETS_SQL)]
    assert hashing._which_scrypt(stored, "second") == stored.index(next(s for s in stored if s.rpartition(":")[0] not in terms))
    assert [await opens(credentials, one) for one in ("first", "more b", "more c")] == ["default:a", "default:b", "default:c"]


@pytest.mark.parametrize("name", ["a/b", "a:b", " ", "-a", "a" * 65, "\0", "é"])
async def test_a_name_that_could_be_taken_for_something_else_is_refused(credentials: Credentials, name: str) -> None:
    with pytest.raises(Rejection) as refused:
        await set_challenge(credentials, name, "secret")
    assert refused.value.reason is Reason.MALFORMED


@pytest.mark.parametrize("text", ["x" * 1024, "x" * 1025, "tab\tbell\a", "\0", "\ud800", "e\u0301" * 512])
async def test_any_text_that_comes_as_a_challenge_is_right_or_wrong(credentials: Credentials, text: str) -> None:
    assert await opens(credentials, text) == ""
    try:
        await set_challenge(credentials, "", text)
    except Rejection as rejection:
        assert rejection.reason is Reason.MALFORMED
        assert await opens(credentials, text) == ""
    else:
        assert await opens(credentials, text) == "default"
