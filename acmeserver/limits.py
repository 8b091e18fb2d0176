"""How much one account, address or name may ask for (RFC 8555 §6.6): buckets that are taken from in the write that needs them.

The law of issuance/buckets.py holds here. The one cap that is no bucket counts what is committed: the pending authorizations of
an account, by how many orders come at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from acmeserver.problems import Problem, ProblemType
from issuance.buckets import Bucket, again, arguments, count, said, seconds_until, take
from pki.clock import Micros
from pki.identifiers import Identifier
from policy.limits import Limit, address_key, registered_names, terms, wait
from storage.database import Database, Step

# An order's own, in one statement, $1 to $7 as in TAKE_SQL: besides the bucket, none of its names ($9) has failed too often for
# this account ($8), and of the account's authorizations no more than $12 wait to be proved (counted up to $11).
TAKE_ORDER_SQL = """
INSERT INTO rate_bucket (owner, name, tat) SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS BIGINT)
WHERE NOT EXISTS (SELECT 1 FROM rate_bucket f WHERE f.owner = $8 AND f.tat > $10 AND f.tat <= $13
    AND replace($9, ',' || f.name || ',', '') <> $9)
AND (SELECT count(*) FROM (SELECT 1 FROM acme_authorization z WHERE z.account_id = $2 AND z.status = 'pending'
    AND z.expires_at > $14 LIMIT $11) AS waiting) < CAST($12 AS BIGINT)
ON CONFLICT (owner, name) DO UPDATE SET tat = CASE WHEN rate_bucket.tat > $4 AND rate_bucket.tat <= $7
    THEN rate_bucket.tat ELSE CAST($4 AS BIGINT) END + CAST($5 AS BIGINT)
