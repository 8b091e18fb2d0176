"""ACME's tables: the SQL, and rows to values.

Law of this file: whose an object is, is part of the statement that finds it. Each look-up starts at the account and joins
what belongs to it, so one statement gives the account's present status and key, too; an object that is somebody else's is
not in the answer. Every status change is a compare-and-set.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from acmeserver.external import BINDING_COLUMNS, BINDING_JOIN
from acmeserver.problems import WireIdentifier
from acmeserver.states import (
    AccountStatus,
    AuthorizationStatus,
    OrderStatus,
    StoredAuthorization,
    StoredOrder,
    authorization_status,
    order_status,
)
from pki.clock import Micros
from pki.identifiers import DnsName, Identifier, IpAddress
from storage.database import Row, Value

# Where a row's own id finds it, what else has to hold (whose it is, at which endpoint) is written with `|| ''`: no index can be
# chosen for that, which a planner that has no figures yet does, and then reads all that the account or the endpoint ever had.
_OWNED = "{}.account_id || '' = a.id"

_ACCOUNT = "id, endpoint, thumbprint, jwk, status, contact, terms_agreed, terms, external_binding"

ACCOUNT_SQL = f"SELECT {_ACCOUNT} FROM acme_account WHERE id = $1 AND endpoint || '' = $2"  # noqa: S608  # constants only
ACCOUNT_BY_KEY_SQL = f"SELECT {_ACCOUNT} FROM acme_account WHERE endpoint = $1 AND thumbprint = $2"  # noqa: S608  # constants only
INSERT_ACCOUNT_SQL = (
    "INSERT INTO acme_account (id, endpoint, thumbprint, jwk, status, contact, terms_agreed, created_at, terms, "
    "external_kid, external_binding) VALUES ($1, $2, $3, $4, 'valid', $5, $6, $7, $8, $9, $10)"
)
UPDATE_CONTACT_SQL = "UPDATE acme_account SET contact = $3 WHERE id = $1 AND thumbprint = $2 AND status = 'valid'"
# A consent to new terms (RFC 8555 §7.3.3), with or without new contacts.
AGREE_SQL = (
    "UPDATE acme_account SET contact = $3, terms = $4, terms_agreed = 1 WHERE id = $1 AND thumbprint = $2 AND status = 'valid'"
)
# keyChange's compare-and-set (§7.3.5): of two that begin with the same key, one wins.
CHANGE_KEY_SQL = "UPDATE acme_account SET thumbprint = $3, jwk = $4 WHERE id = $1 AND thumbprint = $2 AND status = 'valid'"
# The account's orders that it could still read, newest first (§7.1.2.1: not the invalid ones, also where that is derived).
ORDERS_SQL = (
    "SELECT a.status AS account_status, a.thumbprint AS account_thumbprint, o.id AS o_id, o.created_at AS o_created_at "
    "FROM acme_account a LEFT JOIN acme_order o ON o.account_id = a.id AND o.status <> 'invalid' AND o.expires_at > $3 "
    "AND (o.created_at, o.id) < ($4, $5) "
    "AND (o.status <> 'open' OR NOT EXISTS (SELECT 1 FROM acme_order_authorization oa "
    "JOIN acme_authorization z ON z.id = oa.authorization_id WHERE oa.order_id = o.id "
    "AND (z.status IN ('invalid', 'deactivated', 'revoked') OR z.expires_at <= $3))) "
    "WHERE a.id = $1 AND a.endpoint || '' = $2 ORDER BY o.created_at DESC, o.id DESC LIMIT $6"
)
DEACTIVATE_ACCOUNT_SQL = "UPDATE acme_account SET status = 'deactivated' WHERE id = $1 AND thumbprint = $2 AND status = 'valid'"

# What `standing.py` judges; `a` is the account, and BINDING_JOIN belongs to it.
STANDING_COLUMNS = (
    f"a.status AS account_status, a.thumbprint AS account_thumbprint, a.terms AS account_terms, {BINDING_COLUMNS}"
)
STANDING_SQL = f"SELECT {STANDING_COLUMNS} FROM acme_account a {BINDING_JOIN} WHERE a.id = $1 AND a.endpoint || '' = $2"  # noqa: S608  # constants only

# For the pipeline, which knows the account but not the endpoint.
BINDING_OF_SQL = f"SELECT {BINDING_COLUMNS} FROM acme_account a {BINDING_JOIN} WHERE a.id = $1 AND a.status = 'valid'"  # noqa: S608  # constants only

_AUTHORIZATION = (
    "z.id AS z_id, z.identifier_type, z.identifier, z.wildcard, z.status AS z_status, z.token, z.challenges, z.chosen, "
    "z.error AS z_error, z.validated_at, z.expires_at AS z_expires_at, z.subdomains, z.perspectives, z.owner"
)

ORDER_SQL = (
    f"SELECT {STANDING_COLUMNS}, "  # noqa: S608  # constants only
    "o.id AS o_id, o.status AS o_status, o.identifiers, o.profile, o.profile_version, o.not_before, o.not_after, "
    f"o.expires_at AS o_expires_at, o.error AS o_error, o.issuer, o.serial, o.replaces, o.auto_renewal, {_AUTHORIZATION} "
    f"FROM acme_account a {BINDING_JOIN} "
    f"LEFT JOIN acme_order o ON {_OWNED.format('o')} AND o.id = $3 AND o.expires_at > $4 "
    "LEFT JOIN acme_order_authorization oa ON oa.order_id = o.id "
    f"LEFT JOIN acme_authorization z ON z.id = oa.authorization_id AND {_OWNED.format('z')} "
    "WHERE a.id = $1 AND a.endpoint || '' = $2 ORDER BY oa.position"
)
# The order is the account's and the account is valid; its key is checked again, for it may have been changed on another node.
# Its external key is the one that was looked at (or none), and the terms in force are agreed to ('' asks for none).
INSERT_ORDER_SQL = (
    "INSERT INTO acme_order (id, account_id, status, identifiers, profile, profile_version, not_before, not_after, "
    "expires_at, error, issuer, serial, created_at, replaces, auto_renewal) "
    "SELECT CAST($1 AS TEXT), a.id, 'open', CAST($4 AS TEXT), CAST($5 AS TEXT), CAST($6 AS TEXT), CAST($7 AS BIGINT), "
    "CAST($8 AS BIGINT), CAST($9 AS BIGINT), '', '', '', CAST($10 AS BIGINT), CAST($13 AS TEXT), CAST($14 AS TEXT) "
    "FROM acme_account a WHERE a.id = $2 AND a.thumbprint = $3 AND a.status = 'valid' "
    "AND a.external_kid = $11 AND (CAST($12 AS TEXT) = '' OR a.terms = $12)"
)
INSERT_AUTHORIZATION_SQL = (
    "INSERT INTO acme_authorization (id, account_id, identifier_type, identifier, wildcard, status, token, challenges, "
    "chosen, error, evidence, validated_at, expires_at, lease_until, created_at, subdomains, owner) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, '', '', '', NULL, $9, 0, $10, $11, $12)"
)
# Without an order (RFC 8555 §7.4.1), so it has the guard that else the order has.
INSERT_PREAUTHORIZATION_SQL = (
    "INSERT INTO acme_authorization (id, account_id, identifier_type, identifier, wildcard, status, token, challenges, "
    "chosen, error, evidence, validated_at, expires_at, lease_until, created_at, subdomains, owner) "
    "SELECT CAST($1 AS TEXT), a.id, CAST($3 AS TEXT), CAST($4 AS TEXT), CAST($5 AS BIGINT), CAST($6 AS TEXT), "
    "CAST($7 AS TEXT), CAST($8 AS TEXT), '', '', '', NULL, CAST($9 AS BIGINT), 0, CAST($10 AS BIGINT), CAST($11 AS BIGINT), "
    "CAST($12 AS TEXT) FROM acme_account a WHERE a.id = $2 AND a.thumbprint = $13 AND a.status = 'valid' "
    "AND a.external_kid = $14 AND (CAST($15 AS TEXT) = '' OR a.terms = $15)"
)
INSERT_LINK_SQL = "INSERT INTO acme_order_authorization (order_id, authorization_id, position) VALUES ($1, $2, $3)"
# To an authorization that was there before: only while it is the account's, and valid.
LINK_REUSED_SQL = (
    "INSERT INTO acme_order_authorization (order_id, authorization_id, position) "
    "SELECT CAST($1 AS TEXT), z.id, CAST($3 AS BIGINT) FROM acme_authorization z "
    "WHERE z.id = $2 AND z.account_id = $4 AND z.status = 'valid' AND z.expires_at > $5"
)
NAMES_AT_ONCE = 10  # of REUSABLE_SQL
# What was proved for any of ten names, by index. What is valid without a proof (`owner`) is made anew for each order.
REUSABLE_SQL = (
    f"SELECT {_AUTHORIZATION} FROM acme_authorization z WHERE z.account_id = $1 AND z.status = 'valid' "  # noqa: S608  # constants only
    "AND z.identifier IN ($4, $5, $6, $7, $8, $9, $10, $11, $12, $13) AND z.owner = '' AND z.expires_at > $2 "
    "AND z.validated_at > $3 ORDER BY z.validated_at DESC LIMIT 200"
)

# Finalize's compare-and-set. Of two finalizes one wins; a deactivated account or authorization, or one past its time, cannot,
# nor can an account whose external key was revoked, nor a key that is not the account's any more ('' asks for none).
BEGIN_ORDER_SQL = (
    "UPDATE acme_order SET status = $3 WHERE id = $1 AND status = $2 AND expires_at > $4 "
    "AND EXISTS (SELECT 1 FROM acme_account a WHERE a.id = acme_order.account_id AND a.status = 'valid' "
    "AND (CAST($5 AS TEXT) = '' OR a.thumbprint = $5) AND (a.external_kid = '' OR EXISTS (SELECT 1 FROM acme_external_key e WHERE e.kid = a.external_kid "
    "AND e.revoked_at IS NULL))) "
    "AND EXISTS (SELECT 1 FROM acme_order_authorization oa WHERE oa.order_id = acme_order.id) "
    "AND NOT EXISTS (SELECT 1 FROM acme_order_authorization oa JOIN acme_authorization z ON z.id = oa.authorization_id "
    "WHERE oa.order_id = acme_order.id AND (z.status <> 'valid' OR z.expires_at <= $4))"
)
SETTLE_ORDER_SQL = "UPDATE acme_order SET status = $3, error = $4, issuer = $5, serial = $6 WHERE id = $1 AND status = $2"

AUTHORIZATION_SQL = (
    f"SELECT a.status AS account_status, a.thumbprint AS account_thumbprint, {_AUTHORIZATION} "  # noqa: S608  # constants only
    f"FROM acme_account a LEFT JOIN acme_authorization z ON {_OWNED.format('z')} AND z.id = $3 AND z.expires_at > $4 "
    "WHERE a.id = $1 AND a.endpoint || '' = $2"
)
# For a validation that another worker began: the thumbprint is the account's.
UNSETTLED_AUTHORIZATION_SQL = (
    f"SELECT a.id AS account_id, a.endpoint, a.thumbprint AS account_thumbprint, {_AUTHORIZATION} "  # noqa: S608  # constants only
    "FROM acme_authorization z JOIN acme_account a ON a.id = z.account_id AND a.status = 'valid' "
    "WHERE z.id = $1 AND z.status IN ('pending', 'processing') AND z.expires_at > $2"
)
# A key authorization names the account's key (RFC 8555 §8.1): what was proved, or was not, with a key that the account has no
# more says nothing of the present one, so the authorization stays as it is.
SETTLE_AUTHORIZATION_SQL = (
    "UPDATE acme_authorization SET status = $2, chosen = $3, error = $4, evidence = $5, validated_at = $6, expires_at = $7, "
    "perspectives = $9, lease_until = 0 WHERE id = $1 AND status IN ('pending', 'processing') AND expires_at > $8 "
    "AND EXISTS (SELECT 1 FROM acme_account a WHERE a.id = acme_authorization.account_id AND a.status = 'valid' "
    "AND a.thumbprint = $10)"
)
DEACTIVATE_AUTHORIZATION_SQL = (
    "UPDATE acme_authorization SET status = 'deactivated' WHERE id = $1 AND status IN ('pending', 'processing', 'valid') "
    "AND expires_at > $4 AND account_id = (SELECT a.id FROM acme_account a WHERE a.id = $2 AND a.thumbprint = $3 "
    "AND a.status = 'valid')"
)

CERTIFICATE_SQL = (
    "SELECT a.status AS account_status, a.thumbprint AS account_thumbprint, o.issuer, o.serial "  # noqa: S608  # constants only
    f"FROM acme_account a LEFT JOIN acme_order o ON {_OWNED.format('o')} AND o.serial = $3 AND o.serial <> '' "
    "AND o.status = 'valid' WHERE a.id = $1 AND a.endpoint || '' = $2"
)
# Does the account hold a valid authorization for this name (RFC 8555 §7.6)?
CONTROLS_SQL = (
    "SELECT 1 AS found FROM acme_authorization WHERE account_id = $1 AND identifier = $2 AND status = 'valid' "
    "AND identifier_type = $3 AND wildcard = $4 AND expires_at > $5 AND owner = ''"  # proved, not granted by an external key
)


@dataclass(frozen=True, slots=True)
class Account:
    id: str
    thumbprint: str
    jwk: str = field(repr=False)
    status: AccountStatus
    contact: tuple[str, ...]
    terms_agreed: bool
    terms: str = ""  # the URL of those that were agreed to last
    external_binding: Mapping[str, Any] | None = None  # as the client sent it

    def agreed_to(self, terms: str | None) -> bool:
        """Whether it agreed to the terms in force; where there are none, whether it once said that it agrees."""
        return self.terms_agreed if terms is None else self.terms == terms


@dataclass(frozen=True, slots=True)
class Authorization:
    """`identifier` is without the wildcard label; `error` is a problem document or None; `owner` is the external account key
    that owns the name, "" where it is to be proved.
    """

    id: str
    identifier: Identifier
    wildcard: bool
    stored: StoredAuthorization
    token: str
    challenges: tuple[str, ...]
    chosen: str
    error: dict[str, Any] | None
    validated_at: Micros | None
    expires_at: Micros
    subdomains: bool = False  # good for the names below, too (RFC 9444)
    perspectives: int = 0  # that agreed
    owner: str = ""

    def status(self, now: Micros) -> AuthorizationStatus:
        return authorization_status(self.stored, expires_at=self.expires_at, now=now)


@dataclass(frozen=True, slots=True)
class Order:
    id: str
    stored: StoredOrder
    identifiers: tuple[WireIdentifier, ...]
    profile: str
    profile_version: str
    not_before: Micros | None
    not_after: Micros | None
    expires_at: Micros
    error: dict[str, Any] | None
    issuer: str
    serial: str
    authorizations: tuple[Authorization, ...]
    replaces: str = ""  # RFC 9773 §5, as the client wrote it
    auto_renewal: str = ""  # RFC 8739 §3.1.1, the terms in JSON; '' for an order that ends with one certificate

    def status(self, now: Micros) -> OrderStatus:
        return order_status(
            self.stored, expires_at=self.expires_at, authorizations=[each.status(now) for each in self.authorizations], now=now
        )


def to_json(value: object) -> str:
    return orjson.dumps(value).decode("utf-8")


def account_from(row: Row) -> Account:
    return Account(
        id=row["id"],
        thumbprint=row["thumbprint"],
        jwk=row["jwk"],
        status=AccountStatus(row["status"]),
        contact=tuple(orjson.loads(row["contact"])),
        terms_agreed=bool(row["terms_agreed"]),
        terms=row["terms"],
        external_binding=orjson.loads(row["external_binding"]) if row["external_binding"] else None,
    )


def authorization_from(row: Row) -> Authorization:
    return Authorization(
        id=row["z_id"],
        identifier=_identifier_from(row["identifier_type"], row["identifier"]),
        wildcard=bool(row["wildcard"]),
        stored=StoredAuthorization(row["z_status"]),
        token=row["token"],
        challenges=tuple(orjson.loads(row["challenges"])),
        chosen=row["chosen"],
        error=_error_from(row["z_error"]),
        validated_at=row["validated_at"],
        expires_at=row["z_expires_at"],
        subdomains=bool(row["subdomains"]),
        perspectives=row["perspectives"],
        owner=row["owner"],
    )


def order_from(rows: Sequence[Row]) -> Order:
    """From the rows of ORDER_SQL, one for each authorization."""
    row = rows[0]
    return Order(
        id=row["o_id"],
        stored=StoredOrder(row["o_status"]),
        identifiers=tuple(WireIdentifier(item["type"], item["value"]) for item in orjson.loads(row["identifiers"])),
        profile=row["profile"],
        profile_version=row["profile_version"],
        not_before=row["not_before"],
        not_after=row["not_after"],
        expires_at=row["o_expires_at"],
        error=_error_from(row["o_error"]),
        issuer=row["issuer"],
        serial=row["serial"],
        authorizations=tuple(authorization_from(each) for each in rows),
        replaces=row["replaces"],
        auto_renewal=row["auto_renewal"],
    )


def identifier_columns(identifier: Identifier) -> tuple[Value, Value]:
    """(identifier_type, identifier) of a name without its wildcard label."""
    kind = "ip" if isinstance(identifier, IpAddress) else "dns"
    return kind, str(identifier.base)


def _identifier_from(kind: str, text: str) -> Identifier:
    """Our own canonical text, so it is not parsed as a stranger's would be."""
    return IpAddress(ipaddress.ip_address(text)) if kind == "ip" else DnsName(text)


def _error_from(text: str) -> dict[str, Any] | None:
    if not text:
        return None
    error: dict[str, Any] = orjson.loads(text)
    return error
