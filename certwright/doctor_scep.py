"""`certwright check` on SCEP: what clients would stumble over though the configuration is valid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import orjson
from cryptography import x509

from certwright.compose_scep import scep_endpoint
from certwright.config import Config
from certwright.config_issuers import issued
from certwright.config_scep import ScepSettings, extension
from issuance.credentials import CredentialKind
from pki.clock import Micros
from pki.cms.types import Cipher
from pki.reasons import Rejection
from scep.endpoint import Way
from storage.database import Database

STATIC_SQL = """
SELECT id, endpoint, roles, profile, CASE WHEN secret LIKE 'scrypt:%' THEN 1 ELSE 0 END AS chosen FROM credential
WHERE kind = $1 AND disabled_at IS NULL AND (expires_at IS NULL OR expires_at > $2) ORDER BY id
"""


RENEWAL = "renewal"


@dataclass(frozen=True, slots=True)
class StaticChallenge:
    """One that opens. `chosen` by a person: what Certwright makes itself is stored otherwise (issuance/hashing.py)."""

    id: str
    endpoint: str
    roles: frozenset[str]
    chosen: bool
    profile: str = ""  # instead of the endpoint's


def scep_warnings(config: Config) -> Iterator[str]:
    for name, settings in config.scep.items():
        endpoint = scep_endpoint(config, settings)
        if endpoint.uses_ca_key:
            continue
        shown = [x509.load_der_x509_certificate(der) for der in endpoint.shown_certificates()]
        for authority in dict.fromkeys((settings.registration_authority, settings.encryption_authority)):
            certificate = x509.load_der_x509_certificate(config.registration_authorities[authority].certificate)
            if not any(issued(above, certificate) for above in shown):
                yield (
                    f"SCEP endpoint {name}: GetCACert does not show who issued the certificate of registration authority "
                    f"{authority}, so clients that verify it refuse it; have issuer {endpoint.issuer} issue it"
                )
        usage = extension(x509.load_der_x509_certificate(endpoint.ca_certificates[0]), x509.KeyUsage)
        if usage is not None and usage.key_encipherment:
            yield (
                f"SCEP endpoint {name}: the certificate of issuer {endpoint.issuer} has the key usage keyEncipherment beside the "
                "registration authority's: some clients encrypt to the CA then, and are refused"
            )


async def static_challenges(database: Database, now: Micros) -> Sequence[StaticChallenge]:
    """Of all endpoints, those that the configuration has no more too. Raises Unavailable."""
    rows = await database.fetch(STATIC_SQL, CredentialKind.SCEP_CHALLENGE.value, now)
    return [
        StaticChallenge(row["id"], row["endpoint"], frozenset(orjson.loads(row["roles"])), bool(row["chosen"]), row["profile"])
        for row in rows
    ]


def challenge_warnings(config: Config, challenges: Sequence[StaticChallenge]) -> Iterator[str]:
    """Who is let in and gets nothing, who could be guessed, and which way in has nobody who could use it."""
    granted = {role for policy in config.policies for role in policy.roles}
    for name, settings in config.scep.items():
        for what, roles in _roles(settings):
            if not roles & granted:
                yield f"SCEP endpoint {name}: no policy has a role of its {what} ({', '.join(sorted(roles))}); see `policies`"
            elif what != RENEWAL:  # which has the profile of what it renews
                yield from _not_granted(config, name, what, roles, settings.profile)
        if Way.STATIC not in settings.challenges:
            continue
        own = [challenge for challenge in challenges if challenge.endpoint == name]
        if not own:
            yield f"SCEP endpoint {name}: nobody knows a static challenge of it; do: certwright scep challenge set --endpoint {name}"
        for challenge in own:
            yield from _of_one(challenge, settings, granted)
            if challenge.roles & granted:
                what, profile = f"static challenge {challenge.id}", challenge.profile or settings.profile
                yield from _not_granted(config, name, what, challenge.roles, profile)


def _of_one(challenge: StaticChallenge, settings: ScepSettings, granted: set[str]) -> Iterator[str]:
    what = f"SCEP endpoint {settings.name}: the static challenge {challenge.id}"
    if not challenge.roles & granted:
        yield f"{what} has no role that a policy has ({', '.join(sorted(challenge.roles))}); see `policies`"
    if challenge.chosen:
        yield f"{what} was chosen by somebody and may be guessed; certwright scep challenge set makes one that is not"
    if Cipher.DES_CBC.value in settings.legacy:
        yield (
            f"{what} can be read by whoever records a message and breaks its DES (`legacy`): give such devices an endpoint of their "
            "own, with one-time challenges"
        )


def _not_granted(config: Config, endpoint: str, what: str, roles: frozenset[str], profile: str) -> Iterator[str]:
    try:
        wanted = config.profiles.get(profile).name
    except Rejection:  # a challenge for a profile that has been taken out
        wanted = profile
    if not any(roles & policy.roles and wanted in policy.allowed_profiles for policy in config.policies):
        theirs = ", ".join(sorted(roles))
        yield f"SCEP endpoint {endpoint}: no policy grants profile {wanted} to its {what} ({theirs}); see `policies`"


def _roles(settings: ScepSettings) -> Iterator[tuple[str, frozenset[str]]]:
    if settings.renewal.roles:
        yield RENEWAL, settings.renewal.roles
    for what, service in (
        ("challenge_page", settings.challenge_page),
        ("webhook", settings.webhook),
        ("intune", settings.intune),
    ):
        if service is not None:
            yield what, service.roles