WHERE rate_bucket.tat <= $6 OR rate_bucket.tat > $7"""

FAILED_SQL = (
    "SELECT name, tat FROM rate_bucket WHERE owner = $1 AND tat > $3 AND tat <= $4 "
    "AND replace($2, ',' || name || ',', '') <> $2 ORDER BY tat DESC LIMIT 1"
)
WAITING_SQL = (
    "SELECT count(*) AS waiting FROM acme_authorization WHERE account_id = $1 AND status = 'pending' AND expires_at > $2"
)
FOREVER = 1 << 62  # microseconds: later than any bucket
WAITING_RETRY = 300  # seconds; an authorization may be proved or deactivated at any moment


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRules:
    """What an endpoint admits; None is no limit. `help` is a page about them, for refused clients."""

    accounts_per_address: Limit | None = None
    orders_per_account: Limit | None = None
    orders_per_name: Limit | None = None
    failed_validations: Limit | None = None  # of one account for one name
    pending_authorizations: int | None = None  # of one account
    help: str = ""


class Limits:
    """One endpoint's."""

    def __init__(self, *, endpoint: str, rules: LimitRules, database: Database) -> None:
        self._rules = rules
        self._database = database
        self._accounts = f"accounts/{endpoint}"
        self._names = f"names/{endpoint}"

    def account_steps(self, source_address: str, now: Micros) -> list[Step]:
        """For the write that makes an account."""
        limit = self._rules.accounts_per_address
        return [] if limit is None else [take(Bucket(self._accounts, address_key(source_address)), limit, now)]

    async def account_refusal(self, source_address: str, now: Micros) -> Problem | None:
        """Why such a write met a Conflict; None when it was not for its limits, or they admit one by now."""
        limit, address = self._rules.accounts_per_address, address_key(source_address)
        if limit is None:
            return None
        return await self._refused(self._accounts, address, limit, f"new accounts from {address}", now)

    def order_steps(
        self,
        account_id: str,
        identifiers: Sequence[Identifier],
        now: Micros,
        *,
        to_prove: Sequence[Identifier],
        renewal: bool = False,
    ) -> list[Step]:
        """For the write that makes an order for `identifiers`, or authorizations; `to_prove` has one for each authorization that
        will wait, which may be for an ancestor, two for one name, or none. A `renewal` that the server asked for (RFC 9773 §5,
        ARI) is not counted; what protects the server from a broken client holds for it, too.

        In the order of their keys, so that two writes never wait for each other; before the rows that the write makes, for
        they count what is there.
        """
        rules, steps = self._rules, []
        limit = None if renewal else rules.orders_per_account
        if limit or rules.failed_validations or rules.pending_authorizations:
            steps.append(Step(TAKE_ORDER_SQL, (*self._own(account_id, limit, now), *self._state(account_id, to_prove, now))))
        if rules.orders_per_name is not None and not renewal:
            names = registered_names(identifiers)
            steps += [take(Bucket(self._names, name), rules.orders_per_name, now) for name in names]
        return steps

    async def order_refusal(
        self,
        account_id: str,
        identifiers: Sequence[Identifier],
        now: Micros,
        *,
        to_prove: Sequence[Identifier],
        renewal: bool = False,
    ) -> Problem | None:
        """As `account_refusal`."""
        rules = self._rules
        if rules.orders_per_account is not None and not renewal:
            what = "new orders of this account"
            refused = await self._refused("orders", account_id, rules.orders_per_account, what, now)
            if refused is not None:
                return refused
        if rules.orders_per_name is not None and not renewal:
            for name in registered_names(identifiers):
                what = f"new orders for {name} and the names below it"
                refused = await self._refused(self._names, name, rules.orders_per_name, what, now)
                if refused is not None:
                    return refused
        return await self._failed_too_often(account_id, to_prove, now) or await self._too_many_waiting(
            account_id, len(to_prove), now
        )

    def failure_steps(self, account_id: str, identifier: Identifier, now: Micros) -> list[Step]:
        """For the write that says that a validation has failed."""
        limit = self._rules.failed_validations
        if limit is None:
            return []
        return [count(Bucket(_failed(account_id), str(identifier.base)), limit, now)]

    def _own(self, account_id: str, limit: Limit | None, now: Micros) -> tuple[str | int, ...]:
        if limit is None:
            return "orders", account_id, now, now, 0, FOREVER, FOREVER
        return arguments(Bucket("orders", account_id), limit, now)

    def _state(self, account_id: str, to_prove: Sequence[Identifier], now: Micros) -> tuple[str | int, ...]:
        """What TAKE_ORDER_SQL looks at besides: names that failed, and what waits."""
        failed, most = self._rules.failed_validations, self._rules.pending_authorizations
        at = terms(failed, now) if failed is not None else None
        latest, absurd = (at.latest, at.absurd) if at is not None else (FOREVER, FOREVER)
        counted, below = (0, 1) if most is None else (most, most - len(to_prove) + 1)
        return _failed(account_id), _listed(to_prove), latest, counted, below, absurd, now

    async def _refused(self, owner: str, name: str, limit: Limit, what: str, now: Micros) -> Problem | None:
        seconds = await seconds_until(self._database, Bucket(owner, name), limit, now)
        return self._problem(f"too many {what}: {said(limit)}", seconds, now) if seconds else None

    async def _failed_too_often(self, account_id: str, identifiers: Sequence[Identifier], now: Micros) -> Problem | None:
        limit = self._rules.failed_validations
        if limit is None:
            return None
        at = terms(limit, now)
        row = await self._database.fetch_one(FAILED_SQL, _failed(account_id), _listed(identifiers), at.latest, at.absurd)
        if row is None:
            return None
        what = f"too many failed validations of {row['name']} by this account: {said(limit)}; mend the cause first"
        return self._problem(what, wait(row["tat"], at), now)

    async def _too_many_waiting(self, account_id: str, more: int, now: Micros) -> Problem | None:
        most = self._rules.pending_authorizations
        row = await self._database.fetch_one(WAITING_SQL, account_id, now) if most is not None else None
        if row is None or most is None or row["waiting"] + more <= most:
            return None
        waiting = f"{row['waiting']} authorizations of this account are pending, and {more} more would be above {most}"
        return self._problem(f"{waiting}; prove, deactivate or leave them until they expire", WAITING_RETRY, now)

    def _problem(self, detail: str, seconds: int, now: Micros) -> Problem:
        text = f"{detail}; {again(seconds, now)}"
        return Problem(ProblemType.RATE_LIMITED, text, retry_after=seconds, help_url=self._rules.help)


def _failed(account_id: str) -> str:
    return f"failed/{account_id}"


def _listed(identifiers: Sequence[Identifier]) -> str:
    """As `,name,name,`: the one test for membership that both engines have. No identifier holds a comma."""
    return f",{','.join(str(each.base) for each in identifiers)},"
