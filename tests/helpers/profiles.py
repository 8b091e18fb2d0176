"""Profiles for tests, with the shipped defaults unless a test says otherwise."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from pki.plan import KeyUsageBit
from policy.profiles import CommonName, LintMode, Profile

SERVER_AUTH = "1.3.6.1.5.5.7.3.1"
CLIENT_AUTH = "1.3.6.1.5.5.7.3.2"

_BASE = Profile(
    name="tls-server",
    issuer="issuing",
    validity=timedelta(days=47),
    max_validity=timedelta(days=47),
    backdate=timedelta(minutes=5),
    key_usage=frozenset({KeyUsageBit.DIGITAL_SIGNATURE}),
    extended_key_usage=(SERVER_AUTH,),
    common_name=CommonName.SAN,
    subject=(),
    must_staple=False,
    allow_wildcard=True,
    require_san=True,
    evidence_max_age=timedelta(days=10),
    caa=False,
    lint=LintMode.SHAPE,
)


def profile(name: str = "tls-server", **changes: Any) -> Profile:
    return replace(_BASE, name=name, **changes)


def device(**changes: Any) -> Profile:
    base: dict[str, Any] = {
        "key_usage": frozenset({KeyUsageBit.DIGITAL_SIGNATURE, KeyUsageBit.KEY_ENCIPHERMENT}),
        "extended_key_usage": (CLIENT_AUTH,),
        "common_name": CommonName.DEVICE,
        "require_san": False,
    }
    return profile("device", **{**base, **changes})
