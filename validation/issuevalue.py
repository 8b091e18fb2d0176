"""The issue-value of RFC 8659 §4.2: an issuer's domain name and its parameters, as CAA and dns-persist-01 records have it. Pure.

Law of this file: an octet string gives one IssueValue or Malformed. Parameter tags are compared without regard to case: whoever
wrote AccountURI meant to restrict something, and was not to be ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# label *("." label), label = (ALPHA / DIGIT) *( *("-") (ALPHA / DIGIT)): no underscores, no dot at the end.
_LABEL = r"[A-Za-z0-9](?:-*[A-Za-z0-9])*"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_TAG = re.compile(_LABEL)
_VALUE = re.compile(r"[\x21-\x3a\x3c-\x7e]*")
_WSP = " \t"


class Malformed(ValueError):
    """The text is ours; it does not repeat the record."""


@dataclass(frozen=True, slots=True)
class IssueValue:
    """`domain` in lower case, "" where the record names nobody."""

    domain: str
    parameters: tuple[tuple[str, str], ...]  # tags in lower case, in order, perhaps repeated

    def values(self, tag: str) -> tuple[str, ...]:
        return tuple(value for name, value in self.parameters if name == tag)


def parse_issue_value(octets: bytes) -> IssueValue:
    """Raises Malformed. RFC 8659 §4.2: who cannot read it treats it as one that names nobody."""
    try:
        text = octets.decode("ascii")
    except UnicodeDecodeError as error:
        raise Malformed("it is not ASCII") from error
    first, semicolon, rest = text.partition(";")
    domain = first.strip(_WSP)
    if domain and _DOMAIN.fullmatch(domain) is None:
        raise Malformed("it does not begin with a domain name")
    if not semicolon or not rest.strip(_WSP):
        return IssueValue(domain.lower(), ())
    return IssueValue(domain.lower(), tuple(_parameter(part) for part in rest.split(";")))


def _parameter(part: str) -> tuple[str, str]:
    tag, equals, value = part.partition("=")
    tag, value = tag.strip(_WSP), value.strip(_WSP)
    if not equals or _TAG.fullmatch(tag) is None or _VALUE.fullmatch(value) is None:
        raise Malformed("a parameter is not of the form tag=value")
    return tag.lower(), value
