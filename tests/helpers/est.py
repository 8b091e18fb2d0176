"""EST's own objects around a simulated pipeline. What the composition root does, for tests of the front end."""

from __future__ import annotations

from collections.abc import Mapping

from est.authentication import Authenticator
from est.certificates import CertificateChecks
from est.cmc.service import FullCmc
from est.connection import Connections
from est.endpoint import EstEndpoint
from est.enroll import Enroller, Enrolment
from est.http import EstServer
from est.secrets import Passwords, SecretChecks
from est.serverkeygen import KeyGeneration
from policy.profiles import Profiles
from tests.helpers.profiles import profile


def est_server(
    *,
    endpoints: Mapping[str, EstEndpoint],
    issuance: Enrolment,
    credentials: Passwords,
    profiles: Profiles | None = None,
    connections: Connections | None = None,
) -> EstServer:
    authenticator = Authenticator(secrets=SecretChecks(credentials), certificates=CertificateChecks())
    return EstServer(
        endpoints=endpoints,
        profiles=profiles or Profiles([profile(name) for name in {endpoint.profile for endpoint in endpoints.values()}]),
        enroller=Enroller(issuance=issuance, authenticator=authenticator),
        key_generation=KeyGeneration(),
        full_cmc=FullCmc(),
        connections=connections or Connections(),
    )
