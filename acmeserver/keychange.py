"""keyChange (RFC 8555 §7.3.5): the account's old key signs for its new one, and the new key for the account.

Law of this file: the change is one compare-and-set on the old thumbprint. Before it the old key is the account's, after it the new
one is, on every node: nobody trusts a key that he remembers (authentication.py), every use case asks the row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from acmeserver import store
from acmeserver.account_events import account_event
from acmeserver.account_keys import blocked, check_key, is_blocked, not_blocked
from acmeserver.authentication import Acting, check_valid
from acmeserver.endpoint import AcmeEndpoint
from acmeserver.jwk import Jwk, parse_jwk, verify
from acmeserver.jws import parse_key_jws
from acmeserver.messages import parse_key_change
from acmeserver.problems import Problem, ProblemType, malformed, unauthorized
from acmeserver.store import Account
from acmeserver.urls import Urls
from issuance.audit import Event
from pki.clock import Clock
from storage.database import Conflict, Database, Step


def parse_new_key(payload: bytes, acting: Acting, urls: Urls) -> Jwk:
    """The new key, after every check of §7.3.5 that needs no database, in its order. Pure. Raises Problem."""
    inner = parse_key_jws(payload)
    verify(inner.jwk, inner.algorithm, inner.signature, inner.signed)
    wanted = parse_key_change(inner.payload)
    if inner.url != urls.key_change:
        raise malformed("the url of the inner JWS is not the URL of this request")
    if wanted.account != urls.account(acting.account_id):
        raise malformed("account is not the URL of the account that signs this request")
    if parse_jwk(wanted.old_key) != acting.jwk:
        raise malformed("oldKey is not the key that signs this request")
    if inner.jwk == acting.jwk:
        raise malformed("the new key is the old one")
    check_key(inner.jwk)
    return inner.jwk


class KeyChanges:
    def __init__(
        self, *, endpoint: AcmeEndpoint, urls: Urls, database: Database, clock: Clock, new_id: Callable[[], str]
    ) -> None:
        self._endpoint = endpoint
        self._urls = urls
        self._database = database
        self._clock = clock
        self._new_id = new_id

    async def change(self, acting: Acting, payload: bytes) -> Account:
        """The account with its new key. Raises Problem: malformed, badPublicKey, unauthorized, and a 409 with Location."""
        jwk = parse_new_key(payload, acting, self._urls)
        account = await self._account(acting.account_id)
        if account is None or account.thumbprint != acting.jwk.thumbprint:
            raise unauthorized("this key is not, or no longer, the account's")
        check_valid(account.status)
        change = Step(store.CHANGE_KEY_SQL, (account.id, account.thumbprint, jwk.thumbprint, jwk.text))
        detail = {"endpoint": self._endpoint.name, "from": account.thumbprint, "to": jwk.thumbprint}
        now = self._clock.micros()
        changed = account_event(Event.ACCOUNT_KEY_CHANGED, acting, detail, record_id=self._new_id(), at=now)
        try:
            await self._database.write(change, not_blocked(jwk), changed)
        except Conflict as conflict:
            raise await self._why(acting, jwk) from conflict
        return replace(account, thumbprint=jwk.thumbprint, jwk=jwk.text)

    async def _why(self, acting: Acting, jwk: Jwk) -> Problem:
        if await is_blocked(self._database, jwk):
            return blocked()
        row = await self._database.fetch_one(store.ACCOUNT_BY_KEY_SQL, self._endpoint.name, jwk.thumbprint)
        if row is not None:
            return self._conflict("the new key is an account's already", row["id"])
        account = await self._account(acting.account_id)
        if account is not None:
            check_valid(account.status)
        return self._conflict("the account has just been given another key", acting.account_id)

    def _conflict(self, detail: str, account_id: str) -> Problem:
        """§7.3.5: certbot reads the Location of any 409 and nothing else of it."""
        return Problem(ProblemType.MALFORMED, detail, status=409, location=self._urls.account(account_id))

    async def _account(self, account_id: str) -> Account | None:
        row = await self._database.fetch_one(store.ACCOUNT_SQL, account_id, self._endpoint.name)
        return store.account_from(row) if row is not None else None
