"""The decision: RBAC over profiles, names and validity. Pure, total, and deny unless a rule allows.

Every front end's request meets this one function, from the pipeline's step 2; ACME asks it once more when an order is made,
so that nobody proves control of a name that would be refused in the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pki.identifiers import Identifier
from pki.reasons import Reason, Rejection, SubProblem
from policy.names import granted, text_matches
from policy.principal import Principal
from policy.profiles import Profile
from policy.rules import Policy


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for, as far as policy looks at it. `validity` None is the profile's own."""

    profile: Profile
    identifiers: tuple[Identifier, ...]
    common_name: str | None  # only what is not one of the identifiers
    validity: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Allow:
    policy: str


@dataclass(frozen=True, slots=True)
class NeedsApproval:
    policy: str
    stages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Deny:
    rejection: Rejection


Decision = Allow | NeedsApproval | Deny


def decide(policies: Sequence[Policy], principal: Principal, wanted: Wanted) -> Decision:
    """The first rule that allows all of it wins, one without approval before one with. Else the nearest miss is explained."""
    for_role = [policy for policy in policies if policy.roles & principal.roles]
    for_profile = [policy for policy in for_role if wanted.profile.name in policy.allowed_profiles]
    for_names = [policy for policy in for_profile if not _names_not_granted([policy], wanted)]
    fitting = [policy for policy in for_names if _fits(policy, wanted)]
    for policy in sorted(fitting, key=lambda policy: policy.require_approval):
        if policy.require_approval:
            return NeedsApproval(policy.name, ("approver",))
        return Allow(policy.name)
    return Deny(_explain(principal, wanted, for_role, for_profile, for_names))


def _fits(policy: Policy, wanted: Wanted) -> bool:
    validity = wanted.profile.validity if wanted.validity is None else wanted.validity
    return policy.max_validity is None or validity <= policy.max_validity


def _names_not_granted(policies: Iterable[Policy], wanted: Wanted) -> list[str]:
    """The names that none of the policies grants, in the order asked."""
    policies = list(policies)
    patterns = [pattern for policy in policies for pattern in policy.patterns]
    missing = [str(identifier) for identifier in wanted.identifiers if not granted(identifier, patterns)]
    if wanted.common_name is not None:
        texts = [text for policy in policies for text in policy.allowed_common_names]
        if not text_matches(wanted.common_name, texts):
            missing.append(wanted.common_name)
    return missing


def _explain(
    principal: Principal, wanted: Wanted, for_role: list[Policy], for_profile: list[Policy], for_names: list[Policy]
) -> Rejection:
    profile = wanted.profile.name
    if not for_role:
        roles = ", ".join(sorted(principal.roles)) or "none"
        return Rejection(Reason.FORBIDDEN, f"no policy grants anything to {principal.kind.value} with roles: {roles}")
    if not for_profile:
        allowed = sorted({name for policy in for_role for name in policy.allowed_profiles})
        return Rejection(
            Reason.FORBIDDEN,
            f"no policy grants profile {profile} to this {principal.kind.value}",
            suggestions=[f"profiles it may use: {', '.join(allowed) or 'none'}"],
        )
    if not for_names:
        return _names_refused(_names_not_granted(for_profile, wanted) or [str(name) for name in wanted.identifiers], profile)
    longest = max(policy.max_validity for policy in for_names if policy.max_validity is not None)
    return Rejection(
        Reason.INVALID_VALIDITY,
        f"profile {profile} may be valid for at most {longest.total_seconds() / 86400:g} days for this {principal.kind.value}",
        suggestions=["ask for a shorter validity"],
    )


def _names_refused(names: list[str], profile: str) -> Rejection:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return Rejection(
        Reason.REJECTED_IDENTIFIER,
        f"policy does not grant {shown} in one certificate of profile {profile}",
        sub=[SubProblem(name, Reason.REJECTED_IDENTIFIER, "policy does not grant this name") for name in names],
        suggestions=["ask only for names that your policy grants (allowed_sans, allowed_common_names)"],
    )
