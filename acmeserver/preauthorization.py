"""newAuthz (RFC 8555 §7.4.1): control proved before there is an order, for names or for all names below one (RFC 9444 §4.2)."""

from __future__ import annotations

from acmeserver import store
from acmeserver.authentication import Acting
from acmeserver.endpoint import AcmeEndpoint
from acmeserver.limits import Limits
from acmeserver.messages import NewAuthz
from acmeserver.names import Name, PublicSuffix, challenges_for, check_subdomains, offered
from acmeserver.ports import OrderPolicy
from acmeserver.problems import from_rejection, malformed, not_found
from acmeserver.selection import Selection, authorization_values, owner_of, waiting
from acmeserver.standing import admitted, check_wanted, confirm, explain, guard, principal
from acmeserver.store import Authorization
from pki.clock import Clock, after
from pki.identifiers import DnsName, Identifier
from pki.reasons import Rejection
from policy.profiles import Profile, Profiles
from storage.database import Conflict, Database, Step


class PreAuthorizations:
    def __init__(
        self,
        *,
        endpoint: AcmeEndpoint,
        database: Database,
        clock: Clock,
        profiles: Profiles,
        policy: OrderPolicy,
        selection: Selection,
        is_public_suffix: PublicSuffix,
    ) -> None:
        self._endpoint = endpoint
        self._database = database
        self._clock = clock
        self._profiles = tuple(map(profiles.get, endpoint.profiles))
        self._policy = policy
        self._selection = selection
        self._is_public_suffix = is_public_suffix
        self._limits = Limits(endpoint=endpoint.name, rules=endpoint.limits, database=database)

    async def create(self, acting: Acting, wanted: NewAuthz) -> tuple[Authorization, bool]:
        """The authorization, and whether it is a new one. Raises Problem, Rejection."""
        if not self._endpoint.pre_authorization:
            raise not_found("resource")
        identifier = offered(wanted.identifier, self._endpoint)
        if isinstance(identifier, DnsName) and identifier.wildcard:
            # §7.4.1: the identifier is that of the authorization, so no wildcard can be pre-authorized.
            raise malformed("a wildcard is authorized by an order for it; pre-authorize the name below the star, or order it")
        acting = await admitted(self._database, self._endpoint, acting)
        profile = self._profile(acting, identifier)
        name = self._name(wanted, identifier, acting, profile)
        now = self._clock.micros()
        until = after(now, self._endpoint.order_lifetime)
        authorization, known = await self._selection.select_one(name, profile, acting, now=now, expires_at=until)
        if known:
            await confirm(self._database, self._endpoint, acting)  # no write follows whose guard would
            return authorization, False
        to_prove = waiting([authorization])
        values = authorization_values(authorization, acting.account_id, now)
        inserted = Step(store.INSERT_PREAUTHORIZATION_SQL, (*values, acting.jwk.thumbprint, *guard(acting, self._endpoint)))
        limited = self._limits.order_steps(acting.account_id, [identifier], now, to_prove=to_prove)
        try:
            await self._database.write(*limited, inserted)
        except Conflict as conflict:  # ids are random, so it is the guard on the account, or a limit
            changed = await explain(self._database, self._endpoint, acting)
            refused = await self._limits.order_refusal(acting.account_id, [identifier], now, to_prove=to_prove)
            raise (refused or changed) from conflict
        return authorization, True

    def _name(self, wanted: NewAuthz, identifier: Identifier, acting: Acting, profile: Profile) -> Name:
        if wanted.subdomains and self._endpoint.subdomains:
            ancestor = check_subdomains(identifier, self._is_public_suffix)
            challenges = challenges_for(identifier, self._endpoint.challenges, ancestor=ancestor)
            return Name(wanted.identifier, identifier, challenges, ancestor)
        if owner_of(acting, profile)(identifier):
            return Name(wanted.identifier, identifier, (), owned=True)
        return Name(wanted.identifier, identifier, challenges_for(identifier, self._endpoint.challenges))

    def _profile(self, acting: Acting, identifier: Identifier) -> Profile:
        """The first of the endpoint's that policy would grant for this name; newAuthz does not say which it is for.

        Raises Problem, with what speaks against the first.
        """
        against: Rejection | None = None
        for profile in self._profiles:
            try:
                check_wanted(acting, profile=profile.name, identifiers=[identifier])
                self._policy.check(
                    principal=principal(acting, self._endpoint),
                    profile=profile,
                    identifiers=[identifier],
                    not_before=None,
                    not_after=None,
                )
            except Rejection as rejection:
                against = against or rejection
            else:
                return profile
        if against is None:
            raise AssertionError("an ACME endpoint without profiles")
        raise from_rejection(against)
