"""The identifiers of an order: as sent, as canonical, and how control of each may be proved here. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never

from acmeserver.endpoint import AcmeEndpoint
from acmeserver.problems import PROBLEMS, Problem, ProblemType, WireIdentifier, WireSubProblem, wire_identifier
from issuance.evidence import DNS_METHODS, family, is_below
from pki.identifiers import DnsName, Identifier, IpAddress, parse_dns, parse_ip, shown
from pki.onion import is_onion
from pki.reasons import Reason, Rejection
from policy.profiles import Profile

PublicSuffix = Callable[[DnsName], bool]
Owns = Callable[[Identifier], bool]
ONION = "onion-csr-01"


@dataclass(frozen=True, slots=True)
class Name:
    """One identifier of an order."""

    wire: WireIdentifier
    identifier: Identifier
    challenges: tuple[str, ...]  # that fit it, in the endpoint's order
    ancestor: DnsName | None = None  # whose control is to be proved instead (RFC 9444)
    owned: bool = False  # by the account's external key: nothing is to be proved, and no challenge is offered

    @property
    def proved(self) -> Identifier:
        """What the authorization is for: never with the wildcard label (RFC 8555 §7.1.3)."""
        return self.ancestor or self.identifier.base

    @property
    def wildcard(self) -> bool:
        """Whether the authorization is one for a wildcard. An ancestor's is for all names below it anyway."""
        return self.ancestor is None and isinstance(self.identifier, DnsName) and self.identifier.wildcard


def parse_names(
    wire: Sequence[WireIdentifier],
    ancestors: Sequence[str | None],
    *,
    endpoint: AcmeEndpoint,
    is_public_suffix: PublicSuffix,
    owns: Owns,
) -> tuple[Name, ...]:
    """All identifiers of an order, each once, or one Problem that has a share for every bad one (RFC 8555 §6.7.1)."""
    names: dict[Identifier, Name] = {}
    bad: list[WireSubProblem] = []
    for each, above in zip(wire, ancestors, strict=True):
        try:
            identifier = offered(each, endpoint)
            if owns(identifier):
                name = Name(each, identifier, (), owned=True)
            else:
                ancestor = _ancestor(identifier, above, is_public_suffix) if above is not None and endpoint.subdomains else None
                name = Name(each, identifier, challenges_for(identifier, endpoint.challenges, ancestor=ancestor), ancestor)
            names.setdefault(name.identifier, name)
        except Rejection as rejection:
            bad.append(WireSubProblem(PROBLEMS[rejection.reason][0], rejection.detail, each))
    _refuse(bad)
    return tuple(names.values())


def check_subdomains(identifier: Identifier, is_public_suffix: PublicSuffix) -> DnsName:
    """An identifier that is to count for the names below it, too (RFC 9444). Raises Rejection.

    Never above a registrable domain: nobody who is asked to prove `co.uk` should be believed (RFC 9444 §6.2).
    """
    if not isinstance(identifier, DnsName) or identifier.wildcard:
        raise Rejection(Reason.REJECTED_IDENTIFIER, f"{identifier}: only a DNS name without a star has subdomains to authorize")
    if is_public_suffix(identifier):
        raise Rejection(
            Reason.REJECTED_IDENTIFIER,
            f"{identifier} is a public suffix: the names below it belong to many; use a name below it as the ancestor",
        )
    return identifier


def slots(names: Iterable[Name], profile: Profile) -> dict[Name, tuple[tuple[str, ...], ...]]:
    """The authorizations of each name, as the challenges that each one offers: one for everything that fits, or, where the
    profile wants several methods, as many with different families each, so that any client can do them one after the other.

    Raises Problem with a share for each name that has too few families.
    """
    found: dict[Name, tuple[tuple[str, ...], ...]] = {}
    bad: list[WireSubProblem] = []
    wanted = profile.methods_required
    for name in names:
        if name.owned:
            found[name] = ((),)
            continue
        families = tuple(dict.fromkeys(map(family, name.challenges)))
        if len(families) < wanted:
            detail = (
                f"{name.wire.value}: profile {profile.name} wants {wanted} different methods, and only "
                f"{', '.join(name.challenges)} can prove it here"
            )
            bad.append(WireSubProblem(ProblemType.REJECTED_IDENTIFIER, detail, name.wire))
            continue
        parts = [set(families[index::wanted]) for index in range(wanted)]
        found[name] = tuple(tuple(kind for kind in name.challenges if family(kind) in part) for part in parts)
    _refuse(bad)
    return found


