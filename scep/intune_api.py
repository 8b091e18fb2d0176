"""The REST calls of Microsoft Intune's SCEP validation service, as the library that Microsoft publishes makes them.

A token by client credentials (RFC 6749 §4.4), the service's address from Microsoft Graph, then three actions: validateRequest,
successNotification, failureNotification. Requests are made and answers read here, without I/O but by the client that is given;
tokens and the address are kept as long as they are good.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import orjson
from cryptography import x509

from issuance.request import IssuedCertificate
from pki.clock import Clock, Micros, after, to_datetime
from scep.services import HttpClient, HttpReply, HttpRequest, ServiceFailure

INTUNE = "https://api.manage.microsoft.com/"  # whom tokens for the service are for
INTUNE_APPLICATION = "0000000a-0000-0000-c000-000000000000"  # its id in every tenant
SERVICE = "ScepRequestValidationFEService".lower()  # names are compared without regard to case
API_VERSION = "2018-02-20"
CALLER = "Certwright"

SUCCESS = "Success"
# It is no challenge of Intune's for this tenant, so perhaps somebody else's.
FOREIGN = frozenset(
    {
        "ChallengePasswordMissing",
        "ChallengeDeserializationError",
        "ChallengeDecryptionError",
        "ChallengeDecodingError",
        "SignatureValidationFailed",
    }
)

DENIED = 0x80094014 - (1 << 32)  # HRESULT CERTSRV_E_ADMIN_DENIED_REQUEST, as the signed 32 bits that it is
MAX_DESCRIPTION = 255  # characters, by Microsoft's documentation

LOCATED = timedelta(hours=1)  # how long the address is taken for true
EARLY = timedelta(minutes=5)  # before its end a token is not used any more
_LONGEST = timedelta(days=1)  # whatever a token says

_CODE = re.compile(r"[A-Za-z0-9]{1,64}")
_OAUTH_ERROR = re.compile(r"[a-z_]{1,40}")  # RFC 6749 §5.2
_ENTRA_ERROR = re.compile(r"AADSTS[0-9]{1,10}")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,16384}")  # RFC 6750 §2.1


@dataclass(frozen=True, slots=True)
class Application:
    """An application of a tenant, registered in Microsoft Entra ID."""

    tenant: str
    client_id: str
    client_secret: str = field(repr=False)
    login_url: str
    graph_url: str


@dataclass(frozen=True, slots=True)
class Token:
    value: str = field(repr=False)
    good_until: Micros


@dataclass(frozen=True, slots=True)
class Asker:
    """The request that Intune is asked about: its transactionID and PKCS#10, DER."""

    transaction_id: str
    csr: bytes = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        encoded = base64.b64encode(self.csr).decode()
        return {"transactionId": self.transaction_id, "certificateRequest": encoded, "callerInfo": CALLER}


class IntuneApi:
    """One application's. Raises ServiceFailure wherever there is no clear answer; a 401 is asked again once, with a new token."""

    def __init__(self, application: Application, *, client: HttpClient, clock: Clock) -> None:
        self._application = application
        self._client = client
        self._clock = clock
        self._tokens: dict[str, Token] = {}
        self._located: tuple[str, Micros] | None = None
        self._turn = asyncio.Lock()  # whoever needs a token or the address asks once for all who wait

    async def validate(self, asker: Asker) -> str:
        """The service's code: SUCCESS, or why not."""
        return await self._act("validateRequest", {"request": asker.as_json()})

    async def notify_success(self, asker: Asker, certificate: IssuedCertificate) -> str:
        return await self._act("successNotification", {"notification": {**asker.as_json(), **success(certificate)}})

    async def notify_failure(self, asker: Asker, description: str) -> str:
        said = {"hResult": DENIED, "errorDescription": description[:MAX_DESCRIPTION]}
        return await self._act("failureNotification", {"notification": {**asker.as_json(), **said}})

    async def _act(self, action: str, content: Mapping[str, Any]) -> str:
        url = f"{await self._address()}/ScepActions/{action}"
        try:
            reply = await self._send(HttpRequest("POST", url, {"api-version": API_VERSION}, orjson.dumps(content)), INTUNE)
            return read_code(expect_200(reply, "Intune"))
        except BaseException:  # a deadline as well: the service may have moved
            self._located = None
            raise

    async def _address(self) -> str:
        async with self._turn:
            now = self._clock.micros()
            if self._located is not None and now < self._located[1]:
                return self._located[0]
            graph = self._application.graph_url
            url = f"{graph}/v1.0/servicePrincipals/appId={INTUNE_APPLICATION}/endpoints"
            reply = await self._send(HttpRequest("GET", url, {}), graph, has_turn=True)
            address = read_address(expect_200(reply, "Microsoft Graph"))
            self._located = (address, after(now, LOCATED))
            return address

    async def _send(self, request: HttpRequest, resource: str, *, has_turn: bool = False) -> HttpReply:
        """With a token for `resource`, and an id that Microsoft's support asks for."""
        refused: Token | None = None
        for _ in range(2):
            token = await self._token(resource, refused, has_turn=has_turn)
            headers = {
                **request.headers,
                "Authorization": f"Bearer {token.value}",
                "Content-Type": "application/json",
                "client-request-id": str(uuid.uuid4()),
            }
            reply = await self._client.send(replace(request, headers=headers))
            if reply.status != 401:
                return reply
            refused = token
        raise ServiceFailure("a new token of this application is refused (status 401)")

    async def _token(self, resource: str, refused: Token | None, *, has_turn: bool) -> Token:
        if not has_turn:
            async with self._turn:
                return await self._token(resource, refused, has_turn=True)
        known, now = self._tokens.get(resource), self._clock.micros()
        if known is None or known == refused or now >= known.good_until:
            known = read_token(await self._client.send(token_request(self._application, resource)), now)
            self._tokens[resource] = known
        return known


