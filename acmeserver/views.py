"""Stored objects as their owner sees them. Pure: value, URLs and time to JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from acmeserver import messages
from acmeserver.problems import Problem, ProblemType, wire_identifier
from acmeserver.star import terms_from
from acmeserver.states import AuthorizationStatus, OrderStatus, StoredAuthorization, challenge_status
from acmeserver.store import Account, Authorization, Order
from acmeserver.urls import Urls
from pki.clock import Micros


def account_view(account: Account, *, urls: Urls, terms: str | None) -> dict[str, Any]:
    """`terms` are those in force: an agreement to others is not shown, lest a client that echoes the object agrees by that."""
    return messages.account_json(
        status=account.status,
        contact=account.contact,
        terms_agreed=account.agreed_to(terms),
        orders=urls.orders(account.id),
        external_binding=account.external_binding,
    )


def order_view(order: Order, *, urls: Urls, now: Micros, show_profile: bool) -> dict[str, Any]:
    status = order.status(now)
    return messages.order_json(
        status=status,
        expires_at=order.expires_at,
        identifiers=order.identifiers,
        authorizations=[urls.authorization(each.id) for each in order.authorizations],
        finalize=urls.finalize(order.id),
        certificate=urls.certificate(order.serial) if status is OrderStatus.VALID and not order.auto_renewal else None,
        profile=order.profile if show_profile else None,
        not_before=order.not_before,
        not_after=order.not_after,
        error=_order_error(order, now) if status is OrderStatus.INVALID else None,
        replaces=order.replaces,
        auto_renewal=terms_from(order.auto_renewal).json() if order.auto_renewal else None,
        star_certificate=urls.star_certificate(order.id) if status is OrderStatus.VALID and order.auto_renewal else None,
    )


def authorization_view(
    authorization: Authorization, *, urls: Urls, issuer_domains: Sequence[str], now: Micros, in_flight: bool
) -> dict[str, Any]:
    """Once one challenge was attempted to the end, only that one is shown (RFC 8555 §7.1.4)."""
    shown = (authorization.chosen,) if authorization.chosen else authorization.challenges
    listed = sorted(shown, key=lambda kind: kind in messages.WITH_LISTS)
    return messages.authorization_json(
        status=authorization.status(now),
        identifier=wire_identifier(authorization.identifier),
        expires_at=authorization.expires_at,
        wildcard=authorization.wildcard,
        subdomains=authorization.subdomains,
        challenges=[
            challenge_view(authorization, kind, urls=urls, issuer_domains=issuer_domains, in_flight=in_flight)
            for kind in listed
        ],
    )


def challenge_view(
    authorization: Authorization, kind: str, *, urls: Urls, issuer_domains: Sequence[str], in_flight: bool
) -> dict[str, Any]:
    chosen = kind == authorization.chosen
    return messages.challenge_json(
        kind=kind,
        url=urls.challenge(authorization.id, kind),
        status=challenge_status(authorization.stored, chosen=chosen, in_flight=in_flight),
        token=authorization.token,
        validated_at=authorization.validated_at if chosen else None,
        error=authorization.error if chosen and authorization.stored is StoredAuthorization.INVALID else None,
        issuer_domains=issuer_domains,
    )


def _order_error(order: Order, now: Micros) -> dict[str, Any]:
    """Why an order is invalid: what was recorded, else each authorization that stands in its way, with its name (§6.7.1)."""
    if order.error is not None:
        return order.error
    shares = [share for each in order.authorizations if (share := _share(each, now)) is not None]
    if not shares:
        return Problem(ProblemType.MALFORMED, "the order is past its time; make a new one").json()
    kinds = {share["type"] for share in shares}
    first = {name: value for name, value in shares[0].items() if name != "identifier"}
    if len(shares) > 1:
        first["detail"] = f"{len(shares)} authorizations are not valid; see the subproblems"
    if len(kinds) > 1:
        compound = Problem(ProblemType.COMPOUND, first["detail"])
        first |= {"type": compound.type.urn, "status": compound.status}
    return {**first, "subproblems": [{name: value for name, value in share.items() if name != "status"} for share in shares]}


def _share(authorization: Authorization, now: Micros) -> dict[str, Any] | None:
    """One authorization's part in it, None when it is not the reason."""
    status = authorization.status(now)
    if status in {AuthorizationStatus.PENDING, AuthorizationStatus.VALID}:
        return None
    name = wire_identifier(authorization.identifier)
    error = authorization.error
    if error is None:
        error = Problem(ProblemType.UNAUTHORIZED, f"the authorization for {name.value} is {status.value}").json()
    return {**error, "identifier": name.json()}
