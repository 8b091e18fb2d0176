"""Orders (RFC 8555 §7.4): taken as one durable write, finalized through the one door of issuance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from acmeserver import store
from acmeserver.authentication import Acting, check_account
from acmeserver.endpoint import AcmeEndpoint
from acmeserver.limits import Limits
from acmeserver.messages import Finalize, NewOrder
from acmeserver.ports import IssuanceDoor, OrderPolicy
from acmeserver.problems import (
    PROBLEMS,
    Problem,
    ProblemType,
    WireIdentifier,
    WireSubProblem,
    not_found,
    wire_identifier,
)
from acmeserver.renewal import Renewals
from acmeserver.settlement import ORIGIN
from acmeserver.standing import admitted, check_standing, check_wanted, explain, guard, principal
from acmeserver.states import OrderStatus, StoredAuthorization, StoredOrder
from acmeserver.store import Authorization, Order
from acmeserver.urls import Urls
from issuance.request import ChallengeEvidence, Channel, Evidence, IssuanceRequest, Issued, Origin, Pending, Rejected
from pki.clock import Clock, Micros, after
from pki.csr import Csr, parse_csr
from pki.identifiers import DnsName, Identifier, IpAddress, parse_dns, parse_ip, shown
from pki.reasons import Reason, Rejection
from policy.profiles import Profile, Profiles
from storage.database import Conflict, Database, Row, Step


@dataclass(frozen=True, slots=True)
class _Name:
    """One identifier of an order: as sent, as canonical, and how its control can be proved."""

    wire: WireIdentifier
    identifier: Identifier
    challenges: tuple[str, ...]


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
        new_id: Callable[[], str],
        new_token: Callable[[], str],
        renewals: Renewals,
    ) -> None:
        self._endpoint = endpoint
        self._renewals = renewals
        self._urls = urls
        self._database = database
        self._clock = clock
        self._issuance = issuance
        # Resolved once: a version is a digest over the whole profile.
        self._profiles = tuple((profile, profile.version) for profile in map(profiles.get, endpoint.profiles))
        self._policy = policy
        self._limits = Limits(endpoint=endpoint.name, rules=endpoint.limits, database=database)
        self._new_id = new_id
        self._new_token = new_token

    async def create(self, acting: Acting, wanted: NewOrder) -> Order:
        """Raises Problem, Rejection. A renewal that we asked for (RFC 9773) is not counted by the limits."""
        names = parse_names(wanted.identifiers, offered=self._endpoint.challenges)
        profile, version = self._profile(wanted.profile)
        identifiers = [name.identifier for name in names]
        acting = await admitted(self._database, self._endpoint, acting)
        check_wanted(acting, profile=profile.name, identifiers=identifiers)
        self._policy.check(principal=principal(acting, self._endpoint), profile=profile, identifiers=identifiers)
        replaced = await self._renewals.predecessor(wanted.replaces, account_id=acting.account_id, identifiers=identifiers)
        renewal = replaced is not None and replaced.in_window
        now = self._clock.micros()
        order = self._new_order(names, wanted, (profile.name, version), now)
        if replaced is not None:
            order = replace(order, replaces=replaced.text)
        try:
            limited = self._limits.order_steps(acting.account_id, identifiers, now, renewal=renewal)
            replacing = () if replaced is None else (replaced.step(order.id, now),)
            inserted = _insert_steps(order, acting, guard(acting, self._endpoint), now)
            await self._database.write(*limited, *inserted, *replacing)
        except Conflict as conflict:  # ids are random, so it is the guard on the account, a limit, or a certificate's replacement
            await self._renewals.check_free(replaced)
            changed = await explain(self._database, self._endpoint, acting)
            refused = await self._limits.order_refusal(acting.account_id, identifiers, now, renewal=renewal)
            raise (refused or changed) from conflict
        return order

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
        csr = parse_csr(wanted.csr)
        identifiers = canonical(order.identifiers)
        check_csr(csr, identifiers, acting)
        outcome = await self._issuance.submit(self._request(acting, order, csr, identifiers))
        match outcome:
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

    async def certificate(self, acting: Acting, serial: str) -> str:
        """The chain in PEM, leaf first, of a certificate that came of one of the account's own orders. Raises Problem."""
        args = (acting.account_id, self._endpoint.name, serial)
        row = check_account(await self._database.fetch_one(store.CERTIFICATE_SQL, *args), acting)
        if row["serial"] is None:
            raise not_found("certificate")
        chain = await self._issuance.chain(issuer=row["issuer"], serial=row["serial"])
        if chain is None:
            raise not_found("certificate")
        return chain

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

    def _new_order(self, names: Sequence[_Name], wanted: NewOrder, profile: tuple[str, str], now: Micros) -> Order:
        expires_at = after(now, self._endpoint.order_lifetime)
        return Order(
            id=self._new_id(),
            stored=StoredOrder.OPEN,
            identifiers=tuple(name.wire for name in names),
            profile=profile[0],
            profile_version=profile[1],
            not_before=wanted.not_before,
            not_after=wanted.not_after,
            expires_at=expires_at,
            error=None,
            issuer="",
            serial="",
            authorizations=tuple(self._new_authorization(name, expires_at) for name in names),
        )

    def _new_authorization(self, name: _Name, expires_at: Micros) -> Authorization:
        return Authorization(
            id=self._new_id(),
            identifier=name.identifier.base,
            wildcard=isinstance(name.identifier, DnsName) and name.identifier.wildcard,
            stored=StoredAuthorization.PENDING,
            token=self._new_token(),
            challenges=name.challenges,
            chosen="",
            error=None,
            validated_at=None,
            expires_at=expires_at,
        )

    def _request(self, acting: Acting, order: Order, csr: Csr, identifiers: tuple[Identifier, ...]) -> IssuanceRequest:
        return IssuanceRequest(
            channel=Channel.ACME,
            endpoint=self._endpoint.name,
            principal=principal(acting, self._endpoint),
            evidence=tuple(_evidence(authorization) for authorization in order.authorizations),
            profile=order.profile,
            csr=csr,
            identifiers=identifiers,
            profile_version=order.profile_version,
            not_before=order.not_before,
            not_after=order.not_after,
            origin=Origin(ORIGIN, order.id),
        )


