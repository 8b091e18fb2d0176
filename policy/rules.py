"""Who may have what: the rules of the YAML's `policies`, in the spelling of its keys. Nothing is allowed that no rule allows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from policy.names import NamePattern, parse_pattern


@dataclass(frozen=True, slots=True)
class Policy:
    """One rule. It applies as a whole: roles, profile, names and validity must all fit the same rule.

    Raises ValueError for a pattern that is none.
    """

    name: str
    roles: frozenset[str]
    allowed_profiles: frozenset[str]  # canonical names
    allowed_sans: tuple[str, ...] = ()
    allowed_common_names: tuple[str, ...] = ()
    max_validity: timedelta | None = None
    require_approval: bool = False
    patterns: tuple[NamePattern, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "patterns", tuple(parse_pattern(text) for text in self.allowed_sans))