# ---------------------------------------------------------------- what is sent


def token_request(application: Application, resource: str) -> HttpRequest:
    """RFC 6749 §4.4.2. The scope of the service has two slashes: its resource ends with one."""
    url = f"{application.login_url}/{quote(application.tenant, safe='')}/oauth2/v2.0/token"
    form = {
        "grant_type": "client_credentials",
        "client_id": application.client_id,
        "client_secret": application.client_secret,
        "scope": f"{resource}/.default",
    }
    return HttpRequest("POST", url, {"Content-Type": "application/x-www-form-urlencoded"}, urlencode(form).encode())


def success(certificate: IssuedCertificate) -> dict[str, str]:
    """What the notification says of a certificate: SHA-1 and serial number in upper-case hex, the end in ISO 8601, the issuer's name."""
    serial = certificate.serial.upper()
    return {
        "certificateThumbprint": hashlib.sha1(certificate.der, usedforsecurity=False).hexdigest().upper(),
        "certificateSerialNumber": serial if len(serial) % 2 == 0 else f"0{serial}",
        "certificateExpirationDateUtc": f"{to_datetime(certificate.not_after).isoformat()[:19]}.000Z",
        "issuingCertificateAuthority": x509.load_der_x509_certificate(certificate.der).issuer.rfc4514_string(),
    }


# ---------------------------------------------------------------- what is read


def expect_200(reply: HttpReply, who: str) -> HttpReply:
    if reply.status == 403:
        raise ServiceFailure(
            f"{who} answered with status 403: has the application its permissions, and an administrator's consent?"
        )
    if reply.status != 200:
        raise ServiceFailure(f"{who} answered with status {reply.status}")
    return reply


def read_token(reply: HttpReply, now: Micros) -> Token:
    """RFC 6749 §5.1. Raises ServiceFailure, with the error's names where they are of the known form."""
    if reply.status != 200:
        raise ServiceFailure(f"no token: status {reply.status}{_error_names(reply)}")
    content = reply.json_object()
    value, seconds, kind = (content.get(key) for key in ("access_token", "expires_in", "token_type"))
    if not isinstance(value, str) or not _TOKEN.fullmatch(value) or not isinstance(kind, str) or kind.lower() != "bearer":
        raise ServiceFailure("no token: the answer holds none of type Bearer")
    if not isinstance(seconds, int) or isinstance(seconds, bool) or seconds <= 0:
        raise ServiceFailure("no token: the answer does not say for how long")
    lifetime = timedelta(seconds=min(seconds, int(_LONGEST.total_seconds())))
    return Token(value, after(now, max(lifetime - EARLY, timedelta(0))))


def _error_names(reply: HttpReply) -> str:
    """The error's name, and Microsoft's number for it. Its text is not repeated: it may quote what was sent."""
    try:
        content = reply.json_object()
    except ServiceFailure:
        return ""
    error, description = str(content.get("error", "")), str(content.get("error_description", ""))
    number = _ENTRA_ERROR.match(description)
    names = [error] if _OAUTH_ERROR.fullmatch(error) else []
    return "".join(f", {name}" for name in (*names, *([number[0]] if number else [])))


def read_address(reply: HttpReply) -> str:
    """Of the service, from Graph's list of endpoints. A bearer token is sent there: HTTPS and nothing else."""
    listed = reply.json_object().get("value")
    for each in listed if isinstance(listed, list) else ():
        match each:
            case {"providerName": str(name), "uri": str(uri)} if name.lower() == SERVICE:
                try:
                    parts = urlsplit(uri)
                    sound = parts.scheme == "https" and parts.hostname and not (parts.username or parts.query or parts.fragment)
                except ValueError:
                    sound = False
                if not sound or not uri.isascii() or not uri.isprintable():
                    raise ServiceFailure("Microsoft Graph names an address for the SCEP service that is no https:// URL")
                return uri.rstrip("/")
    raise ServiceFailure("Microsoft Graph names no SCEP service: is Intune set up in this tenant?")


def read_code(reply: HttpReply) -> str:
    code = reply.json_object().get("code")
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        raise ServiceFailure("Intune's answer has no code")
    return code
