"""EST around the real pipeline, and clients that come with whatever certificate a test gives them.

async with EstWorld(database, clock, endpoints=[...]) as world:
    held = await world.enrolled("default", common_name="device-1")
    response = await world.ask("simplereenroll", renewal_csr(held), chain=[held])

The chain arrives as behind a proxy: what TLS itself lets pass is told by tests with a whole server.
"""

from __future__ import annotations

import base64
import ssl
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.typedefs import Handler
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, pkcs7

from est.connection import FORWARDED_CHAIN
from est.endpoint import EstEndpoint
from est.http import routes
from issuance.request import Channel, Issued
from pki.clock import Clock
from pki.reasons import RevocationReason
from policy.principal import COMMAND_LINE
from policy.profiles import Profiles
from policy.rules import Policy
from storage.database import Database
from tests.helpers.authorities import ec_key
from tests.helpers.est import est_server
from tests.helpers.issuance_simulator import KnownCredentials, ThrowAwayCa
from tests.helpers.issuing import ANYTHING, Issuing
from tests.helpers.scep import octets, oid, retag, seq, set_of

_CHAIN = "X-Test-Chain"


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    text: str
    headers: Mapping[str, str]

    @property
    def certificate(self) -> x509.Certificate:
        assert self.status == 200, self.text
        [found] = pkcs7.load_der_pkcs7_certificates(base64.b64decode(self.text))
        return found


class EstWorld:
    """`issuing` is the pipeline with its database, CAs and clock; `credentials` are the passwords. `policies` may be changed. `serving` goes to est_server."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        endpoints: Iterable[EstEndpoint],
        policies: Iterable[Policy] = (ANYTHING,),
        serving: Mapping[str, Any] | None = None,
        **issuing: Any,
    ) -> None:
        self.policies = list(policies)
        self.issuing = Issuing(database, clock, policies=self.policies, **issuing)
        self.credentials = KnownCredentials()
        self._serving = serving or {}
        self._endpoints = {endpoint.label: endpoint for endpoint in endpoints}

    async def __aenter__(self) -> Self:
        tls, self._folder = ThrowAwayCa(), tempfile.TemporaryDirectory()
        app = web.Application(middlewares=[_as_a_proxy_says])
        served = est_server(
            endpoints=self._endpoints,
            issuance=self.issuing.issuance,
            profiles=Profiles(self.issuing.profiles),
            clock=self.issuing.clock,
            **{"credentials": self.credentials, **self._serving},
        )
        app.add_routes(routes(served))
        server = TestServer(app, scheme="https", host="localhost")
        await server.start_server(ssl=tls.server_context(Path(self._folder.name)))
        trust = ssl.create_default_context(cadata=tls.pem)
        self._client = TestClient(server, connector=aiohttp.TCPConnector(ssl=trust))
        await self._client.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        await self._client.__aexit__(kind, error, at)
        self._folder.cleanup()

    async def ask(
        self,
        operation: str,
        csr: bytes,
        *,
        chain: Sequence[bytes] = (),
        label: str = "default",
        auth: tuple[str, str] | None = None,
    ) -> Reply:
        headers = {"Content-Type": "application/pkcs10"}
        if chain:
            headers[_CHAIN] = ",".join(base64.b64encode(one).decode() for one in chain)
        if auth is not None:
            headers["Authorization"] = aiohttp.encode_basic_auth(*auth)
        return await self.post(operation, base64.b64encode(csr), headers, label=label)

    async def post(self, operation: str, body: bytes, headers: Mapping[str, str], *, label: str = "default") -> Reply:
        async with self._client.post(f"/.well-known/est/{label}/{operation}", data=body, headers=headers) as response:
            return Reply(response.status, await response.text(), response.headers)

    async def enrolled(
        self,
        endpoint: str,
        *names: str,
        common_name: str | None = None,
        channel: Channel = Channel.EST,
        profile: str = "device",
        **changes: Any,
    ) -> bytes:
        """DER of a certificate that this server issued, through any door; `changes` are of the request to the pipeline."""
        csr = make_request(subject=subject(common_name), names=general_names(*names))
        request = self.issuing.request(csr=csr, channel=channel, endpoint=endpoint, profile=profile, **changes)
        outcome = await self.issuing.issuance.submit(request)
        assert isinstance(outcome, Issued), outcome
        return outcome.certificate.der

    async def revoke(self, certificate: bytes) -> None:
        serial = x509.load_der_x509_certificate(certificate).serial_number
        record = await self.issuing.issuance.certificate(f"{serial:x}")
        assert record is not None
        await self.issuing.issuance.revoke(
            issuer=record.certificate.issuer, serial=f"{serial:x}", reason=RevocationReason.SUPERSEDED, principal=COMMAND_LINE
        )


@web.middleware
async def _as_a_proxy_says(request: web.Request, handler: Handler) -> web.StreamResponse:
    if _CHAIN in request.headers:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", web.NotAppKeyWarning)  # a plain key: listener and front ends share no module
            request[FORWARDED_CHAIN] = tuple(base64.b64decode(one) for one in request.headers[_CHAIN].split(","))
    return await handler(request)


def subject(common_name: str | None) -> bytes:
    """Name, DER."""
    given = [] if common_name is None else [x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)]
    return x509.Name(given).public_bytes()


def general_names(*dns: str) -> bytes | None:
    """GeneralNames, DER; None for none."""
    return seq(*(retag(0x82, octets(name.encode())) for name in dns)) if dns else None


def make_request(
    *,
    subject: bytes,
    names: bytes | None,
    attributes: Mapping[str, bytes] | None = None,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> bytes:
    """A certification request (DER) of these very octets. `attributes`: object identifier -> DER of the one value."""
    key = key or ec_key("subscriber")
    asked = [seq(oid(dotted), set_of(value)) for dotted, value in (attributes or {}).items()]
    if names is not None:
        extension = seq(oid("2.5.29.17"), octets(names))
        asked.append(seq(oid("1.2.840.113549.1.9.14"), set_of(seq(extension))))
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    info = seq(b"\x02\x01\x00", subject, spki, retag(0xA0, set_of(*asked)))
    signature = key.sign(info, ec.ECDSA(hashes.SHA256()))
    return seq(info, seq(oid("1.2.840.10045.4.3.2")), b"\x03" + octets(b"\0" + signature)[1:])


def renewal_csr(certificate: bytes, **changes: Any) -> bytes:
    """For the subject and the alternative names of a certificate; `changes` are of make_request."""
    held = x509.load_der_x509_certificate(certificate)
    return make_request(**{"subject": held.subject.public_bytes(), "names": alternative_names(held), **changes})


def alternative_names(certificate: x509.Certificate) -> bytes | None:
    """GeneralNames, DER."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.public_bytes()
    except x509.ExtensionNotFound:
        return None
