"""The front end put together: one object for each endpoint, and what they share."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

from acmeserver.accounts import Accounts
from acmeserver.authentication import Authenticator
from acmeserver.authorizations import Authorizations
from acmeserver.certificates import Certificates
from acmeserver.chaos import Chaos, ChaoticNonces
from acmeserver.claims import Claims
from acmeserver.directory import advertises_profiles, directory
from acmeserver.endpoint import AcmeEndpoint
from acmeserver.external_keys import ExternalKeys
from acmeserver.keychange import KeyChanges
from acmeserver.limits import Limits
from acmeserver.nonces import Nonces
from acmeserver.orders import Orders
from acmeserver.ports import ChallengeMethod, EnqueueValidation, ErrorLog, IssuanceDoor, OrderPolicy
from acmeserver.preauthorization import PreAuthorizations
from acmeserver.renewal import Renewals
from acmeserver.revocation import Revocation
from acmeserver.selection import Selection
from acmeserver.star_orders import BATCH, Stars
from acmeserver.urls import Urls
from acmeserver.validations import ONCE, Place, Retries, Sleep, Validations
from pki.clock import Clock, after
from pki.sealing import Sealer
from pki.strict import base64url
from policy.limits import is_public_suffix
from policy.profiles import Profiles
from storage.database import Database

RENEWING = timedelta(seconds=20)
HOLD = timedelta(seconds=1)  # how long a challenge POST waits for its result


@dataclass(frozen=True, slots=True)
class Served:
    """One endpoint, ready to answer."""

    endpoint: AcmeEndpoint
    urls: Urls
    directory: bytes
    accounts: Accounts
    key_changes: KeyChanges
    orders: Orders
    authorizations: Authorizations
    pre_authorizations: PreAuthorizations
    certificates: Certificates
    revocation: Revocation
    renewals: Renewals
    stars: Stars
    shows_profile: bool  # in orders


class AcmeServer:
    """All ACME endpoints of a worker.

    Raises ValueError when an endpoint names a challenge that is not there, Rejection when it names such a profile. `sealer` opens
    the keys of external accounts; an endpoint that has such accounts cannot do without.
    """

    def __init__(
        self,
        *,
        base_url: str,
        endpoints: Iterable[AcmeEndpoint],
        database: Database,
        clock: Clock,
        issuance: IssuanceDoor,
        profiles: Profiles,
        policy: OrderPolicy,
        methods: Mapping[str, ChallengeMethod],
        enqueue_validation: EnqueueValidation,
        log: ErrorLog,
        sealer: Sealer | None = None,
        hold: timedelta = HOLD,
        retries: Retries = ONCE,
        claims: Claims | None = None,  # where other workers serve the same accounts
        sleep: Sleep = asyncio.sleep,  # between the tries of one challenge
        random: Callable[[int], bytes] = secrets.token_bytes,
        chaos: Chaos | None = None,
    ) -> None:
        endpoints = tuple(endpoints)
        for endpoint in endpoints:
            _check(endpoint, methods, sealer)
        external_keys = (
            ExternalKeys(database=database, clock=clock, sealer=sealer, random_bytes=random) if sealer is not None else None
        )
        self.clock = clock
        self.log = log
        self._random = random
        self.nonces = Nonces(database=database, clock=clock, random=random)
        unfair = ChaoticNonces(self.nonces, chaos, random=random) if chaos is not None else None
        self.authenticator = Authenticator(database=database, nonces=unfair or self.nonces)
        self.validations = Validations(
            database=database,
            clock=clock,
            methods=methods,
            enqueue=enqueue_validation,
            hold=hold,
            places={
                each.name: Place(
                    each,
                    Urls(base_url=base_url, endpoint=each.name),
                    Limits(endpoint=each.name, rules=each.limits, database=database),
                )
                for each in endpoints
            },
            log=log,
            retries=retries,
            claims=claims,
            sleep=sleep,
        )
        self._claims = claims

        def serve(endpoint: AcmeEndpoint) -> Served:
            urls = Urls(base_url=base_url, endpoint=endpoint.name)
            renewals = Renewals(endpoint=endpoint, database=database, clock=clock, issuance=issuance, random=random)
            stars = Stars(endpoint=endpoint, database=database, clock=clock, issuance=issuance, profiles=profiles)
            selection = Selection(endpoint=endpoint, database=database, new_id=self.new_id, new_token=self._new_token)
            orders = Orders(
                endpoint=endpoint,
                urls=urls,
                database=database,
                clock=clock,
                issuance=issuance,
                profiles=profiles,
                policy=policy,
                selection=selection,
                is_public_suffix=is_public_suffix,
                new_id=self.new_id,
                renewals=renewals,
                stars=stars,
            )
            return Served(
                endpoint=endpoint,
                urls=urls,
                directory=directory(endpoint, urls, profiles),
                accounts=Accounts(
                    endpoint=endpoint,
                    urls=urls,
                    database=database,
                    clock=clock,
                    new_id=self.new_id,
                    external_keys=external_keys,
                ),
                key_changes=KeyChanges(endpoint=endpoint, urls=urls, database=database, clock=clock, new_id=self.new_id),
                orders=orders,
                authorizations=Authorizations(endpoint=endpoint, database=database, clock=clock, validations=self.validations),
                pre_authorizations=PreAuthorizations(
                    endpoint=endpoint,
                    database=database,
                    clock=clock,
                    profiles=profiles,
                    policy=policy,
                    selection=selection,
                    is_public_suffix=is_public_suffix,
                ),
                revocation=Revocation(endpoint=endpoint, database=database, clock=clock, issuance=issuance),
                certificates=Certificates(endpoint=endpoint, urls=urls, database=database, issuance=issuance),
                renewals=renewals,
                stars=stars,
                shows_profile=advertises_profiles(endpoint, profiles),
            )

        self.served: Mapping[str, Served] = MappingProxyType({endpoint.name: serve(endpoint) for endpoint in endpoints})

    def new_id(self) -> str:
        """128 random bits: ids are not secret, but nobody should be able to guess one."""
        return base64url(self._random(16))

    def _new_token(self) -> str:
        """RFC 8555 §8.1: at least 128 bits of entropy, base64url."""
        return base64url(self._random(32))

    async def resume_validation(self, authorization_id: str, kind: str) -> None:
        """For the job that `enqueue_validation` made. Returns when there is nothing left to do; raises Unavailable."""
        await self.validations.resume(authorization_id, kind)

    @property
    def has_stars(self) -> bool:
        return any(served.endpoint.auto_renewal is not None for served in self.served.values())

    async def renew_stars(self) -> bool:
        """What orders that renew themselves (RFC 8739) are due, some at a time; whether there may be more. Raises Unavailable."""
        until = after(self.clock.micros(), RENEWING)  # well within a job's lease, or one would be cut off while it is signed
        looked = [await served.stars.renew(served.orders.request_again, until=until) for served in self.served.values()]
        return BATCH in looked

    async def clean(self) -> None:
        """Forget expired nonces. To be called every few minutes by one worker."""
        await self.nonces.clean()
        if self._claims is not None:
            await self._claims.clean()

    async def drain(self) -> None:
        """Wait for the validations in flight; bounded by their own deadlines."""
        await self.validations.drain()

    async def close(self) -> None:
        await self.validations.close()


def _check(endpoint: AcmeEndpoint, methods: Mapping[str, ChallengeMethod], sealer: Sealer | None) -> None:
    missing = [kind for kind in endpoint.challenges if kind not in methods]
    if missing or not endpoint.challenges or not endpoint.profiles:
        message = f"ACME endpoint {endpoint.name}: no profiles, no challenges, or unknown challenges {missing}"
        raise ValueError(message)
    if endpoint.external_account != "none" and sealer is None:
        message = f"ACME endpoint {endpoint.name}: external accounts, and no key that opens theirs"
        raise ValueError(message)
