"""ACME's own: accounts that have lost a key, and accounts that an operator's key says something of."""

from __future__ import annotations

import asyncio
from typing import Any

from acmeserver.external_keys import ExternalKeys, NewKey
from certwright.config import load
from pki.clock import SystemClock
from pki.sealing import Sealer
from policy.principal import COMMAND_LINE
from storage.open import open_database
from tests.helpers.acme_account import binding_of
from tests.helpers.acme_client import AccountKey, make_jws, to_json
from tests.helpers.neighbourhood import Account
from tests.helpers.wanted import Wanted
from tests.helpers.wire import Reply
from tests.protocol.matrix.cells import Row, acme_only
from tests.protocol.matrix.site import BOUND, Site


def changed(site: Site) -> Reply:
    """The order is ready; then the account is given another key, and the old one finalizes."""
    account, new = site.doors.account().register(), AccountKey()
    order = account.ready("host.example.test")
    url = account.url("key-change")
    inner = {"account": account.kid, "oldKey": account.key.jwk}
    jws = make_jws(new, {"alg": new.alg, "jwk": new.jwk, "url": url}, to_json(inner))
    assert account.post(url, jws).status == 200
    return account.finalize(order, Wanted().csr())


def external(site: Site, act: str, **options: Any) -> NewKey:
    """What `certwright eab create` and `revoke` do, beside the running server."""

    async def inside() -> NewKey:
        config = load(site.doors.server.config_file)
        database = await open_database(config.database, migrate=False)
        try:
            keys = ExternalKeys(database=database, clock=SystemClock(), sealer=Sealer(config.sealing_keys))
            if act == "revoke":
                await keys.revoke(options["kid"], COMMAND_LINE)
                return NewKey(options["kid"], "")
            given = {"roles": [], "names": ["*.example.test"], "profiles": [], "expires_at": None, "reusable": False}
            return await keys.create(endpoint=BOUND, principal=COMMAND_LINE, **{**given, **options})
        finally:
            await database.close()

    return asyncio.run(inside())


def bound(site: Site, key: NewKey) -> Account:
    account = site.doors.account(BOUND)
    url = account.url("new-account")
    reply = account.post(url, {"externalAccountBinding": binding_of(account.key, key, url=url)}, jwk=True)
    assert reply.status == 201, reply.body
    account.kid = reply.headers["Location"]
    return account


def unbound(site: Site) -> Reply:
    account = site.doors.account(BOUND)
    return account.post(account.url("new-account"), {"termsOfServiceAgreed": True}, jwk=True)


def anothers_name(site: Site) -> Reply:
    return bound(site, external(site, "create", names=["mine.example.test"])).order("host.example.test")


def role_of_nobody(site: Site) -> Reply:
    return bound(site, external(site, "create", roles=["nobody"])).order("host.example.test")


def revoked(site: Site) -> Reply:
    key = external(site, "create")
    account = bound(site, key)
    order = account.order("host.example.test")
    assert order.json["status"] == "ready"  # pre-approved
    external(site, "revoke", kid=key.kid)
    return account.finalize(order, Wanted().csr())


ACCOUNTS: dict[str, Row] = {
    "a key that was the account's": acme_only(changed, "unauthorized|malformed"),
    "no external account where one is required": acme_only(unbound, "externalAccountRequired"),
    "a name that the external account does not have": acme_only(anothers_name, "rejectedIdentifier"),
    "a role of the external account that no policy names": acme_only(role_of_nobody, "no policy grants anything"),
    "an external account that was revoked": acme_only(revoked, "unauthorized.*revoked"),
}
