"""A server that could not serve what it is configured to does not start."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from acmeserver.server import AcmeServer
from pki.reasons import Reason, Rejection
from storage.database import Database
from tests.helpers.acme_client import BASE
from tests.helpers.acme_world import (
    ENDPOINTS,
    PROFILES,
    RememberedErrors,
    ScriptedMethod,
    ScriptedPolicy,
    SettlingIssuance,
    enqueue,
)
from tests.helpers.clock import FakeClock


def serve(database: Database, clock: FakeClock, **changes: tuple[str, ...]) -> AcmeServer:
    return AcmeServer(
        base_url=BASE,
        endpoints=[replace(ENDPOINTS[0], **changes)],  # type: ignore[arg-type]  # the changes are tuples of names
        database=database,
        clock=clock,
        issuance=SettlingIssuance(database=database, clock=clock),
        profiles=PROFILES,
        policy=ScriptedPolicy(),
        methods={"http-01": ScriptedMethod("http-01", clock)},
        enqueue_validation=enqueue,
        log=RememberedErrors(),
    )


@pytest.mark.parametrize("changes", [{"challenges": ("dns-01",)}, {"challenges": ()}, {"profiles": ()}])
async def test_an_endpoint_needs_profiles_and_challenges_that_are_there(
    database: Database, clock: FakeClock, changes: dict[str, tuple[str, ...]]
) -> None:
    with pytest.raises(ValueError, match="default"):
        serve(database, clock, **changes)


async def test_an_endpoint_cannot_offer_a_profile_that_is_not_there(database: Database, clock: FakeClock) -> None:
    with pytest.raises(Rejection) as caught:
        serve(database, clock, profiles=("tls-server", "nope"))
    assert caught.value.reason is Reason.UNKNOWN_PROFILE


async def test_cleaning_forgets_spent_nonces(database: Database, clock: FakeClock) -> None:
    server = serve(database, clock)
    await server.nonces.redeem(await server.nonces.issue())
    clock.advance(timedelta(hours=3))
    await server.clean()
    assert await database.scratch.fetch_one("SELECT nonce FROM nonce_used") is None