def parse_names(wire: Sequence[WireIdentifier], *, offered: Sequence[str]) -> tuple[_Name, ...]:
    """All identifiers of an order, each once, or one Problem that has a share for every bad one (RFC 8555 §6.7.1)."""
    names: dict[Identifier, _Name] = {}
    bad: list[WireSubProblem] = []
    for each in wire:
        try:
            identifier = _parse_identifier(each)
            names.setdefault(identifier, _Name(each, identifier, _challenges_for(identifier, offered)))
        except Rejection as rejection:
            bad.append(WireSubProblem(PROBLEMS[rejection.reason][0], rejection.detail, each))
    if bad:
        kinds = {part.type for part in bad}
        kind = kinds.pop() if len(kinds) == 1 else ProblemType.COMPOUND
        detail = bad[0].detail if len(bad) == 1 else f"{len(bad)} identifiers are refused; see the subproblems"
        raise Problem(kind, detail, sub=tuple(bad))
    return tuple(names.values())


def canonical(wire: Sequence[WireIdentifier]) -> tuple[Identifier, ...]:
    """Of identifiers that were parsed when the order was made."""
    return tuple(_parse_identifier(each) for each in wire)


def check_csr(csr: Csr, identifiers: Sequence[Identifier], acting: Acting) -> None:
    """RFC 8555 §7.4: the names of a CSR (SANs, and the CN if there is one) are the order's; its key is not the account's.

    Raises Problem(badCSR).
    """
    asked, ordered = set(csr.identifiers), set(identifiers)
    if csr.common_name is not None:
        asked.add(_parse_common_name(csr.common_name))
    if asked != ordered:
        detail = "the CSR is not for the names of the order"
        for names, verb in ((ordered - asked, "it lacks"), (asked - ordered, "it has besides")):
            if names:
                detail += f"; {verb}: {', '.join(sorted(str(name) for name in names))}"
        raise Problem(ProblemType.BAD_CSR, detail)
    if csr.public_key == acting.jwk.key:
        raise Problem(ProblemType.BAD_CSR, "the CSR's key is the account's own key; make another for the certificate")


def _parse_common_name(text: str) -> Identifier:
    for parse in (parse_ip, parse_dns):
        try:
            return parse(text)
        except Rejection:
            continue
    raise Problem(ProblemType.BAD_CSR, f"the CSR's common name {shown(text)} is not one of the order's names")


def _parse_identifier(wire: WireIdentifier) -> Identifier:
    match wire.type:
        case "dns":
            return parse_dns(wire.value)
        case "ip":
            return parse_ip(wire.value)
        case _:
            detail = f"identifiers of type {shown(wire.type)} are not issued here; use dns or ip"
            raise Rejection(Reason.UNSUPPORTED_IDENTIFIER, detail)


def _challenges_for(identifier: Identifier, offered: Sequence[str]) -> tuple[str, ...]:
    """A wildcard is proved in the DNS only (RFC 8555 §7.4.1, CA/B), an address never there (RFC 8738 §7)."""
    in_dns = {kind for kind in offered if kind.startswith("dns-")}
    match identifier:
        case DnsName(wildcard=True):
            fit = tuple(kind for kind in offered if kind in in_dns)
            needs = "a wildcard needs the challenge dns-01"
        case DnsName():
            fit, needs = tuple(offered), ""
        case IpAddress():
            fit = tuple(kind for kind in offered if kind not in in_dns)
            needs = "an IP address needs the challenge http-01 or tls-alpn-01"
        case _:
            assert_never(identifier)
    if not fit:
        detail = f"{wire_identifier(identifier).value}: {needs}, and this endpoint offers only {', '.join(offered)}"
        raise Rejection(Reason.REJECTED_IDENTIFIER, detail)
    return fit


def _evidence(authorization: Authorization) -> Evidence:
    if authorization.validated_at is None:
        message = f"authorization {authorization.id} is valid without a time of validation"
        raise ValueError(message)
    return ChallengeEvidence(
        identifier=authorization.identifier,
        method=authorization.chosen,
        authorization_id=authorization.id,
        validated_at=authorization.validated_at,
    )


def _insert_steps(order: Order, acting: Acting, guarded: tuple[str, str], now: Micros) -> list[Step]:
    identifiers = store.to_json([identifier.json() for identifier in order.identifiers])
    owner = (acting.account_id, acting.jwk.thumbprint)
    terms = (order.profile, order.profile_version, order.not_before, order.not_after, order.expires_at)
    extensions = (order.replaces, order.auto_renewal)
    steps = [Step(store.INSERT_ORDER_SQL, (order.id, *owner, identifiers, *terms, now, *guarded, *extensions))]
    for position, each in enumerate(order.authorizations):
        name = store.identifier_columns(each.identifier)
        content = (int(each.wildcard), each.token, store.to_json(each.challenges), each.expires_at, now)
        steps.append(Step(store.INSERT_AUTHORIZATION_SQL, (each.id, acting.account_id, *name, *content)))
        steps.append(Step(store.INSERT_LINK_SQL, (order.id, each.id, position)))
    return steps
