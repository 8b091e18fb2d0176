"""What the configuration cannot say: no key turns a check off, and no method of validation is named that nobody wrote.

Other servers have had `signature_check_disable` and `nonce_check_disable`, and challenges that always succeeded.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from certwright.config import parse
from certwright.config_schema import AcmeEndpoint, Challenge, Chaos, Root
from certwright.config_values import Closed
from certwright.yaml_positions import ConfigError
from tests.helpers.clock import FakeClock
from validation.egress import Egress
from validation.methods import local_methods
from validation.resolver import DnsResolver

# Every key that is true or false, and what it does when it is true. Whoever adds one says here that it opens no door.
YES_OR_NO = {
    "Profile.must_staple": "asks more of the certificate",
    "Profile.allow_wildcard": "names that policy grants, still to be proved",
    "Profile.require_san": "asks more of the request",
    "Profile.caa": "one more check",
    "Profile.server_keygen": "keys made here for EST clients that ask for one",
    "Profile.public": "holds the profile to more rules",
    "Profile.subject_change": "names that policy grants, asked for by the holder of a certificate",
    "Policy.require_approval": "one more check",
    "AcmeEndpoint.order_reuse": "the account's own open order, checked as a new one is",
    "AcmeEndpoint.pre_authorization": "the same proof, earlier",
    "AcmeEndpoint.subdomains": "RFC 9444: a proof in the DNS of the ancestor",
    "AcmeEndpoint.caa": "one more check",
    "AutoRenewal.allow_certificate_get": "a public certificate, by an unguessable URL, where its owner says so",
    "EstClientCertificates.enroll": "what policy grants the label's roles, for holders of its certificates",
    "EstEndpoint.server_keygen": "keys made here, where the profile says so too",
    "EstEndpoint.full_cmc": "RFC 5272: every request in it is checked as a simple one is",
    "EstEndpoint.require_approval": "one more check",
    "ScepEndpoint.use_ca_key": "whose key signs answers and opens messages; who may ask is checked as before",
    "ScepEndpoint.chain": "public certificates",
    "ScepEndpoint.include_root": "a public certificate",
    "ScepEndpoint.require_approval": "one more check",
}
SWITCHES = re.compile(
    r"disable|skip|insecure|no_?verify|verify|ignore|bypass|unsafe|allow_any|without|trust_(proxy|header)|debug|test"
)


def models(model: type[BaseModel] = Root) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for each in leaves(field.annotation):
            if isinstance(each, type) and issubclass(each, BaseModel):
                yield from models(each)


def leaves(annotation: object) -> Iterator[object]:
    """The types inside of `list[X]`, `X | None`, `Annotated[X, ...]`."""
    parts = typing.get_args(annotation)
    if not parts or typing.get_origin(annotation) is typing.Literal:
        yield annotation
    for part in parts:
        yield from leaves(part)


KEYS = sorted(
    {(model, name) for model in models() for name in model.model_fields}, key=lambda pair: (pair[0].__name__, pair[1])
)


def test_the_keys_that_are_looked_at_are_all_there_are() -> None:
    assert {AcmeEndpoint, Chaos} <= {model for model, _ in KEYS}
    assert len(KEYS) > 100
    assert all(issubclass(model, Closed) for model, _ in KEYS), "a key that nobody knows is refused everywhere"


def test_no_key_is_named_like_a_switch_that_turns_a_check_off() -> None:
    assert [f"{model.__name__}.{name}" for model, name in KEYS if SWITCHES.search(name)] == []


def test_every_yes_or_no_has_its_reason() -> None:
    found = {f"{model.__name__}.{name}" for model, name in KEYS if bool in leaves(model.model_fields[name].annotation)}
    assert found == set(YES_OR_NO)


def test_the_methods_that_can_be_named_are_those_that_there_are() -> None:
    resolver = DnsResolver(["127.0.0.1:1"])
    written = local_methods(resolver=resolver, egress=Egress(), clock=FakeClock(), http01_port=80, tlsalpn01_port=443)
    assert set(typing.get_args(Challenge)) == set(written)


@pytest.mark.parametrize(
    "line",
    [
        "challenges: [tkauth-01]",
        "challenges: [http-01, any]",
        "challenges: [device-attest-01]",
        "challenges: []",
        "challenges: [http-01, HTTP-01]",
        "challenges: [http-01], challenge_validation_disable: true",
        "challenges: [http-01], signature_check_disable: true",
        "challenges: [http-01], nonce_check_disable: true",
        "challenges: [http-01], skip_validation: [example.com]",
    ],
)
def test_what_would_weaken_a_check_is_refused_at_its_line(made: Path, line: str) -> None:
    text = (made / "certwright.yaml").read_text()
    assert "challenges: [http-01, dns-01, tls-alpn-01]" in text
    with pytest.raises(ConfigError):
        parse(made / "certwright.yaml", text.replace("challenges: [http-01, dns-01, tls-alpn-01]", line), {})
