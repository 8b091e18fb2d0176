"""What an attempt to prove control of a name came to: proved, or failed with a kind, and the evidence either way.

Law of this file: an outcome never carries what the remote side sent, neither body nor header nor reason phrase, except the
addresses of redirects in escaped form. Otherwise a validation would be a way to read what only our network can see.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

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
    PERSPECTIVES = "perspectives"  # proved from here, but not from enough other places (BR 3.2.2.9)


PROBLEMS: Mapping[FailureKind, str] = {
    FailureKind.DNS: "dns",
    FailureKind.CONNECTION: "connection",
    FailureKind.TLS: "tls",
    FailureKind.TIMEOUT: "connection",
    FailureKind.REFUSED_ADDRESS: "connection",
    FailureKind.REDIRECT: "connection",
    FailureKind.RESPONSE: "incorrectResponse",
    FailureKind.UNAUTHORIZED: "unauthorized",
    FailureKind.PERSPECTIVES: "unauthorized",
}
"""The ACME problem type of each kind, without `urn:ietf:params:acme:error:` (RFC 8555 §6.7)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one remote perspective saw (BR 3.2.2.9)."""

    perspective: str
    agrees: bool
    detail: str  # of a perspective that does not, escaped and cut; for the record, never for a client; "" else
    kind: str = ""  # why not, a FailureKind's value; "" when it agrees or did not answer
    tried: tuple[str, ...] = ()  # addresses that it opened a connection to

    def as_json(self) -> dict[str, object]:
        return {
            "perspective": self.perspective,
            "agrees": self.agrees,
            "kind": self.kind,
            "detail": self.detail,
            "tried": list(self.tried),
        }


@dataclass(frozen=True, slots=True)
class AttemptEvidence:
    """What was done, for the record of the issuance (BR 5.4.1) and for whoever must find out why it failed."""

    method: str  # "http-01", ...
    identifier: str  # the name that was looked up and asked for, as `str(Identifier)`
    resolver: str = ""  # who answered the look-ups: "system", "127.0.0.1:8053", "" when nobody was asked
    resolved: tuple[str, ...] = ()  # every address that the look-ups gave, in order
    tried: tuple[str, ...] = ()  # addresses that a connection was opened to, in order
    redirects: tuple[str, ...] = ()  # URLs that were followed, escaped
    status: int | None = None  # HTTP status of the last answer
    records: tuple[str, ...] = ()  # DNS records that were looked at, escaped and cut; for the record, never for a client
    secure: bool | None = None  # whether the resolver says that DNSSEC proved its answers (AD, RFC 4035 §3.2.3)
    attempts: int = 1  # tries of ours that this one ends (RFC 8555 §8.2)
    earlier: tuple[Failed, ...] = ()  # the tries before this one, the first one first
    perspectives: tuple[Verdict, ...] = ()  # what remote perspectives saw; empty where none is configured
    started: Micros = field(kw_only=True)
    finished: Micros = field(kw_only=True)

    def as_json(self) -> dict[str, object]:
        """Members that a JSON encoder takes as they are; times in microseconds."""
        content: dict[str, object] = {
            "method": self.method,
            "identifier": self.identifier,
            "resolver": self.resolver,
            "resolved": list(self.resolved),
            "tried": list(self.tried),
            "redirects": list(self.redirects),
            "status": self.status,
            "records": list(self.records),
            "secure": self.secure,
            "attempts": self.attempts,
            "perspectives": [verdict.as_json() for verdict in self.perspectives],
            "started": self.started,
            "finished": self.finished,
        }
        if self.earlier:
            content["earlier"] = [{"failed": each.kind.value, **each.evidence.as_json()} for each in self.earlier]
        return content


@dataclass(frozen=True, slots=True)
class Proved:
    """`until`: what was shown is not to be relied on after that; None leaves it to the CA."""

    evidence: AttemptEvidence
    until: Micros | None = None


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
