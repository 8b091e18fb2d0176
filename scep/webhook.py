"""Challenges that somebody else's server knows (in the manner of step-ca's SCEPCHALLENGE webhooks).

It is sent the challenge and the request, signed with a secret that both know, and says {"allow": true} or not. Law of this file:
only that one answer lets anybody in; every other one, and none, does not.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import assert_never

import orjson
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from issuance.request import DelegatedChallenge
from pki.clock import Clock, Micros, rfc3339
from pki.csr import Csr
from pki.identifiers import DnsName
from pki.reasons import Reason, Rejection
from policy.principal import Principal, PrincipalKind
from scep.authorization import Asked, Authorization, Observer
from scep.endpoint import Way
from scep.services import NOT_CHECKED, HttpClient, HttpReply, HttpRequest, ServiceFailure, Turns

_LOG = logging.getLogger(__name__)

PASSING = frozenset({408, 425, 429})  # 4xx that speak of now, not of this challenge


@dataclass(frozen=True, slots=True)
class Webhook:
    """One endpoint's. `secret` is the HMAC key itself; `timeout` is what one question may take."""

    url: str
    secret: bytes = field(repr=False)
    timeout: timedelta
    roles: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Hook:
    webhook: Webhook
    client: HttpClient
    turns: Turns


class WebhookWay:
    """Of all endpoints that have one. `new_id` gives ids that never come twice."""

    def __init__(
        self,
        webhooks: Mapping[str, tuple[Webhook, HttpClient]],
        *,
        clock: Clock,
        new_id: Callable[[], str],
        observer: Observer,
    ) -> None:
        self._hooks = {
            name: _Hook(webhook, client, Turns(timeout=webhook.timeout)) for name, (webhook, client) in webhooks.items()
        }
        self._clock = clock
        self._new_id = new_id
        self._observer = observer

    async def authorize(self, asked: Asked) -> Authorization | None:
        """None is a clear no. Raises Rejection(UNAUTHENTICATED) where there is no clear answer: that is nobody's failed attempt."""
        name = asked.endpoint.name
        hook = self._hooks[name]
        try:
            why_not = await hook.turns.run(functools.partial(self._ask, hook, asked))
        except ServiceFailure as failure:
            _LOG.warning("SCEP endpoint %s: webhook: %s; transaction %s", name, failure.why, asked.place.transaction_id)
            self._observer.authorized(endpoint=name, way=Way.WEBHOOK.value, result="failed")
            raise Rejection(Reason.UNAUTHENTICATED, NOT_CHECKED) from failure
        if why_not is not None:
            _LOG.info("SCEP endpoint %s: webhook: %s; transaction %s", name, why_not, asked.place.transaction_id)
            self._observer.authorized(endpoint=name, way=Way.WEBHOOK.value, result="denied")
            return None
        identity = f"webhook/{name}"
        principal = Principal(PrincipalKind.SCEP_CLIENT, identity, hook.webhook.roles, source_address=asked.source_address)
        return Authorization(Way.WEBHOOK, principal, DelegatedChallenge(identity))

    async def _ask(self, hook: _Hook, asked: Asked) -> str | None:
        request = question(hook.webhook, asked, at=self._clock.micros(), new_id=self._new_id())
        return objection(await hook.client.send(request))


def question(webhook: Webhook, asked: Asked, *, at: Micros, new_id: str) -> HttpRequest:
    """What the service is sent. It can refuse what is old by `timestamp`, and what it has seen by `id`: both are signed."""
    body = orjson.dumps(
        {
            "timestamp": rfc3339(at),
            "id": new_id,
            "provisionerName": asked.endpoint.name,
            "scepChallenge": asked.challenge,
            "scepTransactionID": asked.place.transaction_id,
            "x509CertificateRequest": _as_json(asked.csr),
        }
    )
    headers = {
        "Content-Type": "application/json",
        "X-Smallstep-Webhook-ID": asked.endpoint.name,
        "X-Smallstep-Signature": hmac.new(webhook.secret, body, hashlib.sha256).hexdigest(),
    }
    return HttpRequest("POST", webhook.url, headers, body)


def objection(reply: HttpReply) -> str | None:
    """None for {"allow": true} alone; why it is a clear no, for the log. Raises ServiceFailure for everything else."""
    if 400 <= reply.status < 500 and reply.status not in PASSING:
        return f"it answered with status {reply.status}, which is a no; does it know our secret?"
    if not 200 <= reply.status < 300:
        raise ServiceFailure(f"it answered with status {reply.status}")
    match reply.json_object().get("allow"):
        case True:
            return None
        case False:
            return "it said no"
        case _:
            raise ServiceFailure("its answer has no `allow` that is true or false")


def _as_json(csr: Csr) -> Mapping[str, object]:
    """With the names of step-ca's fields; octets are in Base64. `raw` is the request as the device signed it."""
    names = csr.identifiers
    return {
        "subject": {"commonName": csr.common_name or ""},
        "rawSubject": _base64(csr.subject),
        "dnsNames": [str(name) for name in names if isinstance(name, DnsName)],
        "ipAddresses": [str(name) for name in names if not isinstance(name, DnsName)],
        "publicKey": _base64(csr.spki),
        "publicKeyAlgorithm": _algorithm(csr),
        "raw": _base64(csr.der),
    }


def _algorithm(csr: Csr) -> str:
    match csr.public_key:
        case rsa.RSAPublicKey():
            return "RSA"
        case ec.EllipticCurvePublicKey():
            return "ECDSA"
        case ed25519.Ed25519PublicKey():
            return "Ed25519"
        case _:
            assert_never(csr.public_key)


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()
