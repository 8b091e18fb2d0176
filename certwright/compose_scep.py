"""The SCEP part of the composition root."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from certwright.compose_scep_services import intune_way, webhook_way
from certwright.config import Config
from certwright.config_issuers import following
from certwright.config_scep import ScepSettings
from certwright.measure import ScepCounts
from issuance.credentials import Credentials
from issuance.crl import PublishedCrls
from issuance.lockout import Lockouts
from issuance.scep_challenges import ScepChallenges
from issuance.service import Issuance
from pki.clock import Clock
from rest.scep_challenges import Making
from scep.authority import Desk
from scep.authorization import Authorizer, ChallengeWay, Informed, StaticWay
from scep.challenge_page import ChallengePage, ChallengePages
from scep.endpoint import Authority, ScepEndpoint, Way
from scep.enrolment import Enrolments
from scep.holders import Holders
from scep.http import ScepServer
from scep.onetime import OneTimeWay
from scep.retrieval import Retrieval
from scep.transactions import Transactions
from signer.api import Signer
from storage.database import Database


@dataclass(frozen=True, slots=True)
class Scep:
    server: ScepServer
    transactions: Transactions
    challenges: ScepChallenges
    challenge_pages: ChallengePages


def scep_server(
    config: Config,
    *,
    issuance: Issuance,
    database: Database,
    clock: Clock,
    credentials: Credentials,
    lockouts: Lockouts,
    signer: Signer,
    counts: ScepCounts,
    closing: AsyncExitStack,
) -> Scep:
    """In a running event loop. Raises Refused."""
    transactions = Transactions(database=database, clock=clock)
    challenges = ScepChallenges(database=database, clock=clock)
    holders = Holders(register=issuance, profiles=config.profiles, clock=clock)
    intune = intune_way(config, clock=clock, observer=counts, closing=closing)
    ways: Mapping[Way, ChallengeWay] = {
        Way.STATIC: StaticWay(credentials),
        Way.ONE_TIME: OneTimeWay(challenges, observer=counts),
        Way.WEBHOOK: webhook_way(config, clock=clock, observer=counts, closing=closing),
        Way.INTUNE: intune,
    }
    informed: Mapping[Way, Informed] = {Way.INTUNE: intune}
    desk = Desk(
        enrolments=Enrolments(
            issuance=issuance,
            authorizer=Authorizer(ways=ways, lockouts=lockouts, observer=counts),
            holders=holders,
            transactions=transactions,
            informed=informed,
            observer=counts,
            standing=challenges,
        ),
        holders=holders,
        retrieval=Retrieval(register=issuance, crls=PublishedCrls(database), clock=clock),
        signer=signer,
        observer=counts,
        random_bytes=secrets.token_bytes,
    )
    endpoints = {name: scep_endpoint(config, settings) for name, settings in config.scep.items()}
    pages = ChallengePages(challenge_pages(config), users=credentials, challenges=challenges, clock=clock)
    return Scep(ScepServer(endpoints=endpoints, desk=desk), transactions, challenges, pages)


def challenge_pages(config: Config) -> Mapping[str, ChallengePage]:
    return {
        name: ChallengePage(
            endpoint=name,
            ca_certificate=config.issuers[config.profiles.get(settings.profile).issuer].certificate,
            roles=settings.challenge_page.roles,
            expires=settings.challenge_page.expires,
            failures=settings.challenge_page.failures,
        )
        for name, settings in config.scep.items()
        if settings.challenge_page is not None
    }


def challenge_makers(config: Config) -> Mapping[str, Making]:
    return {name: Making(settings.profile, settings.makers) for name, settings in config.scep.items() if settings.makers}


def scep_endpoint(config: Config, settings: ScepSettings) -> ScepEndpoint:
    issuer = config.issuers[config.profiles.get(settings.profile).issuer]
    return ScepEndpoint(
        name=settings.name,
        profile=settings.profile,
        issuer=issuer.name,
        ca_certificates=(issuer.certificate, *issuer.chain),
        signing=_authority(config, settings.registration_authority, issuer.name, issuer.certificate),
        decryption=_authority(config, settings.encryption_authority, issuer.name, issuer.certificate),
        chain=settings.chain,
        include_root=settings.include_root,
        next_certificates=following(issuer, config.registration_authorities, settings.next_registration_authority),
        legacy=settings.legacy,
        challenges=settings.challenges,
        renewal=settings.renewal,
        require_approval=settings.require_approval,
        limits=settings.limits,
    )


def _authority(config: Config, name: str, issuer: str, certificate: bytes) -> Authority:
    """No name is the issuing CA itself."""
    if not name:
        return Authority(issuer, certificate)
    found = config.registration_authorities[name]
    return Authority(found.key, found.certificate)
