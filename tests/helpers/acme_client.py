"""A small ACME client for tests: it signs whatever it is told to, right or wrong.

The server under test is configured with `BASE`; requests go to wherever it really listens. So nothing in an answer can
have come from the Host header without a test noticing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from pki.strict import base64url, from_base64url

BASE = "https://ca.test:8443"
JOSE = "application/jose+json"

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
Http = TestClient[web.Request, web.Application]

_EC = {
    256: ("P-256", "ES256", hashes.SHA256()),
    384: ("P-384", "ES384", hashes.SHA384()),
    521: ("P-521", "ES512", hashes.SHA512()),
}


def integer(value: int, octets: int | None = None) -> str:
    return base64url(value.to_bytes(octets if octets is not None else (value.bit_length() + 7) // 8, "big"))


def to_json(value: object) -> bytes:
    return json.dumps(value).encode()


@dataclass(frozen=True, slots=True)
class AccountKey:
    """A private key that signs as JWS does."""

    key: PrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def alg(self) -> str:
        match self.key:
            case ec.EllipticCurvePrivateKey():
                return _EC[self.key.curve.key_size][1]
            case rsa.RSAPrivateKey():
                return "RS256"
            case _:
                return "EdDSA"

    @property
    def jwk(self) -> dict[str, str]:
        match self.key:
            case ec.EllipticCurvePrivateKey():
                point, octets = self.key.public_key().public_numbers(), (self.key.curve.key_size + 7) // 8
                crv = _EC[self.key.curve.key_size][0]
                return {"crv": crv, "kty": "EC", "x": integer(point.x, octets), "y": integer(point.y, octets)}
            case rsa.RSAPrivateKey():
                numbers = self.key.public_key().public_numbers()
                return {"e": integer(numbers.e), "kty": "RSA", "n": integer(numbers.n)}
            case _:
                return {"crv": "Ed25519", "kty": "OKP", "x": base64url(self.key.public_key().public_bytes_raw())}

    def sign(self, data: bytes) -> bytes:
        match self.key:
            case ec.EllipticCurvePrivateKey():
                octets = (self.key.curve.key_size + 7) // 8
                r, s = decode_dss_signature(self.key.sign(data, ec.ECDSA(_EC[self.key.curve.key_size][2])))
                return r.to_bytes(octets, "big") + s.to_bytes(octets, "big")
            case rsa.RSAPrivateKey():
                return self.key.sign(data, padding.PKCS1v15(), hashes.SHA256())
            case _:
                return self.key.sign(data)


def make_jws(key: AccountKey, protected: Mapping[str, Any] | bytes, payload: bytes) -> dict[str, str]:
    """A flattened JWS; `protected` may be raw bytes to be wrong in ways that a mapping cannot be."""
    header = base64url(protected if isinstance(protected, bytes) else to_json(dict(protected)))
    content = base64url(payload)
    signature = key.sign(f"{header}.{content}".encode())
    return {"protected": header, "payload": content, "signature": base64url(signature)}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, read whole."""

    status: int
    headers: Mapping[str, str]
    links: tuple[str, ...]
    body: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """The ACME type of a problem document, without its URN."""
        assert self.headers["Content-Type"] == "application/problem+json", self.body
        content = self.json
        assert content["status"] == self.status
        return str(content["type"]).removeprefix("urn:ietf:params:acme:error:")

    @property
    def location(self) -> str:
        return self.headers["Location"]


@dataclass(slots=True)
class AcmeClient:
    """One key at one endpoint. `kid` is known after `register`."""

    http: Http
    key: AccountKey = field(default_factory=AccountKey)
    endpoint: str = "default"
    kid: str = ""

    def url(self, path: str) -> str:
        return f"{BASE}/acme/{self.endpoint}/{path}"

    async def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        path = url.removeprefix(BASE)
        async with self.http.request(method, path, data=body, headers=dict(headers or {})) as response:
            content = await response.read()
            links = tuple(response.headers.getall("Link", []))
            return Reply(response.status, response.headers.copy(), links, content)

    async def nonce(self) -> str:
        reply = await self.request("HEAD", self.url("new-nonce"))
        assert reply.status == 200
        return reply.headers["Replay-Nonce"]

    async def header(self, url: str, *, jwk: bool = False, **changes: Any) -> dict[str, Any]:
        """A protected header as it should be, then `changes`; None removes a member."""
        header: dict[str, Any] = {"alg": self.key.alg, "nonce": changes.get("nonce") or await self.nonce(), "url": url}
        if jwk:
            header["jwk"] = self.key.jwk
        else:
            header["kid"] = self.kid
        header.update(changes)
        return {name: value for name, value in header.items() if value is not None}

    async def send(self, url: str, jws: object, *, headers: Mapping[str, str] | None = None) -> Reply:
        body = jws if isinstance(jws, bytes) else to_json(jws)
        return await self.request("POST", url, body=body, headers={"Content-Type": JOSE, **(headers or {})})

    async def post(self, url: str, payload: object = b"", *, jwk: bool = False, **changes: Any) -> Reply:
        """A signed POST; a payload of bytes goes as it is, everything else as JSON."""
        header = await self.header(url, jwk=jwk, **changes)
        content = payload if isinstance(payload, bytes) else to_json(payload)
        return await self.send(url, make_jws(self.key, header, content))

    async def register(self, **wanted: Any) -> Reply:
        reply = await self.post(self.url("new-account"), {"termsOfServiceAgreed": True, **wanted}, jwk=True)
        if reply.status in {200, 201}:
            self.kid = reply.location
        return reply

    async def order(self, *names: str, **members: Any) -> Reply:
        """newOrder; names of digits and dots or with a colon are addresses."""
        identifiers = [{"type": "ip" if _is_address(name) else "dns", "value": name} for name in names]
        return await self.post(self.url("new-order"), {"identifiers": identifiers, **members})

    async def authorize(self, order: Reply) -> None:
        """Answer the first challenge of every authorization."""
        for url in order.json["authorizations"]:
            authorization = await self.post(url)
            reply = await self.post(authorization.json["challenges"][0]["url"], {})
            assert reply.status == 200, reply.body

    async def finalize(self, order: Reply, csr: bytes) -> Reply:
        return await self.post(order.json["finalize"], {"csr": base64url(csr)})


def _is_address(name: str) -> bool:
    return ":" in name or name.replace(".", "").isdigit()


def decoded(jws: Mapping[str, str], member: str) -> Any:
    return json.loads(from_base64url(jws[member]))
