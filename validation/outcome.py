"""What an attempt to prove control of a name came to: proved, or failed with a kind, and the evidence either way.

Law of this file: an outcome never carries what the remote side sent, neither body nor header nor reason phrase, except the
addresses of redirects in escaped form. Otherwise a validation would be a way to read what only our network can see.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from pki.clock import Micros


class FailureKind(enum.Enum):
    """Why control was not proved. Closed: a new member must find its ACME problem type in PROBLEMS."""

    DNS = "dns"  # no usable answer to the look-up
    CONNECTION = "connection"  # no TCP connection, or it broke
    TLS = "tls"
    TIMEOUT = "timeout"  # the whole attempt took too long
    REFUSED_ADDRESS = "refused-address"  # special-purpose, and the operator did not permit it
    REDIRECT = "redirect"  # to where, or more often than, we follow
    RESPONSE = "response"  # not HTTP, or larger than we read
    UNAUTHORIZED = "unauthorized"  # an answer, but not the one that proves control


PROBLEMS: Mapping[FailureKind, str] = {
    FailureKind.DNS: "dns",
    FailureKind.CONNECTION: "connection",
    FailureKind.TLS: "tls",
    FailureKind.TIMEOUT: "connection",
    FailureKind.REFUSED_ADDRESS: "connection",
    FailureKind.REDIRECT: "connection",
    FailureKind.RESPONSE: "incorrectResponse",
    FailureKind.UNAUTHORIZED: "unauthorized",
}
"""The ACME problem type of each kind, without `urn:ietf:params:acme:error:` (RFC 8555 §6.7)."""


@dataclass(frozen=True, slots=True)
class AttemptEvidence:
    """What was done, for the record of the issuance (BR 5.4.1) and for whoever must find out why it failed."""

    method: str  # "http-01", ...
    identifier: str  # the name that was looked up and asked for, as `str(Identifier)`
    resolver: str  # who answered the look-ups: "system", "127.0.0.1:8053", "" when nobody was asked
    resolved: tuple[str, ...]  # every address that the look-ups gave, in order
    tried: tuple[str, ...]  # addresses that a connection was opened to, in order
    redirects: tuple[str, ...]  # URLs that were followed, escaped
    status: int | None  # HTTP status of the last answer
    started: Micros
    finished: Micros

    def as_json(self) -> dict[str, object]:
        """Members that a JSON encoder takes as they are; times in microseconds."""
        return {
            "method": self.method,
            "identifier": self.identifier,
            "resolver": self.resolver,
            "resolved": list(self.resolved),
            "tried": list(self.tried),
            "redirects": list(self.redirects),
            "status": self.status,
            "started": self.started,
            "finished": self.finished,
        }


@dataclass(frozen=True, slots=True)
class Proved:
    evidence: AttemptEvidence


@dataclass(frozen=True, slots=True)
class Failed:
    """`detail` is one sentence for the client: what happened, to which name."""

    kind: FailureKind
    detail: str
    evidence: AttemptEvidence

    @property
    def problem(self) -> str:
        return PROBLEMS[self.kind]


Outcome = Proved | Failed
