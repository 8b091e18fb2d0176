"""The EST part of the composition root."""

from __future__ import annotations

from collections.abc import Mapping
from secrets import token_bytes as new_secret

from certwright.config import Config
from certwright.config_est import EstSettings
from certwright.exporter import TlsInternals
from est.authentication import Authenticator
from est.certificates import CertificateChecks
from est.cmc.service import full_cmc
from est.connection import Connections
from est.digest import Nonces
from est.endpoint import (
    Agents,
    Authentication,
    Base64Wrap,
    ClientCertificates,
    CsrAttributes,
    EstEndpoint,
    ProofLinking,
    RegistrationKey,
)
from est.enroll import Enroller
from est.http import EstServer
from est.keymaker import KeyMaker
from est.secrets import DigestLogin, SecretChecks
from est.serverkeygen import KeyGeneration
from issuance.cmc_secrets import CmcSecrets
from issuance.credentials import Credentials
from issuance.crl import PublishedCrls
from issuance.digests import Digests
from issuance.lockout import Lockouts
from issuance.sealed import SealedSecrets
from issuance.service import Issuance
from pki.clock import Clock
from pki.sealing import KEY_OCTETS
from signer.api import Signer
from storage.database import Database


def est_server(
    config: Config,
    *,
    issuance: Issuance,
    database: Database,
    clock: Clock,
    credentials: Credentials,
    lockouts: Lockouts,
    sealed: SealedSecrets,
    signer: Signer,
    internals: TlsInternals | None,
) -> EstServer:
    endpoints: Mapping[str, EstEndpoint] = {name: est_endpoint(config, settings) for name, settings in config.est.items()}
    digests = Digests(database=database, clock=clock, sealed=sealed, lockouts=lockouts)
    digest = DigestLogin(digests, Nonces(config.sealing_keys), clock) if config.sealing_keys else None
    secrets = SecretChecks(credentials, digest=digest)
    certificates = CertificateChecks(register=issuance, endpoints=endpoints.values(), clock=clock)
    authenticator = Authenticator(secrets=secrets, certificates=certificates)
    enroller = Enroller(issuance=issuance, authenticator=authenticator, profiles=config.profiles)
    return EstServer(
        endpoints=endpoints,
        profiles=config.profiles,
        enroller=enroller,
        key_generation=KeyGeneration(
            authenticator=authenticator,
            enroller=enroller,
            profiles=config.profiles,
            keys=sealed,
            signer=signer,
            maker=KeyMaker(),
        ),
        full_cmc=full_cmc(
            authenticator=authenticator,
            certificates=certificates,
            enroller=enroller,
            register=issuance,
            crls=PublishedCrls(database),
            secrets=CmcSecrets(database=database, clock=clock, sealed=sealed, lockouts=lockouts),
            signer=signer,
            # Without sealing keys no label has CMC (config_est.py), so nothing is ever made with these.
            sealing_keys=config.sealing_keys or (new_secret(KEY_OCTETS),),
            clock=clock,
            random_bytes=new_secret,
        ),
        connections=Connections(internals),
        secrets=secrets,
    )


def est_endpoint(config: Config, settings: EstSettings) -> EstEndpoint:
    profile = config.profiles.get(settings.profile)
    issuer = config.issuers[profile.issuer]
    return EstEndpoint(
        label=settings.name,
        profile=settings.profile,
        ca_certificates=tuple(dict.fromkeys((issuer.certificate, *issuer.chain, *issuer.rollover))),
        issuer=profile.issuer,
        authenticate=frozenset(Authentication(one) for one in settings.authenticate),
        base64_wrap=Base64Wrap(settings.base64_wrap),
        realm=settings.realm,
        client_certificates=ClientCertificates(
            anchors=settings.anchors, roles=settings.roles, grace=settings.grace, enroll=settings.enroll_with_own
        ),
        agents=Agents(settings.agent_anchors, settings.agent_roles) if settings.agent_anchors else None,
        proof_linking=ProofLinking(settings.proof_linking),
        csr_attributes=CsrAttributes(settings.csr_attributes),
        server_keygen=settings.server_keygen,
        full_cmc=settings.full_cmc,
        require_approval=settings.require_approval,
        registration_key=_registration_key(config, settings.registration_authority),
        limits=settings.limits,
    )


def _registration_key(config: Config, name: str | None) -> RegistrationKey | None:
    if name is None:
        return None
    authority = config.registration_authorities[name]
    return RegistrationKey(authority.key, authority.certificate)
