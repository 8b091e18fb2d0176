"""Accounts (RFC 8555 §7.3): made, found, read, changed, deactivated; and the list of their orders (§7.1.2.1)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from acmeserver import store
from acmeserver.account_events import account_event
from acmeserver.account_keys import blocked, check_key, is_blocked, not_blocked
from acmeserver.authentication import Acting, check_account, check_valid
from acmeserver.endpoint import AcmeEndpoint
from acmeserver.external_keys import Bound, ExternalKeys
from acmeserver.jwk import Jwk
from acmeserver.limits import Limits
from acmeserver.messages import AccountUpdate, NewAccount
from acmeserver.problems import Problem, ProblemType, malformed, unauthorized
from acmeserver.standing import external_account_required, terms_not_agreed
from acmeserver.states import AccountStatus
from acmeserver.store import Account
from acmeserver.urls import ID, Urls
from issuance.audit import Event
from pki.clock import Clock, Micros
from storage.database import Conflict, Database, Step

ORDERS_A_PAGE = 100

_CURSOR = re.compile(rf"(0|[1-9][0-9]{{0,17}})\.({ID})")
_NEWEST = (2**62, "")  # after every order that there will be


@dataclass(frozen=True, slots=True)
class OrderPage:
    ids: tuple[str, ...]
    next: str  # cursor of the page that follows, "" after the last


class Accounts:
    """`external_keys` is there where the endpoint knows external accounts."""

    def __init__(
        self,
        *,
        endpoint: AcmeEndpoint,
        urls: Urls,
        database: Database,
        clock: Clock,
        new_id: Callable[[], str],
        external_keys: ExternalKeys | None,
        orders_a_page: int = ORDERS_A_PAGE,
    ) -> None:
        self._endpoint = endpoint
        self._urls = urls
        self._database = database
        self._clock = clock
        self._new_id = new_id
        self._external_keys = external_keys
        self._orders_a_page = orders_a_page
        self._limits = Limits(endpoint=endpoint.name, rules=endpoint.limits, database=database)

    async def register(self, jwk: Jwk, wanted: NewAccount, *, source_address: str) -> tuple[Account, bool]:
        """The account of a key, and whether it was made now. Raises Problem."""
        found = await self._find(jwk)
        if found is not None:
            return found, False
        if wanted.only_existing:
            raise Problem(ProblemType.ACCOUNT_DOES_NOT_EXIST, "there is no account with this key at this endpoint")
        if self._endpoint.terms_of_service is not None and not wanted.terms_agreed:
            raise terms_not_agreed(self._endpoint.terms_of_service)
        check_key(jwk)
        try:
            bound = await self._bound(jwk, wanted)
        except Problem:
            # The external key may have been used at this moment, by the same client's other request.
            if (found := await self._find(jwk)) is not None:
                return found, False
            raise
        return await self._insert(jwk, wanted, bound, source_address)

    async def update(self, acting: Acting, wanted: AccountUpdate) -> Account:
        """Read, with changes before if there are any. Raises Problem(unauthorized)."""
        row = await self._database.fetch_one(store.ACCOUNT_SQL, acting.account_id, self._endpoint.name)
        account = store.account_from(row) if row is not None else None
        if account is None or account.thumbprint != acting.jwk.thumbprint:
            raise unauthorized("this key is not, or no longer, the account's")
        check_valid(account.status)
        owner = (account.id, account.thumbprint)
        if wanted.deactivate:
            gone = account_event(Event.ACCOUNT_DEACTIVATED, acting, {}, record_id=self._new_id(), at=self._clock.micros())
            await self._change(Step(store.DEACTIVATE_ACCOUNT_SQL, owner), gone)
            return replace(account, status=AccountStatus.DEACTIVATED)
        contact = account.contact if wanted.contact is None else wanted.contact
        terms = self._endpoint.terms_of_service
        if terms is not None and wanted.terms_agreed and not account.agreed_to(terms):
            await self._change(Step(store.AGREE_SQL, (*owner, store.to_json(contact), terms)))
            return replace(account, contact=contact, terms=terms, terms_agreed=True)
        if contact != account.contact:
            await self._change(Step(store.UPDATE_CONTACT_SQL, (*owner, store.to_json(contact))))
        return replace(account, contact=contact)

    async def orders(self, acting: Acting, cursor: str | None) -> OrderPage:
        """A page of the account's own orders, newest first. Raises Problem."""
        now, before = self._clock.micros(), _NEWEST if cursor is None else _parse_cursor(cursor)
        args = (acting.account_id, self._endpoint.name, now, *before, self._orders_a_page + 1)
        rows = await self._database.fetch(store.ORDERS_SQL, *args)
        check_account(rows[0] if rows else None, acting)
        found = [(row["o_created_at"], row["o_id"]) for row in rows if row["o_id"] is not None]
        return _page(found, self._orders_a_page)

    async def _change(self, *steps: Step) -> None:
        try:
            await self._database.write(*steps)
        except Conflict as conflict:
            raise unauthorized("the account has just been deactivated, or given another key") from conflict

    async def _find(self, jwk: Jwk) -> Account | None:
        row = await self._database.fetch_one(store.ACCOUNT_BY_KEY_SQL, self._endpoint.name, jwk.thumbprint)
        if row is None:
            return None
        account = store.account_from(row)
        check_valid(account.status)
        return account

    async def _bound(self, jwk: Jwk, wanted: NewAccount) -> Bound | None:
        """§7.3.4. An endpoint without external accounts verifies no binding, and then the account does not show it either."""
        if self._external_keys is None or self._endpoint.external_account == "none":
            return None
        if wanted.external_binding is not None:
            name, url = self._endpoint.name, self._urls.new_account
            return await self._external_keys.verify(wanted.external_binding, endpoint=name, url=url, jwk=jwk)
        if self._endpoint.external_account == "required":
            raise external_account_required()
        return None

    async def _insert(self, jwk: Jwk, wanted: NewAccount, bound: Bound | None, source_address: str) -> tuple[Account, bool]:
        account = Account(
            id=self._new_id(),
            thumbprint=jwk.thumbprint,
            jwk=jwk.text,
            status=AccountStatus.VALID,
            contact=wanted.contact,
            terms_agreed=wanted.terms_agreed,
            terms=self._endpoint.terms_of_service or "",
            external_binding=wanted.external_binding if bound is not None else None,
        )
        now = self._clock.micros()
        steps = [*self._limits.account_steps(source_address, now), self._insert_step(account, bound), not_blocked(jwk)]
        steps.append(self._created(Acting(account.id, jwk, source_address), bound, now))
        try:
            await self._database.write(*steps, *([bound.use] if bound is not None else []))
        except Conflict as conflict:
            found = await self._find(jwk)
            if found is not None:  # the same key at the same moment
                return found, False
            refused = await self._limits.account_refusal(source_address, now)
            raise (refused or await self._why_not(jwk, bound)) from conflict
        return account, True

    def _insert_step(self, account: Account, bound: Bound | None) -> Step:
        key = (account.id, self._endpoint.name, account.thumbprint, account.jwk)
        content = (store.to_json(account.contact), int(account.terms_agreed), self._clock.micros(), account.terms)
        binding = (bound.kid, store.to_json(account.external_binding)) if bound is not None else ("", "")
        return Step(store.INSERT_ACCOUNT_SQL, (*key, *content, *binding))

    def _created(self, acting: Acting, bound: Bound | None, now: Micros) -> Step:
        detail = {
            "endpoint": self._endpoint.name,
            "thumbprint": acting.jwk.thumbprint,
            "external_key": bound.kid if bound else "",
        }
        return account_event(Event.ACCOUNT_CREATED, acting, detail, record_id=self._new_id(), at=now)

    async def _why_not(self, jwk: Jwk, bound: Bound | None) -> Problem:
        if await is_blocked(self._database, jwk):
            return blocked()
        if bound is not None and self._external_keys is not None:
            why = await self._external_keys.explain(bound.kid, self._endpoint.name)
            if why is not None:
                return why
        return unauthorized("the account could not be made at this moment; try again")


def _page(found: Sequence[tuple[int, str]], size: int) -> OrderPage:
    """One row more than a page says that there is another."""
    shown = found[:size]
    at, last = shown[-1] if shown else _NEWEST
    return OrderPage(tuple(order_id for _, order_id in shown), f"{at}.{last}" if len(found) > size else "")


def _parse_cursor(cursor: str) -> tuple[int, str]:
    """Made by `_page`; whoever makes one up sees his own orders all the same."""
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise malformed("this is not a page of the orders; begin at the account's orders URL")
    return int(match[1]), match[2]
