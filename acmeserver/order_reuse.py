"""An order that is asked for while the same one is open: the open one is given again, where the endpoint says so (RFC 8555 §7.4
leaves it to the server).

Law of this file: what is given again is what would be made now, for this account, authorization by authorization, and good for a
while yet. Nothing is given again that somebody else could end: an order that renews itself, one that replaces a certificate, names
that an external key or an ancestor answers for.
"""

from __future__ import annotations

from collections.abc import Sequence

from acmeserver import store
from acmeserver.authentication import Acting
from acmeserver.endpoint import AcmeEndpoint
from acmeserver.messages import NewOrder
from acmeserver.names import Name, slots
from acmeserver.selection import MARGIN, serves
from acmeserver.standing import check_standing
from acmeserver.states import OrderStatus, StoredAuthorization
from acmeserver.store import Authorization, Order
from pki.clock import Micros, after
from policy.profiles import Profile
from storage.database import Database

# By its first name, for which there is an index; an account may have a great many orders.
OPEN_ORDER_SQL = (
    "SELECT o.id FROM acme_authorization z JOIN acme_order_authorization oa ON oa.authorization_id = z.id "
    "JOIN acme_order o ON o.id = oa.order_id AND o.account_id = z.account_id "
    "WHERE z.identifier = $1 AND z.account_id = $2 AND z.status IN ('pending', 'valid') AND z.identifier_type = $3 "
    "AND o.status = 'open' AND o.expires_at > $4 AND o.identifiers = $5 AND o.profile = $6 AND o.profile_version = $7 "
    "AND o.not_before IS NULL AND o.not_after IS NULL AND o.replaces = '' AND o.auto_renewal = '' "
    "ORDER BY o.created_at DESC, o.id DESC LIMIT 1"
)


async def open_order(
    database: Database,
    endpoint: AcmeEndpoint,
    acting: Acting,
    wanted: NewOrder,
    *,
    names: Sequence[Name],
    profile: tuple[Profile, str],
    now: Micros,
) -> Order | None:
    """Reads nothing where the endpoint gives nothing again. Raises Problem: the account's standing."""
    if not endpoint.order_reuse or not _plain(wanted, names):
        return None
    kind, first = store.identifier_columns(names[0].identifier)
    wire = store.to_json([name.wire.json() for name in names])
    terms = (after(now, MARGIN), wire, profile[0].name, profile[1])
    found = await database.fetch_one(OPEN_ORDER_SQL, first, acting.account_id, kind, *terms)
    if found is None:
        return None
    rows = await database.fetch(store.ORDER_SQL, acting.account_id, endpoint.name, found["id"], now)
    check_standing(rows[0] if rows else None, acting, endpoint)
    if rows[0]["o_id"] is None:
        return None
    order = store.order_from(rows)
    return order if _as_made_now(order, names, profile[0], now) else None


def _plain(wanted: NewOrder, names: Sequence[Name]) -> bool:
    own_terms = (wanted.not_before, wanted.not_after, wanted.replaces, wanted.auto_renewal)
    return all(term is None for term in own_terms) and not any(name.owned or name.ancestor for name in names)


def _as_made_now(order: Order, names: Sequence[Name], profile: Profile, now: Micros) -> bool:
    if order.status(now) not in {OrderStatus.PENDING, OrderStatus.READY}:
        return False
    wanted = [(name, offer) for name, offers in slots(names, profile).items() for offer in offers]
    return len(wanted) == len(order.authorizations) and all(
        _fits(each, name, offer, profile, now) for each, (name, offer) in zip(order.authorizations, wanted, strict=True)
    )


def _fits(each: Authorization, name: Name, offer: tuple[str, ...], profile: Profile, now: Micros) -> bool:
    if each.stored is StoredAuthorization.VALID:
        return serves(each, name, offer, profile, now)
    return (each.identifier, each.wildcard, each.challenges) == (name.proved, name.wildcard, offer)
