"""Who signed this request? Body to signer, in the order of checks that jws.py names."""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass

from acmeserver import store
from acmeserver.chaos import Redeemer
from acmeserver.external import Binding
from acmeserver.jwk import Jwk, load_jwk, verify
from acmeserver.jws import Jws, parse_jws
from acmeserver.problems import Problem, ProblemType, malformed, unauthorized
from acmeserver.states import AccountStatus
from acmeserver.urls import Urls
from storage.database import Database, Row


class SignedBy(enum.Enum):
    """What a resource wants its requests signed with. Every route says it; there is no default."""

    KEY = "jwk"
    ACCOUNT = "kid"
    EITHER = "jwk or kid"


@dataclass(frozen=True, slots=True)
class Signer:
    """Whose signature has verified. `account_id` is None for a bare key.

    That the account is valid, and that this is still its key, is known only from the row that `check_account` is given.
    """

    jwk: Jwk
    account_id: str | None


@dataclass(frozen=True, slots=True)
class Acting:
    """A signer by account: what the use cases are told of who asks."""

    account_id: str
    jwk: Jwk
    source_address: str
    binding: Binding | None = None  # known once `standing.py` has looked


def check_account(row: Row | None, acting: Acting) -> Row:
    """`row` is of a look-up that started at the account. Raises Problem(unauthorized)."""
    if row is None or row["account_thumbprint"] != acting.jwk.thumbprint:
        raise unauthorized("this key is not, or no longer, the account's")
    check_valid(AccountStatus(row["account_status"]))
    return row


def check_valid(status: AccountStatus) -> None:
    if status is not AccountStatus.VALID:
        raise unauthorized(f"the account is {status.value}")


class Authenticator:
    """Verifies requests. Keys of accounts are parsed once and kept, up to `keys` of them.

    A kept key may be the account's no more, for another node may have changed it. So it never decides alone: what it verifies
    is refused by `check_account` (or by the WHERE of a write), and when it does not verify, the row is read again.
    """

    def __init__(self, *, database: Database, nonces: Redeemer, keys: int = 10_000) -> None:
        self._database = database
        self._nonces = nonces
        self._limit = keys
        self._keys: OrderedDict[tuple[str, str], Jwk] = OrderedDict()

    async def authenticate(
        self, *, body: bytes, url: str, urls: Urls, endpoint: str, signed_by: SignedBy
    ) -> tuple[Signer, bytes]:
        """The signer and the payload. Raises Problem, Unavailable."""
        jws = parse_jws(body)
        signer = await self._signer(jws, urls=urls, endpoint=endpoint, signed_by=signed_by)
        try:
            verify(signer.jwk, jws.algorithm, jws.signature, jws.signed)
        except Problem:
            changed = await self._changed(signer, endpoint)
            if changed is None:
                raise
            verify(changed.jwk, jws.algorithm, jws.signature, jws.signed)
            signer = changed
        await self._nonces.redeem(jws.nonce)
        if jws.url != url:
            raise unauthorized("the JWS's url is not the URL of this request (RFC 8555 §6.4)")
        return signer, jws.payload

    async def _signer(self, jws: Jws, *, urls: Urls, endpoint: str, signed_by: SignedBy) -> Signer:
        if jws.jwk is not None:
            if signed_by is SignedBy.ACCOUNT:
                raise malformed("this request is signed by an account: its protected header has kid, not jwk")
            return Signer(jws.jwk, None)
        if signed_by is SignedBy.KEY:
            raise malformed("this request is signed by a bare key: its protected header has jwk, not kid")
        account_id = urls.account_id(jws.kid or "")
        jwk = await self._key_of(endpoint, account_id) if account_id is not None else None
        if jwk is None:
            raise Problem(ProblemType.ACCOUNT_DOES_NOT_EXIST, "kid is not the URL of an account at this endpoint")
        return Signer(jwk, account_id)

    async def _changed(self, signer: Signer, endpoint: str) -> Signer | None:
        """The account with its present key, where that is not the one that was kept."""
        if signer.account_id is None:
            return None
        self._keys.pop((endpoint, signer.account_id), None)
        jwk = await self._key_of(endpoint, signer.account_id)
        return Signer(jwk, signer.account_id) if jwk is not None and jwk != signer.jwk else None

    async def _key_of(self, endpoint: str, account_id: str) -> Jwk | None:
        known = self._keys.get((endpoint, account_id))
        if known is not None:
            self._keys.move_to_end((endpoint, account_id))
            return known
        row = await self._database.fetch_one(store.ACCOUNT_SQL, account_id, endpoint)
        if row is None:
            return None
        jwk = self._keys[endpoint, account_id] = load_jwk(row["jwk"])
        if len(self._keys) > self._limit:
            self._keys.popitem(last=False)
        return jwk
