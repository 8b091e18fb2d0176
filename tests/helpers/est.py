"""EST's own objects around a simulated pipeline. What the composition root does, for tests of the front end."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from est.authentication import Authenticator
from est.certificates import CertificateChecks, Register
from est.cmc.repository import Certificates
from est.cmc.service import full_cmc
from est.connection import Connections
from est.endpoint import EstEndpoint
from est.enroll import Enroller, Enrolment
from est.http import EstServer
from est.keymaker import KeyMaker
from est.secrets import DigestLogin, Passwords, SecretChecks
from est.serverkeygen import KeyEncryptionKeys, KeyGeneration, RegistrationSigner
from issuance.lockout import NO_LIMITS, FailureLimits
from issuance.sealed import SealedCredential
from pki.clock import Clock, Micros, SystemClock
from pki.reasons import Reason, Rejection
from pki.sealing import KEY_OCTETS
from policy.profiles import Profiles
from signer.api import Hash
from tests.helpers.profiles import profile


class Pipeline(Enrolment, Register, Certificates, Protocol):
    """What EST needs of issuance."""


@dataclass(slots=True)
class KnownKeys:
    """Key-encryption keys in the clear, by endpoint and identifier."""

    keys: dict[tuple[str, bytes], bytes] = field(default_factory=dict)

    async def key_encryption_key(self, *, endpoint: str, key_id: bytes) -> SealedCredential | None:
        key = self.keys.get((endpoint, key_id))
        return None if key is None else SealedCredential(f"{endpoint}/{key_id.hex()}", endpoint, key, frozenset(), "")


@dataclass(slots=True)
class KnownSecrets:
    """Shared secrets of CMC clients in the clear, by endpoint and identification."""

    secrets: dict[tuple[str, str], str] = field(default_factory=dict)
    failures: int = 0

    async def check(
        self,
        *,
        endpoint: str,
        identification: str,
        is_right: Callable[[str], bool],
        address: str = "",
        limits: FailureLimits = NO_LIMITS,
    ) -> SealedCredential:
        secret = self.secrets.get((endpoint, identification))
        if secret is None or not is_right(secret):
            self.failures += 1
            raise Rejection(Reason.UNAUTHENTICATED, "not valid here")
        return SealedCredential(f"{endpoint}/{identification}", endpoint, secret.encode(), frozenset({"device"}), "")


@dataclass(slots=True)
class KnownCrls:
    """By issuer: (thisUpdate, DER), oldest first."""

    crls: dict[str, list[tuple[Micros, bytes]]] = field(default_factory=dict)

    async def find(self, issuer: str, *, at: Micros) -> bytes | None:
        return next((der for since, der in reversed(self.crls.get(issuer, [])) if since <= at), None)


@dataclass(slots=True)
class TestSigner:
    """The key of a registration authority, in this process; one that is not there signs nothing."""

    __test__ = False

    key: rsa.RSAPrivateKey | None = None

    async def ra_sign(self, key: str, data: bytes, digest: Hash) -> bytes:
        assert self.key is not None, key
        assert digest is Hash.SHA256
        return self.key.sign(data, padding.PKCS1v15(), hashes.SHA256())


def est_server(
    *,
    endpoints: Mapping[str, EstEndpoint],
    issuance: Pipeline,
    credentials: Passwords,
    profiles: Profiles | None = None,
    connections: Connections | None = None,
    clock: Clock | None = None,
    digest: DigestLogin | None = None,
    keys: KeyEncryptionKeys | None = None,
    signer: RegistrationSigner | None = None,
    maker: KeyMaker | None = None,
    crls: KnownCrls | None = None,
    cmc_secrets: KnownSecrets | None = None,
) -> EstServer:
    secrets = SecretChecks(credentials, digest=digest)
    profiles = profiles or Profiles([profile(name) for name in {endpoint.profile for endpoint in endpoints.values()}])
    certificates = CertificateChecks(register=issuance, endpoints=endpoints.values(), clock=clock or SystemClock())
    authenticator = Authenticator(secrets=secrets, certificates=certificates)
    enroller = Enroller(issuance=issuance, authenticator=authenticator, profiles=profiles)
    return EstServer(
        endpoints=endpoints,
        profiles=profiles,
        enroller=enroller,
        key_generation=KeyGeneration(
            authenticator=authenticator,
            enroller=enroller,
            profiles=profiles,
            keys=keys or KnownKeys(),
            signer=signer or TestSigner(),
            maker=maker or KeyMaker(),
        ),
        full_cmc=full_cmc(
            authenticator=authenticator,
            certificates=certificates,
            enroller=enroller,
            register=issuance,
            crls=crls or KnownCrls(),
            secrets=cmc_secrets or KnownSecrets(),
            signer=signer or TestSigner(),
            sealing_keys=(b"k" * KEY_OCTETS,),
            clock=clock or SystemClock(),
            random_bytes=os.urandom,
        ),
        connections=connections or Connections(),
        secrets=secrets,
    )
