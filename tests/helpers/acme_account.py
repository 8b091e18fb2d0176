"""The two requests that have a JWS in their payload, right and wrong: keyChange, and newAccount with an external account."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from acmeserver.external_keys import ExternalKeys, NewKey
from pki.clock import Clock, Micros
from pki.strict import base64url, from_base64url
from policy.principal import COMMAND_LINE
from storage.database import Database
from tests.helpers.acme_client import AccountKey, AcmeClient, Reply, make_jws, to_json
from tests.helpers.acme_world import SEALER


def _changed(members: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """None takes a member away."""
    return {name: value for name, value in {**members, **changes}.items() if value is not None}


def inner_jws(
    client: AcmeClient,
    new: AccountKey,
    *,
    header: Mapping[str, Any] = {},
    payload: Mapping[str, Any] = {},
    signed_by: AccountKey | None = None,
) -> dict[str, str]:
    """What the new key says (RFC 8555 §7.3.5), then changes of its header and payload."""
    protected = _changed({"alg": new.alg, "jwk": new.jwk, "url": client.url("key-change")}, header)
    content = _changed({"account": client.kid, "oldKey": client.key.jwk}, payload)
    return make_jws(signed_by or new, protected, to_json(content))


async def change_key(client: AcmeClient, new: AccountKey) -> Reply:
    return await client.post(client.url("key-change"), inner_jws(client, new))


def with_key(client: AcmeClient, new: AccountKey) -> AcmeClient:
    """The same account, by another key."""
    return replace(client, key=new)


def external_keys(database: Database, clock: Clock) -> ExternalKeys:
    return ExternalKeys(database=database, clock=clock, sealer=SEALER)


async def new_external_key(
    database: Database,
    clock: Clock,
    *,
    endpoint: str = "optional",
    roles: tuple[str, ...] = (),
    names: tuple[str, ...] = (),
    profiles: tuple[str, ...] = (),
    expires_at: Micros | None = None,
    reusable: bool = False,
) -> NewKey:
    return await external_keys(database, clock).create(
        endpoint=endpoint,
        roles=roles,
        names=names,
        profiles=profiles,
        expires_at=expires_at,
        reusable=reusable,
        principal=COMMAND_LINE,
    )


def binding(
    client: AcmeClient,
    key: NewKey,
    *,
    alg: str = "HS256",
    header: Mapping[str, Any] = {},
    payload: bytes | None = None,
    secret: bytes | None = None,
) -> dict[str, str]:
    """externalAccountBinding of the client's key (RFC 8555 §7.3.4), then changes."""
    url = client.url("new-account")
    return binding_of(client.key, key, url=url, alg=alg, header=header, payload=payload, secret=secret)


def binding_of(
    account_key: AccountKey,
    key: NewKey,
    *,
    url: str,
    alg: str = "HS256",
    header: Mapping[str, Any] = {},
    payload: bytes | None = None,
    secret: bytes | None = None,
) -> dict[str, str]:
    protected = _changed({"alg": alg, "kid": key.kid, "url": url}, header)
    first = base64url(to_json(protected))
    second = base64url(to_json(account_key.jwk) if payload is None else payload)
    digest = {"HS384": "sha384", "HS512": "sha512"}.get(alg, "sha256")
    mac = hmac.digest(from_base64url(key.hmac_key) if secret is None else secret, f"{first}.{second}".encode(), digest)
    return {"protected": first, "payload": second, "signature": base64url(mac)}