def parse_identifier(wire: WireIdentifier) -> Identifier:
    """Raises Rejection."""
    match wire.type:
        case "dns":
            return parse_dns(wire.value)
        case "ip":
            return parse_ip(wire.value)
        case _:
            detail = f"identifiers of type {shown(wire.type)} are not issued here; use dns or ip"
            raise Rejection(Reason.UNSUPPORTED_IDENTIFIER, detail)


def offered(wire: WireIdentifier, endpoint: AcmeEndpoint) -> Identifier:
    """Parsed, and of a type that the endpoint issues for. Raises Rejection."""
    identifier = parse_identifier(wire)
    if wire.type not in endpoint.identifiers:
        detail = f"identifiers of type {wire.type} are not issued at this endpoint; use {' or '.join(endpoint.identifiers)}"
        raise Rejection(Reason.UNSUPPORTED_IDENTIFIER, detail)
    return identifier


def _ancestor(identifier: Identifier, text: str, is_public_suffix: PublicSuffix) -> DnsName | None:
    """None for the identifier itself: that is no ancestor, and nothing is asked for."""
    ancestor = check_subdomains(parse_dns(text), is_public_suffix)
    if identifier == ancestor:
        return None
    if not is_below(identifier, ancestor) and identifier.base != ancestor:
        raise Rejection(Reason.REJECTED_IDENTIFIER, f"{ancestor} is no ancestor of {identifier}")
    return ancestor


def challenges_for(identifier: Identifier, kinds: Sequence[str], *, ancestor: DnsName | None = None) -> tuple[str, ...]:
    """A wildcard and an ancestor are proved in the DNS only (RFC 8555 §7.4.1, CA/B), an address never there (RFC 8738 §7), and
    an onion, which no DNS has, by its own key: to connect to it would take Tor (RFC 9799 §3). Raises Rejection where nothing fits.
    """
    below = ancestor is not None or (isinstance(identifier, DnsName) and identifier.wildcard)
    match identifier:
        case DnsName() if is_onion(identifier.name):
            fit, needs = {ONION}, f"an onion name needs the challenge {ONION}"
            if ancestor is not None:  # RFC 9444 §4 is for names in the DNS
                fit, needs = set(), f"an onion name has no ancestor: its own authorization needs {ONION}"
        case DnsName() if below:
            fit, needs = set(DNS_METHODS), "a wildcard needs the challenge dns-01"
            if ancestor is not None:
                needs = "an ancestor domain needs the challenge dns-01"
        case DnsName():
            fit, needs = set(kinds) - {ONION}, f"a name outside .onion is not proved by {ONION}"
        case IpAddress():
            fit, needs = {"http-01", "tls-alpn-01"}, "an IP address needs the challenge http-01 or tls-alpn-01"
        case _:
            assert_never(identifier)
    found = tuple(kind for kind in kinds if kind in fit)
    if not found:
        detail = f"{wire_identifier(identifier).value}: {needs}, and this endpoint offers only {', '.join(kinds)}"
        raise Rejection(Reason.REJECTED_IDENTIFIER, detail)
    return found


def _refuse(bad: Sequence[WireSubProblem]) -> None:
    if not bad:
        return
    kinds = {part.type for part in bad}
    kind = kinds.pop() if len(kinds) == 1 else ProblemType.COMPOUND
    detail = bad[0].detail if len(bad) == 1 else f"{len(bad)} identifiers are refused; see the subproblems"
    raise Problem(kind, detail, sub=tuple(bad))
