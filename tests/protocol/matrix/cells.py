"""What a cell of the matrix can be, and rows of cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from cryptography import x509

from tests.helpers.front_doors import Door
from tests.helpers.wanted import (
    Wanted,
)
from tests.helpers.wire import Reply
from tests.protocol.matrix.site import Site

Attempt: TypeAlias = Callable[[Site, Door], Reply]
Judge: TypeAlias = Callable[[x509.Certificate], None]


@dataclass(frozen=True, slots=True)
class Refused:
    attempt: Attempt
    because: str  # a pattern that the error's text matches


@dataclass(frozen=True, slots=True)
class Granted:
    wanted: Wanted
    judge: Judge


@dataclass(frozen=True, slots=True)
class Impossible:
    because: str


@dataclass(frozen=True, slots=True)
class Waits:
    """For a person to agree: not refused, and nothing is made."""

    attempt: Attempt


Cell = Refused | Waits | Granted | Impossible
Row = Mapping[Door, Cell]

EST, REST_JSON, REST_PEM, ACME = Door.EST, Door.REST_JSON, Door.REST_PEM, Door.ACME
SCEP = (Door.SCEP_POST, Door.SCEP_GET)
REST = (Door.REST_JSON, Door.REST_PEM)
ACME_ONLY = "only ACME has accounts, orders and authorizations"
IN_ORDER = "a name in an ACME request stands in the order as text, where this cannot be written or means something else"


def everywhere(attempt: Attempt, because: str, **other: Cell) -> Row:
    """The same at every door, but for `acme`, `est` (also where it makes the key: `keygen`, renews: `renewal`, or speaks CMC: `cmc`), `scep` (all
    four; `scep_get`, `scep_once`, `scep_renewal`) and `rest` (both), `rest_json`, `rest_pem`.
    """
    return {door: _other(door, other) or Refused(attempt, because) for door in Door}


def _other(door: Door, given: Mapping[str, Cell]) -> Cell | None:
    keys = {
        Door.ACME: ("acme",),
        Door.EST: ("est",),
        Door.EST_KEYGEN: ("keygen", "est"),
        Door.EST_RENEWAL: ("renewal", "est"),
        Door.EST_CMC: ("cmc", "est"),
        Door.SCEP_POST: ("scep",),
        Door.SCEP_GET: ("scep_get", "scep"),
        Door.SCEP_ONCE: ("scep_once", "scep"),
        Door.SCEP_RENEWAL: ("scep_renewal", "scep"),
        Door.REST_JSON: ("rest_json", "rest"),
        Door.REST_PEM: ("rest_pem", "rest"),
    }
    return next((given[key] for key in keys[door] if key in given), None)


def asking(wanted: Wanted, because: str, **other: Cell) -> Row:
    return everywhere(lambda site, door: site.doors.ask(door, wanted), because, **other)


def acme_only(attempt: Callable[[Site], Reply], because: str) -> Row:
    cell = Refused(lambda site, _: attempt(site), because)
    return {door: cell if door is Door.ACME else Impossible(ACME_ONLY) for door in Door}


def ordering(*names: str, because: str, **members: object) -> Refused:
    """An ACME order that is refused as it is made."""

    def attempt(site: Site, _: Door) -> Reply:
        reply = site.account.order(*names, **members)
        assert reply.status >= 400, reply.body
        return reply

    return Refused(attempt, because)


def finalize_with(site: Site, wanted: Wanted) -> Reply:
    """At the end of an ACME order for `host.example.test`."""
    return site.account.finalize(site.account.ready("host.example.test"), wanted.csr())
