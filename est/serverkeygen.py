"""Keys made here (RFC 7030 §4.4): handed out once, and kept nowhere.

The request is authenticated, judged and recorded as any other; only the key in it is not the client's. What goes wrong, an approval
that is still to be given too, ends the key: the next attempt gets another.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, assert_never

from aiohttp import web

from est.authentication import Authenticator
from est.caller import Caller
from est.endpoint import Base64Wrap, RegistrationKey
from est.enroll import Enroller, not_issued, read_csr
from est.errors import HttpRefusal
from est.exchange import Exchange
from est.keymaker import KeyMaker, PrivateKey, pkcs8, request_for
from est.keypackage import Seal, ToHeldKey, ToSharedKey, packed, read_wish, seal_to_certificate, seal_to_shared_key
from est.wire import certs_only, multipart_mixed
from issuance.request import Issued
from issuance.sealed import SealedCredential
from pki.cms.types import Digest
from pki.csr import Csr, parse_unproved_csr
from pki.reasons import Reason, Rejection
from policy.profiles import Profiles
from signer.api import Hash

SERVER_AUTH = "1.3.6.1.5.5.7.3.1"


class KeyEncryptionKeys(Protocol):
    """What is needed of `issuance.sealed.SealedSecrets`."""

    async def key_encryption_key(self, *, endpoint: str, key_id: bytes) -> SealedCredential | None: ...


class RegistrationSigner(Protocol):
    """What is needed of `signer.api.Signer`."""

    async def ra_sign(self, key: str, data: bytes, digest: Hash) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Sealing:
    """To whom a key is encrypted, and who signs it."""

    seal: Seal
    by: RegistrationKey


@dataclass(frozen=True, slots=True)
class _Part:
    content_type: str
    der: bytes = field(repr=False)


class KeyGeneration:
    def __init__(
        self,
        *,
        authenticator: Authenticator,
        enroller: Enroller,
        profiles: Profiles,
        keys: KeyEncryptionKeys,
        signer: RegistrationSigner,
        maker: KeyMaker,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._authenticator = authenticator
        self._enroller = enroller
        self._profiles = profiles
        self._keys = keys
        self._signer = signer
        self._maker = maker
        self._random_bytes = random_bytes

    async def handle(self, exchange: Exchange) -> web.Response:
        """Whatever can be refused is refused before there is a key, and the key is packed before there is a certificate for it."""
        if not exchange.endpoint.server_keygen:
            raise HttpRefusal(501, "keys are not made here; make one and enrol at simpleenroll\n")
        caller = await self._authenticator.caller(exchange)
        asked = await read_csr(exchange, caller, parse=parse_unproved_csr)
        self._check_profile(caller.profile or exchange.endpoint.profile)
        sealing = await self._sealing(exchange, caller, asked)
        if (foreseen := await self._enroller.foresee(exchange.endpoint, caller, asked)) is not None:
            return not_issued(foreseen)
        key = await self._maker.like(asked.public_key)
        part = await self._part(key, sealing)
        outcome = await self._enroller.submit(exchange.endpoint, caller, request_for(asked, key), asked_with=asked)
        if isinstance(outcome, Issued):
            return self._response(exchange, part, outcome.certificate.der)
        return not_issued(outcome)

    def _check_profile(self, name: str) -> None:
        """The label's own profile was looked at with the configuration; a caller may have another."""
        profile = self._profiles.get(name)
        if not profile.server_keygen or SERVER_AUTH in profile.extended_key_usage:
            raise Rejection(
                Reason.FORBIDDEN,
                f"no keys are made here for certificates of profile {profile.name}",
                suggestions=["make the key yourself and enrol at simpleenroll"],
            )

    async def _sealing(self, exchange: Exchange, caller: Caller, asked: Csr) -> _Sealing | None:
        wish = read_wish(asked)
        if wish is None:
            return None
        if exchange.endpoint.registration_key is None:
            raise Rejection(
                Reason.BAD_CSR,
                "the key is asked for encrypted, and this endpoint has nobody to sign such a package",
                suggestions=["ask for it in the clear, as TLS protects it, or have the operator name a registration_authority"],
            )
        match wish:
            case ToSharedKey(key_id):
                found = await self._keys.key_encryption_key(endpoint=exchange.endpoint.label, key_id=key_id)
                if found is None:
                    raise _unknown_key()
                seal = seal_to_shared_key(wish, found.secret)
            case ToHeldKey():
                proved = () if caller.certificate is None else (caller.certificate,)
                seal = seal_to_certificate(wish, (*proved, *exchange.connection.chain[:1]))
            case _:
                assert_never(wish)
        return _Sealing(seal, exchange.endpoint.registration_key)

    async def _part(self, key: PrivateKey, sealing: _Sealing | None) -> _Part:
        if sealing is None:
            return _Part("application/pkcs8", pkcs8(key))
        by = sealing.by

        async def signature(data: bytes, digest: Digest) -> bytes:
            return await self._signer.ra_sign(by.name, data, Hash(digest.value))

        package = await packed(
            pkcs8(key), sealing.seal, certificate=by.certificate, signature=signature, random_bytes=self._random_bytes
        )
        return _Part("application/pkcs7-mime; smime-type=server-generated-key", package)

    def _response(self, exchange: Exchange, key: _Part, certificate: bytes) -> web.Response:
        """§4.4.2: "The format in which the private key data part is returned is dependent"; it comes first."""
        boundary = self._random_bytes(16).hex()
        body = multipart_mixed(
            [(key.content_type, key.der), ("application/pkcs7-mime; smime-type=certs-only", certs_only([certificate]))],
            boundary=boundary,
            wrapped=exchange.endpoint.base64_wrap is not Base64Wrap.UNWRAPPED,  # RFC 2045 §6.8 wants lines
        )
        return web.Response(
            body=body, headers={"Content-Type": f"multipart/mixed; boundary={boundary}", "Cache-Control": "no-store"}
        )


def _unknown_key() -> Rejection:
    return Rejection(
        Reason.BAD_CSR,
        "the key is asked for encrypted, but this endpoint has no key-encryption key of that identifier",
        suggestions=["have the operator make one (certwright est key create), or name another"],
    )
