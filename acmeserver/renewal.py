"""Renewal information (RFC 9773): when to come back for a certificate, and which order replaces which certificate.

Law of this file: a question is one look-up and is answered for everybody; a claim to replace is checked against the account
that makes it and rides in the write of its order, so that of two orders one wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import orjson

from acmeserver.endpoint import AcmeEndpoint, RenewalInfo
from acmeserver.ports import IssuanceDoor
from acmeserver.problems import Problem, ProblemType, malformed, not_found, unauthorized
from issuance.renewal import RenewalRecord, Window
from pki.clock import Clock, Micros, after, rfc3339
from pki.identifiers import Identifier
from pki.strict import StrictError, base64url, from_base64url
from policy.principal import PrincipalKind
from storage.database import Database, Step

MAX_SERIAL = 20  # octets, RFC 5280 §4.1.2.2
MAX_KEY_IDENTIFIER = 64
JITTER = 0.2  # clients that came together do not come back together
SHORTEST_RETRY = timedelta(minutes=1)  # RFC 9773 §4.3.2: clients take nothing less
_HOUR = timedelta(hours=1)

# Does the order that has it still stand? The words of states.order_status, as far as an invalid order goes: that is for good.
REPLACEMENT_SQL = """
SELECT p.order_id, CASE WHEN EXISTS (
    SELECT 1 FROM acme_order o WHERE o.id = p.order_id AND (o.status IN ('processing', 'valid', 'canceled')
        OR o.status = 'open' AND o.expires_at > $3 AND NOT EXISTS (
            SELECT 1 FROM acme_order_authorization oa JOIN acme_authorization z ON z.id = oa.authorization_id
            WHERE oa.order_id = o.id AND (z.status NOT IN ('pending', 'processing', 'valid') OR z.expires_at <= $3)))
) THEN 1 ELSE 0 END AS stands
FROM acme_replacement p WHERE p.issuer = $1 AND p.serial = $2
"""
# $5 is the failed order that had it before, or '': whoever was first meanwhile is not overwritten.
REPLACE_SQL = """
INSERT INTO acme_replacement (issuer, serial, order_id, created_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (issuer, serial) DO UPDATE SET order_id = excluded.order_id, created_at = excluded.created_at
WHERE acme_replacement.order_id = $5
"""


@dataclass(frozen=True, slots=True)
class CertId:
    """RFC 9773 §4.1: which certificate, by its issuer's key and its serial (lower-case hex, as stored)."""

    key_identifier: bytes
    serial: str


def parse_cert_id(text: str) -> CertId:
    """base64url(keyIdentifier) "." base64url(content of the serial's DER INTEGER); one spelling for each. Raises Problem."""
    key_text, dot, serial_text = text.partition(".")
    try:
        key_identifier, serial = from_base64url(key_text), from_base64url(serial_text)
    except StrictError as error:
        raise _bad_id("two parts of unpadded base64url with a dot between them") from error
    if not dot or not 1 <= len(key_identifier) <= MAX_KEY_IDENTIFIER:
        raise _bad_id("the authority key identifier, a dot and the serial")
    number = int.from_bytes(serial, "big")
    # Positive and in its shortest form: a leading 00 exactly where the top bit would else be a sign (X.690 §8.3.2).
    if not number or serial != number.to_bytes(number.bit_length() // 8 + 1, "big") or len(serial) > MAX_SERIAL:
        raise _bad_id("the serial is the content of a positive DER INTEGER, with its leading 00 if it has one")
    return CertId(key_identifier, f"{number:x}")


def render_cert_id(cert_id: CertId) -> str:
    number = int(cert_id.serial, 16)
    serial = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return f"{base64url(cert_id.key_identifier)}.{base64url(serial)}"


def _bad_id(what: str) -> Problem:
    return malformed(f"this is no certificate identifier (RFC 9773 §4.1): {what}")


def suggested_window(record: RenewalRecord, rules: RenewalInfo) -> Window:
    """The same for the same certificate, however often it is asked. Clients choose a moment inside it at random."""
    if record.revoked_at is not None:
        return Window(after(record.revoked_at, -_HOUR), record.revoked_at)  # all of it is past: renew now
    lifetime = record.not_after - record.not_before + 1_000_000  # the last second is part of it (RFC 5280 §4.1.2.5)
    start = Micros(record.not_before + lifetime * rules.window_start // 100)
    end = Micros(record.not_before + lifetime * rules.window_end // 100)
    if record.pulled is None or record.pulled.start >= start:
        return Window(start, max(end, after(start, timedelta(seconds=1))))
    return Window(record.pulled.start, min(record.pulled.end, end))


def retry_after(record: RenewalRecord, rules: RenewalInfo, random: int) -> int:
    """Seconds until the next question; `random` is in [0, 65535]. Often enough for a short life, too."""
    lifetime = timedelta(microseconds=record.not_after - record.not_before)
    wait = max(min(rules.retry_after, lifetime / 12), SHORTEST_RETRY).total_seconds()
    return max(int(SHORTEST_RETRY.total_seconds()), int(wait * (1 - JITTER + 2 * JITTER * random / 65535)))


@dataclass(frozen=True, slots=True)
class Predecessor:
    """A certificate that an order may replace. `in_window`: this is the renewal that was asked for, and the first try at it."""

    issuer: str
    serial: str
    text: str  # the identifier as the client wrote it
    holder: str  # the failed order that was to replace it before, or ''
    in_window: bool

    def step(self, order_id: str, now: Micros) -> Step:
        """Rides in the write that makes the order."""
        return Step(REPLACE_SQL, (self.issuer, self.serial, order_id, now, self.holder))


class Renewals:
    def __init__(
        self,
        *,
        endpoint: AcmeEndpoint,
        database: Database,
        clock: Clock,
        issuance: IssuanceDoor,
        random: Callable[[int], bytes],
    ) -> None:
        self._rules = endpoint.renewal_info
        self._database = database
        self._clock = clock
        self._issuance = issuance
        self._random = random

    async def info(self, text: str) -> tuple[bytes, int]:
        """The RenewalInfo object and its Retry-After. Raises Problem: 400 for what is no identifier, 404 for an unknown one."""
        if self._rules is None:
            raise not_found("resource")
        record = await self._record(text)
        window = suggested_window(record, self._rules)
        content: dict[str, object] = {"suggestedWindow": {"start": rfc3339(window.start), "end": rfc3339(window.end)}}
        if record.explanation_url:
            content["explanationURL"] = record.explanation_url
        wait = retry_after(record, self._rules, int.from_bytes(self._random(2), "big"))
        return orjson.dumps(content), wait

    async def predecessor(self, text: str | None, *, account_id: str, identifiers: Sequence[Identifier]) -> Predecessor | None:
        """What newOrder's `replaces` stands for (RFC 9773 §5); None where nothing is said, or the endpoint has no ARI.

        Raises Problem: 404 unknown, 403 not the account's, 409 replaced already.
        """
        if text is None or self._rules is None:
            return None
        record, now = await self._record(text), self._clock.micros()
        if record.principal != f"{PrincipalKind.ACME_ACCOUNT.value}:{account_id}":
            raise unauthorized("replaces: the certificate was not issued to this account")
        asked, names = {identifier.tag for identifier in identifiers}, set(record.names)
        if not asked & names:
            raise malformed("replaces: the order has no identifier in common with that certificate")
        holder = await self._holder(record.issuer, record.serial, now)
        window = suggested_window(record, self._rules)
        # A failed try gives the certificate free again, but not the exemption from limits: else failing would be free, too.
        # Nor is an order for further names what was asked for: those would be past every limit.
        # Nor what replaces a certificate that the subscriber revoked: else revoking would be a way past every limit.
        own_doing = record.revoked_by.startswith(f"{PrincipalKind.ACME_ACCOUNT.value}:")
        in_window = window.start <= now <= record.not_after and not holder and asked <= names and not own_doing
        return Predecessor(record.issuer, record.serial, text, holder, in_window)

    async def check_free(self, predecessor: Predecessor | None) -> None:
        """After a conflict: was another order faster? Raises Problem(alreadyReplaced)."""
        if predecessor is not None:
            holder = await self._holder(predecessor.issuer, predecessor.serial, self._clock.micros())
            if holder != predecessor.holder:
                raise _replaced()

    async def _holder(self, issuer: str, serial: str, now: Micros) -> str:
        row = await self._database.fetch_one(REPLACEMENT_SQL, issuer, serial, now)
        if row is None:
            return ""
        if row["stands"]:
            raise _replaced()
        return str(row["order_id"])

    async def _record(self, text: str) -> RenewalRecord:
        cert_id = parse_cert_id(text)
        record = await self._issuance.renewal(key_identifier=cert_id.key_identifier, serial=cert_id.serial)
        if record is None:
            raise not_found("certificate")
        return record


def _replaced() -> Problem:
    return Problem(ProblemType.ALREADY_REPLACED, "another order replaces that certificate already; order without `replaces`")
