"""Secrets are made once, stored hashed, and end at once: on both engines."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest

from issuance.credentials import Credential, CredentialKind, Credentials
from issuance.hashing import generate_secret
from pki.clock import Micros
from pki.reasons import Reason, Rejection
from storage.database import Database
from tests.helpers.clock import FakeClock

RAW_SQL = "SELECT secret, disabled_at FROM credential WHERE id = $1"


@pytest.fixture
def credentials(database: Database, clock: FakeClock) -> Credentials:
    return Credentials(database=database, clock=clock)


async def refusal(attempt: Coroutine[Any, Any, Credential]) -> Rejection:
    with pytest.raises(Rejection) as refused:
        await attempt
    assert refused.value.reason is Reason.UNAUTHENTICATED
    return refused.value


async def test_an_api_key_is_shown_once_and_stored_as_its_hash(credentials: Credentials, database: Database) -> None:
    key = await credentials.create_api_key(roles=["web_admin", "devops_engineer"], profile="tls-server", expires_at=None)
    form = re.fullmatch(r"cw_([0-9a-f]{16})_[A-Za-z0-9_-]{43}", key)
    assert form is not None
    assert await credentials.check_api_key(key) == Credential(
        id=form[1],
        kind=CredentialKind.API_KEY,
        endpoint="",
        roles=frozenset({"web_admin", "devops_engineer"}),
        profile="tls-server",
    )
    row = await database.fetch_one(RAW_SQL, form[1])
    assert row is not None
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", row["secret"])


async def test_every_way_to_be_wrong_with_a_key_sounds_the_same(credentials: Credentials, clock: FakeClock) -> None:
    good = await credentials.create_api_key(roles=[], profile="", expires_at=None)
    expiring = await credentials.create_api_key(roles=[], profile="", expires_at=Micros(clock.micros() + 1_000_000))
    disabled = await credentials.create_api_key(roles=[], profile="", expires_at=None)
    await credentials.check_api_key(expiring)
    await credentials.check_api_key(disabled)
    await credentials.disable(CredentialKind.API_KEY, disabled[3:19])
    clock.advance(timedelta(seconds=1))
    wrong_tail = good[:-1] + ("A" if good[-1] != "A" else "B")
    unknown = f"cw_{'0' * 16}_{'x' * 43}"
    presented = [wrong_tail, unknown, expiring, disabled, "", "cw_", good + "\n", good.upper(), "\0", "\udcff", "é" * 63]
    said = {(await refusal(credentials.check_api_key(key))).detail for key in presented}
    assert len(said) == 1
    await credentials.check_api_key(good)


async def test_a_chosen_password_is_stored_by_scrypt_with_its_own_salt(credentials: Credentials, database: Database) -> None:
    stored = []
    for user in ("a", "b"):
        await credentials.set_est_user(endpoint="default", user=user, password="estpwd", roles=["device"], profile="device")
        row = await database.fetch_one(RAW_SQL, f"default/{user}")
        assert row is not None
        assert re.fullmatch(r"scrypt:16384:8:1:[0-9a-f]{32}:[0-9a-f]{64}", row["secret"])
        stored.append(row["secret"])
    assert stored[0] != stored[1]
    assert await credentials.check_est_user(endpoint="default", user="a", password="estpwd") == Credential(
        "default/a", CredentialKind.EST_USER, "default", frozenset({"device"}), "device"
    )


async def test_a_generated_password_is_recognised_and_needs_no_scrypt(credentials: Credentials, database: Database) -> None:
    password = generate_secret()
    await credentials.set_est_user(endpoint="default", user="a", password=password, roles=[], profile="")
    row = await database.fetch_one(RAW_SQL, "default/a")
    assert row is not None
    assert row["secret"].startswith("sha256:")
    await credentials.check_est_user(endpoint="default", user="a", password=password)
    await refusal(credentials.check_est_user(endpoint="default", user="a", password=generate_secret()))
    await refusal(credentials.check_est_user(endpoint="default", user="a", password="chosen"))


async def test_every_way_to_be_wrong_with_a_password_sounds_the_same(credentials: Credentials) -> None:
    await credentials.set_est_user(endpoint="default", user="a", password="estpwd", roles=[], profile="")
    await credentials.set_est_user(endpoint="vpn", user="b", password="vpnpwd", roles=[], profile="")
    attempts = [
        ("default", "a", "wrong"),
        ("default", "nobody", "estpwd"),
        ("vpn", "a", "estpwd"),  # a password of one endpoint opens no other
        ("default", "b", "vpnpwd"),
        ("default/a", "", "estpwd"),
        ("", "default/a", "estpwd"),
        ("default", "a\0", "estpwd"),
        ("default", "", ""),
        ("default", "a", ""),
        ("default", "a", "\udcff\0"),
        ("default", "a", generate_secret()),
    ]
    said = {
        (await refusal(credentials.check_est_user(endpoint=endpoint, user=user, password=password))).detail
        for endpoint, user, password in attempts
    }
    assert len(said) == 1


async def test_a_right_password_is_remembered_but_the_row_decides(credentials: Credentials) -> None:
    def check(password: str) -> Coroutine[Any, Any, Credential]:
        return credentials.check_est_user(endpoint="default", user="a", password=password)

    await credentials.set_est_user(endpoint="default", user="a", password="first", roles=["one"], profile="")
    for _ in range(3):
        assert (await check("first")).roles == {"one"}
    await credentials.set_est_user(endpoint="default", user="a", password="second", roles=["two"], profile="")
    await refusal(check("first"))
    assert (await check("second")).roles == {"two"}
    await credentials.disable(CredentialKind.EST_USER, "default/a")
    await refusal(check("second"))
    await credentials.set_est_user(endpoint="default", user="a", password="second", roles=["two"], profile="")
    await check("second")


async def test_composed_and_decomposed_letters_are_one_password(credentials: Credentials) -> None:
    # RFC 8265 §4.2.2: NFC; keyboards differ in which form they give.
    await credentials.set_est_user(endpoint="default", user="J\u00f6rg", password="gr\u00fcn", roles=[], profile="")
    await credentials.check_est_user(endpoint="default", user="Jo\u0308rg", password="gru\u0308n")


async def test_a_scep_challenge_is_its_endpoints_one(credentials: Credentials) -> None:
    await credentials.set_scep_challenge(endpoint="default", challenge="secret", roles=["device"], profile="device")
    credential = await credentials.check_scep_challenge(endpoint="default", challenge="secret")
    assert (credential.id, credential.kind, credential.roles) == (
        "default",
        CredentialKind.SCEP_CHALLENGE,
        frozenset({"device"}),
    )
    for endpoint, challenge in [("default", "Secret"), ("vpn", "secret"), ("default", ""), ("", "secret"), ("a\0", "secret")]:
        await refusal(credentials.check_scep_challenge(endpoint=endpoint, challenge=challenge))
    await credentials.set_scep_challenge(endpoint="default", challenge=generate_secret(), roles=["device"], profile="device")
    await refusal(credentials.check_scep_challenge(endpoint="default", challenge="secret"))


async def test_a_secret_of_one_kind_is_none_of_another(credentials: Credentials) -> None:
    key = await credentials.create_api_key(roles=["admin"], profile="", expires_at=None)
    await credentials.set_scep_challenge(endpoint="default", challenge="secret", roles=[], profile="")
    await credentials.set_est_user(endpoint="default", user="a", password="estpwd", roles=[], profile="")
    await refusal(credentials.check_api_key("secret"))
    await refusal(credentials.check_scep_challenge(endpoint="default", challenge=key))
    await refusal(credentials.check_scep_challenge(endpoint="default", challenge="estpwd"))
    await refusal(credentials.check_est_user(endpoint="default", user="a", password="secret"))


async def test_a_credential_never_overwrites_one_of_another_kind(credentials: Credentials) -> None:
    key = await credentials.create_api_key(roles=["admin"], profile="", expires_at=None)
    with pytest.raises(Rejection) as refused:
        await credentials.set_scep_challenge(endpoint=key[3:19], challenge="secret", roles=[], profile="")
    assert refused.value.reason is Reason.CONFLICT
    await credentials.check_api_key(key)


@pytest.mark.parametrize(
    ("endpoint", "user", "password"),
    [
        ("default", "", "x"),
        ("default", "a:b", "x"),
        ("default", "a\n", "x"),
        ("default", "a" * 129, "x"),
        ("default", "a", ""),
        ("default", "a", "\0"),
        ("default", "a", "x" * 1025),
        ("a/b", "c", "x"),
        ("", "a", "x"),
    ],
)
async def test_what_basic_cannot_carry_is_not_set(credentials: Credentials, endpoint: str, user: str, password: str) -> None:
    with pytest.raises(Rejection) as refused:
        await credentials.set_est_user(endpoint=endpoint, user=user, password=password, roles=[], profile="")
    assert refused.value.reason is Reason.MALFORMED
    assert await credentials.list(CredentialKind.EST_USER) == []


async def test_a_list_shows_everything_but_the_secret(credentials: Credentials, clock: FakeClock) -> None:
    await credentials.set_est_user(endpoint="default", user="b", password="x", roles=["device"], profile="")
    await credentials.set_est_user(endpoint="default", user="a", password="y", roles=[], profile="device")
    made = clock.micros()
    clock.advance(timedelta(hours=1))
    await credentials.disable(CredentialKind.EST_USER, "default/b")
    first, second = await credentials.list(CredentialKind.EST_USER)
    assert (first.credential.id, first.created_at, first.expires_at, first.disabled_at) == ("default/a", made, None, None)
    assert (second.credential.id, second.disabled_at) == ("default/b", clock.micros())
    assert await credentials.list(CredentialKind.API_KEY) == []


async def test_disabling_what_is_not_there_or_is_disabled_is_not_found(credentials: Credentials) -> None:
    await credentials.set_est_user(endpoint="default", user="a", password="x", roles=[], profile="")
    await credentials.disable(CredentialKind.EST_USER, "default/a")
    for kind, which in [(CredentialKind.EST_USER, "default/a"), (CredentialKind.API_KEY, "default/b")]:
        with pytest.raises(Rejection) as refused:
            await credentials.disable(kind, which)
        assert refused.value.reason is Reason.NOT_FOUND


async def test_keys_come_from_the_randomness_that_is_given(database: Database, clock: FakeClock) -> None:
    zeros: Callable[[int], bytes] = bytes
    credentials = Credentials(database=database, clock=clock, random_bytes=zeros)
    key = await credentials.create_api_key(roles=[], profile="", expires_at=None)
    assert key == f"cw_{'0' * 16}_{'A' * 43}"
