"""External account binding (RFC 8555 §7.3.4): what a key gives to the accounts that are bound to it.

Law of this file: an account is bound when it is made, and never again. What the key grants is read from the key's own row each
time that it matters, so a revoked key ends at once and on every node what it gave.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson

from acmeserver.problems import unauthorized
from pki.identifiers import Identifier
from policy.names import NamePattern, granted, parse_pattern
from storage.database import Row

# What `binding_from` reads, and where it comes from: `a` is the account of the look-up, `e` the key that it is bound to.
BINDING_COLUMNS = (
    "a.external_kid, e.kid AS e_kid, e.roles AS e_roles, e.names AS e_names, e.profiles AS e_profiles, "
    "e.revoked_at AS e_revoked_at"
)
BINDING_JOIN = "LEFT JOIN acme_external_key e ON e.kid = a.external_kid AND e.endpoint = a.endpoint"


@dataclass(frozen=True, slots=True)
class Binding:
    """What an account has of the external key that it is bound to."""

    kid: str
    roles: frozenset[str]  # in place of the endpoint's; empty: the endpoint's
    names: tuple[str, ...]  # patterns (policy.names): the account owns these names, and may not ask for others
    profiles: tuple[str, ...]  # the only ones that it may use; empty: all of the endpoint's
    _patterns: tuple[NamePattern, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_patterns", tuple(map(parse_pattern, self.names)))

    def owns(self, identifier: Identifier) -> bool:
        """Whether an operator has said that this name is the account's. A key without patterns owns nothing."""
        return granted(identifier, self._patterns)

    def permits(self, identifier: Identifier) -> bool:
        """Whether the account may ask for this name at all."""
        return not self._patterns or self.owns(identifier)


def binding_from(row: Row) -> Binding | None:
    """From the BINDING_COLUMNS of a look-up; None for an account that is bound to nobody.

    Raises Problem(unauthorized) when the key was revoked since.
    """
    if not row["external_kid"]:
        return None
    if row["e_kid"] is None or row["e_revoked_at"] is not None:
        raise unauthorized("the external account key that this account is bound to was revoked; ask an operator for another")
    return Binding(
        kid=row["external_kid"],
        roles=frozenset(orjson.loads(row["e_roles"])),
        names=tuple(orjson.loads(row["e_names"])),
        profiles=tuple(orjson.loads(row["e_profiles"])),
    )
