"""How an attempt reaches a host: one look-up, at most two addresses, one connection; and what is known of it so far.

Law of this file: the address that is connected to came out of the one look-up of this hop and was judged by `Egress`. IPv6
comes first; IPv4 is tried once, only when IPv6 gave no connection: a wrong answer never buys a second try elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence

from pki.clock import Clock
from pki.identifiers import DnsName, Identifier, IpAddress
from validation.challenge import Challenge
from validation.egress import Egress, IpAddr, Refused
from validation.outcome import AttemptEvidence, Failed, FailureKind, Outcome, Proved
from validation.resolver import LookupFailed, Resolver


class Failure(Exception):
    """Ends an attempt; never leaves this package. The text is ours, not the other side's."""

    def __init__(self, kind: FailureKind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


class Reach:
    """One attempt's way out. `doing` and `late` say what a deadline that passes now interrupts, and as which kind of failure."""

    def __init__(self, resolver: Resolver, egress: Egress, deadline: float) -> None:
        self._resolver = resolver
        self._egress = egress
        self._ends = asyncio.get_running_loop().time() + deadline
        self.doing = "the start"
        self.late = FailureKind.TIMEOUT
        self.asked = ""
        self.secure: bool | None = None  # whether DNSSEC proved every look-up of a name
        self.resolved: list[IpAddr] = []
        self.tried: list[IpAddr] = []
        self.redirects: list[str] = []
        self.status: int | None = None

    async def connect(self, host: Identifier, port: int) -> socket.socket:
        """A connection to the host, the caller's to close. Raises Failure."""
        return await self._dial(port, await self._addresses(host))

    def wait_for(self, what: str) -> None:
        """From now on a passing deadline is `what`'s fault."""
        self.late, self.doing = FailureKind.TIMEOUT, what

    async def _addresses(self, host: Identifier) -> Sequence[IpAddr]:
        """At most one of each family, IPv6 first, only such as we may connect to."""
        match host:
            case IpAddress(address):
                found: list[IpAddr] = [address]
            case DnsName(name):
                self.late, self.doing = FailureKind.DNS, f"the DNS look-up for {name}"
                try:
                    answer = await self._resolver.addresses(name)
                except LookupFailed as error:
                    self.asked, self.secure = error.resolver, False
                    raise Failure(FailureKind.DNS, str(error)) from error
                self.asked = answer.resolver
                if answer.secure is not None:
                    self.secure = answer.secure and self.secure is not False
                found = [*answer.v6, *answer.v4]
        self.resolved += found
        permitted = [address for address in found if self._egress.refusal(address) is None]
        if not permitted:
            raise Failure(FailureKind.REFUSED_ADDRESS, _no_address(host, [self._egress.refusal(address) for address in found]))
        first = permitted[0]
        other = next((address for address in permitted if address.version == 4), first)
        return (first,) if other is first else (first, other)

    async def _dial(self, port: int, addresses: Sequence[IpAddr]) -> socket.socket:
        """A dead IPv6 address leaves IPv4 half of the time left."""
        *preferred, last = addresses
        for address in preferred:
            try:
                async with asyncio.timeout((self._ends - asyncio.get_running_loop().time()) / 2):
                    return await self._connect(address, port)
            except (OSError, Refused):  # OSError includes TimeoutError
                continue
        try:
            return await self._connect(last, port)
        except Refused as error:  # cannot be, for _addresses judged it by the same rules
            raise Failure(FailureKind.REFUSED_ADDRESS, str(error)) from error
        except OSError as error:
            tried = " and ".join(map(str, addresses))
            raise Failure(
                FailureKind.CONNECTION, f"no connection to {tried}, port {port}: {os.strerror(error.errno or 0)}"
            ) from error

    async def _connect(self, address: IpAddr, port: int) -> socket.socket:
        self.wait_for(f"the connection to {address}, port {port},")
        self.tried.append(address)
        return await self._egress.connect(address, port)


async def attempt(
    method: str, challenge: Challenge, reach: Reach, proof: Callable[[], Awaitable[None]], *, clock: Clock, deadline: float
) -> Outcome:
    """Runs `proof`, which returns when control is proved and raises Failure else; the deadline holds whatever it does."""
    started = clock.micros()
    failure: Failure | None = None
    try:
        async with asyncio.timeout(deadline):
            await proof()
    except TimeoutError:
        failure = Failure(reach.late, f"{reach.doing} took too long; the whole attempt has {deadline:g} s")
    except Failure as raised:
        failure = raised
    evidence = AttemptEvidence(
        method=method,
        identifier=str(challenge.identifier),
        resolver=reach.asked,
        resolved=tuple(map(str, reach.resolved)),
        tried=tuple(map(str, reach.tried)),
        redirects=tuple(reach.redirects),
        status=reach.status,
        secure=reach.secure,
        started=started,
        finished=clock.micros(),
    )
    if failure is None:
        return Proved(evidence)
    return Failed(failure.kind, f"{method} for {challenge.identifier}: {failure.detail}", evidence)


def _no_address(host: Identifier, reasons: Sequence[str | None]) -> str:
    why = "; ".join(reason for reason in reasons[:3] if reason)
    return (
        f"{host} has no address that may be validated: {why}. The CA's operator can permit networks (validation.allow_networks)"
    )
