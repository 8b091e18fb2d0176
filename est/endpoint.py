"""One EST endpoint as configured: who may come, what they get, and which certificates it hands out as trust anchors."""

from __future__ import annotations

import enum
from dataclasses import dataclass

DEFAULT = "default"  # the endpoint whose URLs carry no label


class Authentication(enum.Enum):
    """How a client may prove who it is. Closed."""

    BASIC = "basic"
    CERTIFICATE = "certificate"  # for simplereenroll, which is not served yet


class Base64Wrap(enum.Enum):
    """Line breaks in responses. Clients disagree, each failing on the other's form; `auto` tells them apart."""

    AUTO = "auto"
    WRAPPED = "76"
    UNWRAPPED = "0"


@dataclass(frozen=True, slots=True)
class EstEndpoint:
    """`ca_certificates` is what /cacerts gives: the issuing CA and the root, DER."""

    label: str
    profile: str
    ca_certificates: tuple[bytes, ...]
    authenticate: frozenset[Authentication] = frozenset({Authentication.BASIC})
    base64_wrap: Base64Wrap = Base64Wrap.AUTO
    realm: str = "estrealm"

    def __post_init__(self) -> None:
        if not self.ca_certificates:
            raise ValueError(f"the EST endpoint {self.label!r} has no CA certificate to give to its clients")
        if not self.realm.isprintable() or not self.realm.isascii() or set(self.realm) & {'"', "\\"}:
            raise ValueError(f"the realm of the EST endpoint {self.label!r} must be printable ASCII without quotes")
