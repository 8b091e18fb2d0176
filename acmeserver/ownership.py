"""Which names an account owns by the external key that it is bound to: the pipeline's look at it (issuance.pipeline.Ownership)."""

from __future__ import annotations

from collections.abc import Collection

from acmeserver import store
from acmeserver.external import binding_from
from acmeserver.problems import Problem
from pki.identifiers import Identifier
from policy.principal import Principal, PrincipalKind
from storage.database import Database


class ExternalOwnership:
    """Reads the key's own row each time: a key that was revoked meanwhile owns nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def owned(
        self, principal: Principal, credential_ids: Collection[str], identifiers: Collection[Identifier]
    ) -> Collection[Identifier]:
        if principal.kind is not PrincipalKind.ACME_ACCOUNT:
            return ()
        row = await self._database.fetch_one(store.BINDING_OF_SQL, principal.id)
        if row is None:
            return ()
        try:
            binding = binding_from(row)
        except Problem:  # revoked
            return ()
        if binding is None or binding.kid not in credential_ids:
            return ()
        return [identifier for identifier in identifiers if binding.owns(identifier)]
