"""Who asks. Made by a front end from something that it has verified; the pipeline takes nobody's word for it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class PrincipalKind(enum.Enum):
    """How they proved who they are. Closed."""

    ACME_ACCOUNT = "acme-account"
    EST_USER = "est-user"  # HTTP Basic or Digest
    EST_TOKEN = "est-token"  # noqa: S105  # a bearer token of one label
    TLS_CLIENT = "tls-client"  # a client certificate, by TLS or by a CMS signature
    CMC_CLIENT = "cmc-client"  # a shared secret (RFC 5272 identityProofV2)
    SCEP_CLIENT = "scep-client"  # a challenge password
    SCEP_USER = "scep-user"  # of a challenge page; gets challenges, never certificates
    API_KEY = "api-key"
    OPERATOR = "operator"  # the command line on the server itself
    SYSTEM = "system"  # the server: sweeper, schedules


@dataclass(frozen=True, slots=True)
class Principal:
    kind: PrincipalKind
    id: str  # stable and unique within its kind; no secret
    roles: frozenset[str]
    attributes: tuple[tuple[str, str], ...] = field(default=())
    source_address: str = ""  # as the listener saw it

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.id}"


COMMAND_LINE = Principal(PrincipalKind.OPERATOR, "command-line", frozenset({"operator"}))
"""Whoever may read the server's files and write its database."""
