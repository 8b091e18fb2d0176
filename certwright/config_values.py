"""The types that values of certwright.yaml have, each with the error that says what to write instead."""

from __future__ import annotations

import ipaddress
import re
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, AnyHttpUrl, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from pki.identifiers import parse_dns
from pki.reasons import Rejection
from policy.limits import Limit
from policy.profiles import CommonName, KeyUsageBit, LintMode

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")
_HTTP_URL: TypeAdapter[AnyHttpUrl] = TypeAdapter(AnyHttpUrl)
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62}[A-Za-z0-9])?")
MAX_DURATION = timedelta(days=100 * 366)


def parse_duration(value: object) -> timedelta:
    """`47d`, `24h`, `15m`, `30s`, `2w`: a whole number and one unit."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a duration is a number and a unit, such as 90d, 24h, 15m or 30s")
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds > MAX_DURATION.total_seconds():
        raise ValueError("that is more than a hundred years")
    return timedelta(seconds=seconds)


def _delay(value: object) -> timedelta:
    match = re.fullmatch("([0-9]{1,4})ms", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a delay in milliseconds, such as 200ms (at most 9999ms)")
    return timedelta(milliseconds=int(match[1]))


def _percent(value: object) -> int:
    match = re.fullmatch("([0-9]{1,3})%", value) if isinstance(value, str) else None
    if match is None or int(match[1]) > 100:
        raise ValueError("a share of the lifetime, such as 66%")
    return int(match[1])


def _url(value: str) -> str:
    if not value.isascii() or value.endswith("/"):
        raise ValueError("a URL in ASCII without a slash at its end, such as https://ca.example.com:8443")
    url = _HTTP_URL.validate_python(value)
    if url.query or url.fragment or url.username or url.password or url.path not in {None, "/"}:
        raise ValueError("only scheme, host and port, such as https://ca.example.com:8443")
    return value


def _service(value: str) -> str:
    url = _HTTP_URL.validate_python(value)
    if not value.isascii() or url.query or url.fragment or url.username or url.password:
        raise ValueError("a URL in ASCII without user, query and fragment, such as https://mdm.example.com/scep")
    if url.scheme != "https" and url.host not in {"localhost", "127.0.0.1", "[::1]"}:
        raise ValueError("an https:// URL: secrets of clients are sent there")
    return value.rstrip("/")


def parse_address(value: object) -> tuple[str, int]:
    match = _HOST_PORT.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 0 < int(match[2]) < 65536:
        raise ValueError('an address and a port, such as "0.0.0.0:8443" or "[::1]:8443"')
    return match[1].strip("[]"), int(match[2])


def _origin(value: str) -> str:
    """As browsers send it (RFC 6454 §6.2), for it is compared as text."""
    if value == "*":
        return value
    url = _HTTP_URL.validate_python(_url(value))
    if "*" in value or value != value.lower() or value.endswith((":443" if url.scheme == "https" else ":80", ":")):
        raise ValueError("an origin as browsers send it, such as https://portal.example.com, or *")
    return value


def _rate(value: object) -> Limit:
    count, slash, period = value.partition("/") if isinstance(value, str) else ("", "", "")
    if not slash or not re.fullmatch("[1-9][0-9]{0,8}", count):
        raise ValueError("a limit is a number and a time, such as 300/3h; null is no limit")
    return Limit(int(count), parse_duration(period))


def _network(value: str) -> str:
    ipaddress.ip_network(value)
    return value


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("a name holds letters, digits, hyphens and underscores (at most 64); it becomes part of URLs")
    return value


def _key_usage(value: object) -> object:
    """`digitalSignature` is what certificate viewers print, `digital_signature` what we write."""
    return re.sub(r"(?<=[a-z])([A-Z])", r"_\1", value).lower().replace("-", "_") if isinstance(value, str) else value


def _one_enum(kind: type[CommonName | KeyUsageBit | LintMode]) -> BeforeValidator:
    def read(value: object) -> object:
        words = [member.value for member in kind]
        if value not in words:
            raise ValueError(f"one of: {', '.join(words)}")
        return kind(value)

    return BeforeValidator(read)


def _domain(value: str) -> str:
    try:
        name = parse_dns(value)
    except Rejection as rejection:
        raise ValueError(rejection.detail) from None
    if name.wildcard:
        raise ValueError("a domain name without a star, such as ca.example.com")
    return name.name


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
Delay = Annotated[timedelta, BeforeValidator(_delay)]
Percent = Annotated[int, BeforeValidator(_percent)]
Url = Annotated[str, AfterValidator(_url)]
ServiceUrl = Annotated[str, AfterValidator(_service)]
Address = Annotated[tuple[str, int], BeforeValidator(parse_address)]
Network = Annotated[str, AfterValidator(_network)]
Origin = Annotated[str, AfterValidator(_origin)]
Rate = Annotated[Limit, BeforeValidator(_rate)]
Name = Annotated[str, AfterValidator(_name)]
Port = Annotated[int, Field(ge=1, le=65535)]
Text = Annotated[str, Field(min_length=1)]
DomainName = Annotated[str, AfterValidator(_domain)]
KeyUsage = Annotated[KeyUsageBit, _one_enum(KeyUsageBit), BeforeValidator(_key_usage)]
CommonNameRule = Annotated[CommonName, _one_enum(CommonName)]
Lint = Annotated[LintMode, _one_enum(LintMode)]


class Closed(BaseModel):
    """What every model of the schema is: an unknown key is a mistake, `"5"` is not a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
