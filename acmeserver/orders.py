"""Orders (RFC 8555 §7.4): taken as one durable write, finalized through the one door of issuance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import assert_never

from acmeserver import store
from acmeserver.authentication import Acting, check_account
from acmeserver.csrcheck import check_csr, read_csr
from acmeserver.endpoint import AcmeEndpoint
from acmeserver.limits import Limits
from acmeserver.messages import Finalize, NewOrder
from acmeserver.names import Name, PublicSuffix, offered, parse_names
from acmeserver.order_reuse import open_order
from acmeserver.ports import IssuanceDoor, OrderPolicy
from acmeserver.problems import Problem, ProblemType, not_found, unauthorized
from acmeserver.renewal import Renewals
from acmeserver.selection import Selected, Selection, authorization_values, evidence_of, owner_of, waiting
from acmeserver.settlement import ORIGIN
from acmeserver.standing import admitted, check_standing, check_wanted, explain, guard, principal
from acmeserver.star import Terms
from acmeserver.star_orders import Stars
from acmeserver.states import OrderStatus, StoredAuthorization, StoredOrder
from acmeserver.store import Order
from acmeserver.urls import Urls
from issuance.request import Channel, IssuanceRequest, Issued, Origin, Pending, Rejected
from pki.clock import Clock, Micros, after
from pki.csr import Csr
from pki.identifiers import Identifier, shown
from pki.reasons import Reason
from policy.profiles import Profile, Profiles
from storage.database import Conflict, Database, Row, Step


class Orders:
    """Raises Rejection(UNKNOWN_PROFILE) when the endpoint names a profile that is not there."""

    def __init__(
        self,
        *,
        endpoint: AcmeEndpoint,
        urls: Urls,
        database: Database,
        clock: Clock,
        issuance: IssuanceDoor,
        profiles: Profiles,
        policy: OrderPolicy,
        selection: Selection,
        is_public_suffix: PublicSuffix,
        new_id: Callable[[], str],
        renewals: Renewals,
        stars: Stars,
    ) -> None:
        self._endpoint = endpoint
        self._renewals = renewals
        self._stars = stars
        self._urls = urls
        self._database = database
        self._clock = clock
        self._issuance = issuance
        # Resolved once: a version is a digest over the whole profile.
        self._profiles = tuple((profile, profile.version) for profile in map(profiles.get, endpoint.profiles))
        self._policy = policy
        self._limits = Limits(endpoint=endpoint.name, rules=endpoint.limits, database=database)
        self._selection = selection
        self._is_public_suffix = is_public_suffix
        self._new_id = new_id

    async def create(self, acting: Acting, wanted: NewOrder) -> Order:
        """Raises Problem, Rejection. A renewal that we asked for (RFC 9773) is not counted by the limits."""
        profile, version = self._profile(wanted.profile)
        acting = await admitted(self._database, self._endpoint, acting)
        now = self._clock.micros()
        terms = self._stars.granted(wanted.auto_renewal, profile, now)
        names = self._names(acting, wanted if terms is None else _longest(wanted, terms, now), profile)
        identifiers = [name.identifier for name in names]
        again = await open_order(
            self._database, self._endpoint, acting, wanted, names=names, profile=(profile, version), now=now
        )
        if again is not None:
            return again
        replaced = await self._renewals.predecessor(wanted.replaces, account_id=acting.account_id, identifiers=identifiers)
        # One that chose its own times, or that renews itself, would be in its window at once, or again and again.
        chosen = terms is not None or wanted.not_before is not None or wanted.not_after is not None
        renewal = replaced is not None and replaced.in_window and not chosen
        until = after(now, self._endpoint.order_lifetime)
        selected = await self._selection.select(names, profile, acting, now=now, expires_at=until)
        order = self._new_order(names, wanted, (profile.name, version), selected, until)
        if replaced is not None:
            order = replace(order, replaces=replaced.text)
        if terms is not None:
            order = replace(order, auto_renewal=terms.text())
        to_prove = waiting(selected.authorizations)
        try:
            limited = self._limits.order_steps(acting.account_id, identifiers, now, to_prove=to_prove, renewal=renewal)
            more = [] if replaced is None else [replaced.step(order.id, now)]
            if terms is not None:
                more.append(self._stars.insert_step(order, terms, acting.account_id, now))
            inserted = _insert_steps(order, selected, acting, guard(acting, self._endpoint), now)
            await self._database.write(*limited, *inserted, *more)
        except Conflict as conflict:
            # Ids are random, so it is the guard on the account, a limit, or a certificate's replacement.
            await self._renewals.check_free(replaced)
            changed = await explain(self._database, self._endpoint, acting)
            refused = await self._limits.order_refusal(acting.account_id, identifiers, now, to_prove=to_prove, renewal=renewal)
            raise (refused or changed) from conflict
        return order

    def _names(self, acting: Acting, wanted: NewOrder, profile: Profile) -> tuple[Name, ...]:
        """What is ordered, if it could ever be granted: nobody proves control of a name in vain. Raises Problem, Rejection."""
        names = parse_names(
            wanted.identifiers,
            wanted.ancestors,
            endpoint=self._endpoint,
            is_public_suffix=self._is_public_suffix,
            owns=owner_of(acting, profile),
        )
        identifiers = [name.identifier for name in names]
        check_wanted(acting, profile=profile.name, identifiers=identifiers)
        self._policy.check(
            principal=principal(acting, self._endpoint),
            profile=profile,
            identifiers=identifiers,
            not_before=wanted.not_before,
            not_after=wanted.not_after,
        )
        return names

    async def read(self, acting: Acting, order_id: str) -> Order:
        """The account's own order, not past its time. Raises Problem."""
        return store.order_from(await self._rows(acting, order_id))

    async def _rows(self, acting: Acting, order_id: str) -> Sequence[Row]:
        now = self._clock.micros()
        rows = await self._database.fetch(store.ORDER_SQL, acting.account_id, self._endpoint.name, order_id, now)
        row = check_account(rows[0] if rows else None, acting)
        if row["o_id"] is None:
            raise not_found("order")
        return rows

    async def finalize(self, acting: Acting, order_id: str, wanted: Finalize) -> Order:
        """The order as it is after its certificate was made, or while that goes on. Raises Problem, Rejection, Unavailable."""
        rows = await self._rows(acting, order_id)
        acting = check_standing(rows[0], acting, self._endpoint)
        order = store.order_from(rows)
        status = order.status(self._clock.micros())
        if status is not OrderStatus.READY:
            raise self._not_ready(order_id, f"it is {status.value}")
        request = self._request(acting, order, read_csr(wanted.csr))
        outcome = await (self._stars.submit(order, request) if order.auto_renewal else self._issuance.submit(request))
        match outcome:
            case Issued() if order.auto_renewal:
                return await self.read(acting, order_id)  # its time is another now
            case Issued(certificate):
                return replace(order, stored=StoredOrder.VALID, issuer=certificate.issuer, serial=certificate.serial)
            case Pending():
                return replace(order, stored=StoredOrder.PROCESSING)
            case Rejected(rejection) if rejection.reason is Reason.CONFLICT:
                raise self._not_ready(order_id, rejection.detail)
            case Rejected(rejection):
                raise rejection
            case _:
                assert_never(outcome)

    async def request_again(self, acting: Acting, order_id: str, csr: Csr) -> IssuanceRequest:
        """What finalize asked for, as it would be asked now: for an order that renews itself. Raises Problem.

        Terms of service that are newer than the order do not end it.
        """
        rows = await self._rows(acting, order_id)
        acting = check_standing(rows[0], acting, replace(self._endpoint, terms_of_service=None))
        order = store.order_from(rows)
        if any(each.stored is not StoredAuthorization.VALID for each in order.authorizations):
            raise unauthorized("an authorization of the order was given up")
        return self._request(acting, order, csr)

    async def cancel(self, acting: Acting, order_id: str) -> Order:
        """RFC 8739 §3.1.2. Raises Problem."""
        order = await self.read(acting, order_id)
        await self._stars.cancel(acting, order)
        return await self.read(acting, order_id)

    def _not_ready(self, order_id: str, why: str) -> Problem:
        """§7.4: 403 orderNotReady, and where to look; clients then poll the order."""
        detail = f"the order {self._urls.order(order_id)} cannot be finalized now: {why}"
        return Problem(ProblemType.ORDER_NOT_READY, detail)

    def _profile(self, name: str | None) -> tuple[Profile, str]:
        if name is None:
            return self._profiles[0]
        for profile, version in self._profiles:
            if profile.name == name:
                return profile, version
        known = ", ".join(profile.name for profile, _ in self._profiles)
        raise Problem(ProblemType.INVALID_PROFILE, f"this endpoint has no profile {shown(name)}; use one of: {known}")

    def _new_order(
        self, names: Sequence[Name], wanted: NewOrder, profile: tuple[str, str], selected: Selected, until: Micros
    ) -> Order:
        return Order(
            id=self._new_id(),
            stored=StoredOrder.OPEN,
            identifiers=tuple(name.wire for name in names),
            profile=profile[0],
            profile_version=profile[1],
            not_before=wanted.not_before,
            not_after=wanted.not_after,
            expires_at=min(until, *(each.expires_at for each in selected.authorizations)),
            error=None,
            issuer="",
            serial="",
            authorizations=selected.authorizations,
        )

    def _still_granted(self, acting: Acting, order: Order) -> tuple[Identifier, ...]:
        """The order's names. What the operator has taken back since it was made (a profile, a type or a method of the endpoint's,
        a name or a profile of the external key's) certifies nothing any more. Raises Problem, Rejection.
        """
        profile, _ = self._profile(order.profile)
        identifiers = tuple(offered(each, self._endpoint) for each in order.identifiers)
        check_wanted(acting, profile=profile.name, identifiers=identifiers)
        for each in order.authorizations:
            if not each.owner and each.chosen not in self._endpoint.challenges:
                raise unauthorized(
                    f"{each.identifier} was proved by {each.chosen}, which counts here no more; make a new order"
                )
        return identifiers

    def _request(self, acting: Acting, order: Order, csr: Csr) -> IssuanceRequest:
        identifiers = self._still_granted(acting, order)
        check_csr(csr, identifiers, acting)
        return IssuanceRequest(
            channel=Channel.ACME,
            endpoint=self._endpoint.name,
            principal=principal(acting, self._endpoint),
            evidence=tuple(map(evidence_of, order.authorizations)),
            profile=order.profile,
            csr=csr,
            identifiers=identifiers,
            profile_version=order.profile_version,
            not_before=order.not_before,
            not_after=order.not_after,
            origin=Origin(ORIGIN, order.id, acting.jwk.thumbprint),
            caa=self._endpoint.caa,
            account_url=self._urls.account(acting.account_id),
        )


def _longest(wanted: NewOrder, terms: Terms, now: Micros) -> NewOrder:
    """For policy: the longest certificate that will come of an order that renews itself."""
    begin, end = terms.longest(now)
    return replace(wanted, not_before=begin, not_after=end)


def _insert_steps(order: Order, selected: Selected, acting: Acting, guarded: tuple[str, str], now: Micros) -> list[Step]:
    identifiers = store.to_json([identifier.json() for identifier in order.identifiers])
    owner = (acting.account_id, acting.jwk.thumbprint)
    terms = (order.profile, order.profile_version, order.not_before, order.not_after, order.expires_at)
    extensions = (order.replaces, order.auto_renewal)
    steps = [Step(store.INSERT_ORDER_SQL, (order.id, *owner, identifiers, *terms, now, *guarded, *extensions))]
    for position, each in enumerate(order.authorizations):
        if each.id in selected.reused:
            steps.append(Step(store.LINK_REUSED_SQL, (order.id, each.id, position, acting.account_id, now)))
            continue
        steps.append(Step(store.INSERT_AUTHORIZATION_SQL, authorization_values(each, acting.account_id, now)))
        steps.append(Step(store.INSERT_LINK_SQL, (order.id, each.id, position)))
    return steps
