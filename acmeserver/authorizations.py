"""Authorizations and their challenges (RFC 8555 §7.5): read, answered, deactivated."""

from __future__ import annotations

from dataclasses import replace

from acmeserver import store
from acmeserver.authentication import Acting, check_account
from acmeserver.endpoint import AcmeEndpoint
from acmeserver.problems import malformed, not_found
from acmeserver.states import AuthorizationStatus, StoredAuthorization
from acmeserver.store import Authorization
from acmeserver.validations import Claimant, Response, Validations
from pki.clock import Clock
from storage.database import Conflict, Database, Step


class Authorizations:
    def __init__(self, *, endpoint: AcmeEndpoint, database: Database, clock: Clock, validations: Validations) -> None:
        self._endpoint = endpoint
        self._database = database
        self._clock = clock
        self._validations = validations

    async def read(self, acting: Acting, authorization_id: str) -> Authorization:
        """The account's own, not past its time. Raises Problem: 404, and somebody else's is as if it were not there."""
        now, endpoint = self._clock.micros(), self._endpoint.name
        row = check_account(
            await self._database.fetch_one(store.AUTHORIZATION_SQL, acting.account_id, endpoint, authorization_id, now), acting
        )
        if row["z_id"] is None:
            raise not_found("authorization")
        return self._as_offered(store.authorization_from(row))

    def _as_offered(self, authorization: Authorization) -> Authorization:
        """Without the challenges that the operator has taken away since: what is offered no more proves nothing new."""
        offered = tuple(
            kind for kind in authorization.challenges if kind in self._endpoint.challenges or kind == authorization.chosen
        )
        return authorization if offered == authorization.challenges else replace(authorization, challenges=offered)

    async def read_challenge(self, acting: Acting, authorization_id: str, kind: str) -> Authorization:
        authorization = await self.read(acting, authorization_id)
        if kind not in authorization.challenges:
            raise not_found("challenge")
        return authorization

    async def respond(self, acting: Acting, authorization_id: str, kind: str, response: Response) -> Authorization:
        """Validate, unless that is settled already: then the answer is what it came to (a repeated POST is no error)."""
        authorization = await self.read_challenge(acting, authorization_id, kind)
        if authorization.status(self._clock.micros()) is not AuthorizationStatus.PENDING:
            return authorization
        claimant = Claimant(acting.account_id, acting.jwk.thumbprint, self._endpoint.name)
        settled = await self._validations.attempt(authorization, kind, claimant, response)
        return settled if settled is not None else await self.read_challenge(acting, authorization_id, kind)

    async def deactivate(self, acting: Acting, authorization_id: str) -> Authorization:
        """§7.5.2. Raises Problem."""
        authorization = await self.read(acting, authorization_id)
        now = self._clock.micros()
        args = (authorization.id, acting.account_id, acting.jwk.thumbprint, now)
        try:
            await self._database.write(Step(store.DEACTIVATE_AUTHORIZATION_SQL, args))
        except Conflict as conflict:
            status = (await self.read(acting, authorization_id)).status(now)
            raise malformed(f"an authorization that is {status.value} cannot be deactivated") from conflict
        return replace(authorization, stored=StoredAuthorization.DEACTIVATED)
