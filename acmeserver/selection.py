"""Which authorizations an order gets: those that the account has already, those that need no proof, and new ones.

Law of this file: an authorization is used again only when the pipeline would count it for the name by its own rule, now and for
a while yet. The pipeline judges it anew when the certificate is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from acmeserver import store
from acmeserver.authentication import Acting
from acmeserver.endpoint import AcmeEndpoint
from acmeserver.names import Name, Owns, slots
from acmeserver.states import StoredAuthorization
from acmeserver.store import Authorization
from issuance.evidence import counts, may_be_pre_approved
from issuance.request import ChallengeEvidence, Evidence, PolicyOwnership
from pki.clock import Micros, after
from pki.identifiers import DnsName, Identifier
from policy.profiles import Profile
from storage.database import Database, Value

_Key = tuple[Identifier, bool, bool, tuple[str, ...]]

# What is used again has to be good for so long yet, or the client would find it gone before it has finalized.
MARGIN = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Selected:
    """The authorizations of an order, in its order; `reused` are the ids of those that are in the database already."""

    authorizations: tuple[Authorization, ...]
    reused: frozenset[str] = frozenset()


class Selection:
    def __init__(
        self, *, endpoint: AcmeEndpoint, database: Database, new_id: Callable[[], str], new_token: Callable[[], str]
    ) -> None:
        self._endpoint = endpoint
        self._database = database
        self._new_id = new_id
        self._new_token = new_token

    async def select(
        self, names: Iterable[Name], profile: Profile, acting: Acting, *, now: Micros, expires_at: Micros, reuse: bool = True
    ) -> Selected:
        """Reads nothing where the endpoint uses nothing again. Raises Problem when the profile's methods cannot be had."""
        wanted = slots(names, profile)
        known = await self._known(wanted, acting, now) if reuse else ()
        made: dict[_Key, Authorization] = {}
        reused: set[str] = set()
        for name, offers in wanted.items():
            for offer in offers:
                key = (name.proved, name.wildcard, name.ancestor is not None, offer)
                if key in made:  # two names below one ancestor share its authorization
                    continue
                found = next((each for each in known if serves(each, name, offer, profile, now)), None)
                if found is not None:
                    reused.add(found.id)
                made[key] = found or self._new(name, offer, acting, expires_at)
        once = {each.id: each for each in made.values()}  # an ancestor's may serve for itself, too
        return Selected(tuple(once.values()), frozenset(reused))

    async def select_one(
        self, name: Name, profile: Profile, acting: Acting, *, now: Micros, expires_at: Micros
    ) -> tuple[Authorization, bool]:
        """For newAuthz: one authorization by whatever fits, and whether it was there before."""
        known = () if name.owned else await self._known([name], acting, now)
        found = next((each for each in known if serves(each, name, name.challenges, profile, now)), None)
        return found or self._new(name, name.challenges, acting, expires_at), found is not None

    async def _known(self, names: Iterable[Name], acting: Acting, now: Micros) -> Sequence[Authorization]:
        """The account's valid authorizations for these names, the newest proof first."""
        if not self._endpoint.authorization_reuse:
            return ()
        texts = list(dict.fromkeys(str(name.proved) for name in names))
        since, until = after(now, -self._endpoint.authorization_reuse), after(now, MARGIN)
        found: list[Authorization] = []
        for start in range(0, len(texts), store.NAMES_AT_ONCE):
            some = texts[start : start + store.NAMES_AT_ONCE]
            some += some[-1:] * (store.NAMES_AT_ONCE - len(some))
            rows = await self._database.fetch(store.REUSABLE_SQL, acting.account_id, until, since, *some)
            found += map(store.authorization_from, rows)
        return found

    def _new(self, name: Name, challenges: tuple[str, ...], acting: Acting, expires_at: Micros) -> Authorization:
        """To be proved, or valid from the start where the account's external key owns the name."""
        return Authorization(
            id=self._new_id(),
            identifier=name.proved,
            wildcard=name.wildcard,
            stored=StoredAuthorization.VALID if name.owned else StoredAuthorization.PENDING,
            token=self._new_token(),
            challenges=challenges,
            chosen="",
            error=None,
            validated_at=None,
            expires_at=expires_at,
            subdomains=name.ancestor is not None,
            owner=acting.binding.kid if name.owned and acting.binding is not None else "",
        )


def waiting(authorizations: Iterable[Authorization]) -> list[Identifier]:
    """What is to be proved yet, once for each authorization."""
    return [each.identifier for each in authorizations if each.stored is StoredAuthorization.PENDING]


def owner_of(acting: Acting, profile: Profile) -> Owns:
    """What the account need not prove: the names of its external key, where the profile is content with that."""
    binding = acting.binding
    if binding is None or not may_be_pre_approved(profile):
        return lambda _: False
    return binding.owns


def evidence_of(authorization: Authorization) -> Evidence:
    """Of a valid authorization. The pipeline takes neither kind at its word for more than it says."""
    identifier = authorization.identifier
    if authorization.owner:
        if authorization.wildcard and isinstance(identifier, DnsName):
            identifier = DnsName(identifier.name, wildcard=True)
        return PolicyOwnership(authorization.owner, identifier, authorization.id)
    return _proof(authorization)


def _proof(authorization: Authorization) -> ChallengeEvidence:
    if authorization.validated_at is None:
        message = f"authorization {authorization.id} is valid without a time of validation"
        raise ValueError(message)
    return ChallengeEvidence(
        identifier=authorization.identifier,
        method=authorization.chosen,
        authorization_id=authorization.id,
        validated_at=authorization.validated_at,
        wildcard=authorization.wildcard,
        subdomains=authorization.subdomains,
        perspectives=authorization.perspectives,
    )


def serves(known: Authorization, name: Name, offer: tuple[str, ...], profile: Profile, now: Micros) -> bool:
    """The same name, wildcard or not as asked, by a method that is still offered, and good in the pipeline's eyes."""
    if known.identifier != name.proved or known.wildcard != name.wildcard or known.chosen not in offer:
        return False
    if name.ancestor is not None and not known.subdomains:
        return False
    return counts(_proof(known), name.identifier, profile, after(now, MARGIN))


def authorization_values(authorization: Authorization, account_id: str, now: Micros) -> tuple[Value, ...]:
    """$1 to $12 of the statements that make one."""
    name = store.identifier_columns(authorization.identifier)
    offer = (authorization.stored.value, authorization.token, store.to_json(authorization.challenges))
    times = (authorization.expires_at, now)
    return (
        authorization.id,
        account_id,
        *name,
        int(authorization.wildcard),
        *offer,
        *times,
        int(authorization.subdomains),
        authorization.owner,
    )
