"""EST's own objects around a simulated pipeline. What the composition root does, for tests of the front end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from est.authentication import Authenticator
from est.certificates import CertificateChecks, Register
from est.cmc.service import FullCmc
from est.connection import Connections
from est.endpoint import EstEndpoint
from est.enroll import Enroller, Enrolment
from est.http import EstServer
from est.keymaker import KeyMaker
from est.secrets import DigestLogin, Passwords, SecretChecks
from est.serverkeygen import KeyEncryptionKeys, KeyGeneration, RegistrationSigner
from issuance.sealed import SealedCredential
from pki.clock import Clock, SystemClock
from policy.profiles import Profiles
from signer.api import Hash
from tests.helpers.profiles import profile


class Pipeline(Enrolment, Register, Protocol):
    """What EST needs of issuance."""


@dataclass(slots=True)
class KnownKeys:
    """Key-encryption keys in the clear, by endpoint and identifier."""

    keys: dict[tuple[str, bytes], bytes] = field(default_factory=dict)

    async def key_encryption_key(self, *, endpoint: str, key_id: bytes) -> SealedCredential | None:
        key = self.keys.get((endpoint, key_id))
        return None if key is None else SealedCredential(f"{endpoint}/{key_id.hex()}", endpoint, key, frozenset(), "")


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
        full_cmc=FullCmc(),
        connections=connections or Connections(),
        secrets=secrets,
    )
