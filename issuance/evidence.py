"""Step 3: does the evidence cover every name? Pure.

Law of this file: evidence counts for a name only by a rule that is written here, and a name for which none counts is refused.
The relation between what was proved and what is wanted is worked out from the two names, never taken from the front end.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import assert_never

from issuance.plan import Names
from issuance.request import (
    ApiKey,
    BasicPassword,
    BearerToken,
    ChallengeEvidence,
    DelegatedChallenge,
    DigestPassword,
    HeldCertificate,
    IssuanceRequest,
    OneTimeChallenge,
    PolicyOwnership,
    ScepChallenge,
    SharedSecret,
)
from pki.clock import Micros
from pki.identifiers import DnsName, Identifier
from pki.reasons import Reason, Rejection, SubProblem
from policy.principal import PrincipalKind
from policy.profiles import Profile

DNS_METHODS = frozenset({"dns-01", "dns-account-01", "dns-persist-01"})
# RFC 8555 §7.1.3, BR 3.2.2.4.19: HTTP proves nothing about the names below. An onion's key is in its name (RFC 9799 §3.2).
# That a record of dns-persist-01 says policy=wildcard is the method's to see to, which is why it was told of the wildcard.
WILDCARD_METHODS = DNS_METHODS | {"onion-csr-01"}


def family(method: str) -> str:
    """Methods that fall to one attack are one family: two records in one zone are not two proofs."""
    return "dns" if method.startswith("dns-") else method


def is_below(name: Identifier, ancestor: Identifier) -> bool:
    """Is `name` a subdomain of `ancestor` (RFC 9444 §2), one label deeper at least?"""
    if not isinstance(name, DnsName) or not isinstance(ancestor, DnsName) or ancestor.wildcard:
        return False
    return name.name.endswith(f".{ancestor.name}")


def counts(proof: ChallengeEvidence, name: Identifier, profile: Profile, now: Micros) -> bool:
    """Does this proof stand for this name, under this profile, now?"""
    oldest = now - profile.evidence_max_age // timedelta(microseconds=1)
    if not oldest <= proof.validated_at <= now or proof.perspectives < profile.perspectives_required:
        return False
    wildcard = isinstance(name, DnsName) and name.wildcard
    if wildcard and proof.method not in WILDCARD_METHODS:
        return False
    if proof.subdomains:  # of the ancestor itself, too, and of the star right below it
        return proof.method in DNS_METHODS and (proof.identifier == name.base or is_below(name, proof.identifier))
    return proof.identifier == name.base and proof.wildcard == wildcard


def check_evidence(
    request: IssuanceRequest, names: Names, profile: Profile, *, owned: Collection[Identifier], now: Micros
) -> None:
    """An ACME account proves each name, or owns it by its external account key (`owned`, as just looked up). For the others
    the policy that allowed the request owns the names, and the evidence is that they are who they say.

    Raises Rejection(NOT_VALIDATED).
    """
    proofs: list[ChallengeEvidence] = []
    claimed: set[Identifier] = set()
    authenticated = False
    for evidence in request.evidence:
        match evidence:
            case ChallengeEvidence():
                proofs.append(evidence)
            case PolicyOwnership():
                claimed.add(evidence.identifier)
            case BasicPassword() | DigestPassword():
                authenticated |= request.principal.kind is PrincipalKind.EST_USER
            case BearerToken():
                authenticated |= request.principal.kind is PrincipalKind.EST_TOKEN
            case SharedSecret():
                authenticated |= request.principal.kind is PrincipalKind.CMC_CLIENT
            case HeldCertificate():
                authenticated |= request.principal.kind is PrincipalKind.TLS_CLIENT
            case ScepChallenge() | OneTimeChallenge() | DelegatedChallenge():
                authenticated |= request.principal.kind is PrincipalKind.SCEP_CLIENT
            case ApiKey():
                authenticated |= request.principal.kind is PrincipalKind.API_KEY
            case _:
                assert_never(evidence)
    if authenticated and request.principal.kind is not PrincipalKind.ACME_ACCOUNT:
        return
    pre_approved = claimed & set(owned) if may_be_pre_approved(profile) else frozenset()
    missing = [name for name in names.identifiers if name not in pre_approved and not _proved(name, proofs, profile, now)]
    if missing or names.device is not None:
        texts = [str(name) for name in missing] or [str(names.device)]
        raise Rejection(
            Reason.NOT_VALIDATED,
            f"control is not proved, or not recently enough, for {', '.join(texts)}{_how_often(profile)}",
            sub=[SubProblem(text, Reason.NOT_VALIDATED, f"no fresh proof of control{_how_often(profile)}") for text in texts],
        )


def may_be_pre_approved(profile: Profile) -> bool:
    """A profile that asks for more than one look at a name is not content with none."""
    return profile.methods_required == 1 and profile.perspectives_required == 0


def _proved(name: Identifier, proofs: Collection[ChallengeEvidence], profile: Profile, now: Micros) -> bool:
    return len({family(proof.method) for proof in proofs if counts(proof, name, profile, now)}) >= profile.methods_required


def _how_often(profile: Profile) -> str:
    wanted = []
    if profile.methods_required > 1:
        wanted.append(f"by {profile.methods_required} different methods")
    if profile.perspectives_required:
        wanted.append(f"from {profile.perspectives_required} perspectives")
    return f" ({' and '.join(wanted)})" if wanted else ""
