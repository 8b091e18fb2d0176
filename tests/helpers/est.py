"""EST's own objects around a simulated pipeline. What the composition root does, for tests of the front end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from est.authentication import Authenticator
from est.certificates import CertificateChecks, Register
from est.cmc.service import FullCmc
from est.connection import Connections
from est.endpoint import EstEndpoint
from est.enroll import Enroller, Enrolment
from est.http import EstServer
from est.secrets import DigestLogin, Passwords, SecretChecks
from est.serverkeygen import KeyGeneration
from pki.clock import Clock, SystemClock
from policy.profiles import Profiles
from tests.helpers.profiles import profile


class Pipeline(Enrolment, Register, Protocol):
    """What EST needs of issuance."""


def est_server(
    *,
    endpoints: Mapping[str, EstEndpoint],
    issuance: Pipeline,
    credentials: Passwords,
    profiles: Profiles | None = None,
    connections: Connections | None = None,
    clock: Clock | None = None,
    digest: DigestLogin | None = None,
) -> EstServer:
    secrets = SecretChecks(credentials, digest=digest)
    profiles = profiles or Profiles([profile(name) for name in {endpoint.profile for endpoint in endpoints.values()}])
    certificates = CertificateChecks(register=issuance, endpoints=endpoints.values(), clock=clock or SystemClock())
    authenticator = Authenticator(secrets=secrets, certificates=certificates)
    return EstServer(
        endpoints=endpoints,
        profiles=profiles,
        enroller=Enroller(issuance=issuance, authenticator=authenticator, profiles=profiles),
        key_generation=KeyGeneration(),
        full_cmc=FullCmc(),
        connections=connections or Connections(),
        secrets=secrets,
    )
