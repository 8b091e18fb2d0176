"""Names that a certificate can be for: parsed once, canonical ever after.

A `DnsName` is A-labels in lower case without a trailing dot. What is not a name that we would put into a certificate raises
`Rejection(REJECTED_IDENTIFIER)`, with the name and the rule that it breaks in the detail.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

import idna

from pki.onion import is_onion, onion_key
from pki.reasons import Reason, Rejection

MAX_NAME = 253  # octets, RFC 1035 §2.3.4 without the root's
MAX_LABEL = 63

# LDH labels only: no underscore (BR 7.1.4.2.1), no hyphen at either end (RFC 5890 §2.3.1).
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True, order=True)
class DnsName:
    """`name` never holds the "*." of a wildcard; `str()` does."""

    name: str
    wildcard: bool = False

    def __str__(self) -> str:
        return f"*.{self.name}" if self.wildcard else self.name

    @property
    def tag(self) -> str:
        return f"dns:{self}"

    @property
    def base(self) -> DnsName:
        """The name whose control is proved for it (RFC 8555 §7.1.3: a wildcard's is the name below the star)."""
        return DnsName(self.name) if self.wildcard else self


@dataclass(frozen=True, slots=True)
class IpAddress:
    address: ipaddress.IPv4Address | ipaddress.IPv6Address

    def __str__(self) -> str:
        return str(self.address)

    @property
    def tag(self) -> str:
        return f"ip:{self}"

    @property
    def base(self) -> IpAddress:
        return self


Identifier = DnsName | IpAddress


def shown(text: str) -> str:
    """A client's text for an error message or a log: printable ASCII, escaped and cut."""
    return ascii(text if len(text) <= 100 else text[:100] + "...")


def _refused(text: str, why: str) -> Rejection:
    return Rejection(Reason.REJECTED_IDENTIFIER, f"{shown(text)} is no name for a certificate: {why}")


def parse_dns(text: str) -> DnsName:
    """A DNS name as users write it: any case, U-labels or A-labels, perhaps "*." in front.

    Raises Rejection(REJECTED_IDENTIFIER).
    """
    wildcard = text.startswith("*.")
    rest = text[2:] if wildcard else text
    ascii_name = rest.lower() if rest.isascii() else _to_ascii(text, rest)
    if not ascii_name:
        raise _refused(text, "it is empty")
    if ascii_name.endswith("."):
        raise _refused(text, "leave out the dot at its end")
    if len(ascii_name) > MAX_NAME - (2 if wildcard else 0):
        raise _refused(text, f"it is longer than {MAX_NAME} octets")
    labels = ascii_name.split(".")
    for label in labels:
        _check_label(text, label)
    if labels[-1].isdigit() or (labels[-1].startswith("0x") and _is_hex(labels[-1][2:])):
        # WHATWG URL "ends in a number": resolvers read 127.1, 2130706433 and 0x7f.1 as addresses.
        raise _refused(text, "it looks like an IP address; ask for it as type ip")
    if is_onion(ascii_name):
        try:
            onion_key(ascii_name)
        except ValueError as error:
            raise _refused(text, str(error)) from error
    return DnsName(ascii_name, wildcard)


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdef" for character in text)


def _to_ascii(text: str, rest: str) -> str:
    try:
        return idna.encode(rest, uts46=True, std3_rules=True).decode("ascii")
    except (idna.IDNAError, UnicodeError) as error:
        raise _refused(text, "it is not a valid internationalised name (IDNA 2008)") from error


def _check_label(text: str, label: str) -> None:
    if not label:
        raise _refused(text, "it has an empty label")
    if len(label) > MAX_LABEL:
        raise _refused(text, f"a label is longer than {MAX_LABEL} characters")
    if label == "*":
        raise _refused(text, 'a wildcard is one "*." at the very front')
    if not _LABEL.fullmatch(label):
        raise _refused(text, "labels hold letters, digits and inner hyphens only")
    if label[2:4] == "--":
        _check_reserved_label(text, label)


def _check_reserved_label(text: str, label: str) -> None:
    """R-LDH labels: only valid A-labels (RFC 5890 §2.3.2.1), so that one name has one spelling."""
    if not label.startswith("xn--"):
        raise _refused(text, 'labels with "--" in third place are reserved')
    try:
        idna.ulabel(label)
    except (idna.IDNAError, UnicodeError) as error:
        raise _refused(text, f"{label} is not a valid A-label (IDNA 2008)") from error


def parse_ip(text: str) -> IpAddress:
    """RFC 8738 §3: dotted decimal, or RFC 5952 text of IPv6. No zone, no mask, no brackets.

    Raises Rejection(REJECTED_IDENTIFIER).
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise _refused(text, "it is not an IP address") from error
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise _refused(text, "an address with a zone is nobody's to certify")
    return IpAddress(address)


def parse_identifier(text: str) -> Identifier:
    """`dns:NAME`, `ip:ADDRESS`, or either without saying which. Raises Rejection(REJECTED_IDENTIFIER)."""
    kind, _, rest = text.partition(":")
    match kind.lower():
        case "dns":
            return parse_dns(rest)
        case "ip":
            return parse_ip(rest)
        case _:
            return parse_ip(text) if is_address(text) else parse_dns(text)


def is_address(text: str) -> bool:
    """Does it read as an IP address, and not as a name?"""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
