"""Accounts (RFC 8555 §7.3): made, found, read, changed, deactivated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from acmeserver import store
from acmeserver.authentication import Acting, check_valid
from acmeserver.endpoint import AcmeEndpoint
from acmeserver.jwk import Jwk
from acmeserver.messages import AccountUpdate, NewAccount
from acmeserver.problems import Problem, ProblemType, unauthorized
from acmeserver.states import AccountStatus
from acmeserver.store import Account
from pki.clock import Clock
from pki.reasons import Rejection
from policy.keys import check_public_key
from storage.database import Conflict, Database, Step


class Accounts:
    def __init__(self, *, endpoint: AcmeEndpoint, database: Database, clock: Clock, new_id: Callable[[], str]) -> None:
        self._endpoint = endpoint
        self._database = database
        self._clock = clock
        self._new_id = new_id

    async def register(self, jwk: Jwk, wanted: NewAccount) -> tuple[Account, bool]:
        """The account of a key, and whether it was made now. Raises Problem."""
        found = await self._find(jwk)
        if found is not None:
            return found, False
        if wanted.only_existing:
            raise Problem(ProblemType.ACCOUNT_DOES_NOT_EXIST, "there is no account with this key at this endpoint")
        if self._endpoint.terms_of_service is not None and not wanted.terms_agreed:
            raise Problem(
                ProblemType.USER_ACTION_REQUIRED,
                f"agree to the terms of service first: {self._endpoint.terms_of_service}",
                terms_of_service=self._endpoint.terms_of_service,
            )
        return await self._insert(jwk, wanted)

    async def update(self, acting: Acting, wanted: AccountUpdate) -> Account:
        """Read, with changes before if there are any. Raises Problem(unauthorized)."""
        row = await self._database.fetch_one(store.ACCOUNT_SQL, acting.account_id, self._endpoint.name)
        account = store.account_from(row) if row is not None else None
        if account is None or account.thumbprint != acting.jwk.thumbprint:
            raise unauthorized("this key is not, or no longer, the account's")
        check_valid(account.status)
        owner = (account.id, account.thumbprint)
        if wanted.deactivate:
            await self._change(Step(store.DEACTIVATE_ACCOUNT_SQL, owner))
            return replace(account, status=AccountStatus.DEACTIVATED)
        if wanted.contact is not None and wanted.contact != account.contact:
            await self._change(Step(store.UPDATE_CONTACT_SQL, (*owner, store.to_json(wanted.contact))))
            return replace(account, contact=wanted.contact)
        return account

    async def _change(self, step: Step) -> None:
        try:
            await self._database.write(step)
        except Conflict as conflict:
            raise unauthorized("the account has just been deactivated, or given another key") from conflict

    async def _find(self, jwk: Jwk) -> Account | None:
        row = await self._database.fetch_one(store.ACCOUNT_BY_KEY_SQL, self._endpoint.name, jwk.thumbprint)
        if row is None:
            return None
        account = store.account_from(row)
        check_valid(account.status)
        return account

    async def _insert(self, jwk: Jwk, wanted: NewAccount) -> tuple[Account, bool]:
        _check_key(jwk)
        account = Account(self._new_id(), jwk.thumbprint, jwk.text, AccountStatus.VALID, wanted.contact, wanted.terms_agreed, self._endpoint.terms_of_service or "")
        contact, now = store.to_json(account.contact), self._clock.micros()
        args = (account.id, self._endpoint.name, jwk.thumbprint, jwk.text, contact, int(wanted.terms_agreed), now, account.terms, "", "")
        try:
            await self._database.write(Step(store.INSERT_ACCOUNT_SQL, args))
        except Conflict:  # the same key at the same moment
            found = await self._find(jwk)
            if found is None:
                raise
            return found, False
        return account, True


def _check_key(jwk: Jwk) -> None:
    """An account's key meets the rules of a certificate's (ROCA, close primes, small factors)."""
    try:
        check_public_key(jwk.key)
    except Rejection as rejection:
        raise Problem(ProblemType.BAD_PUBLIC_KEY, rejection.detail) from rejection
