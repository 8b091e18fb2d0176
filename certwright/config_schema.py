"""The shape of certwright.yaml: which keys there are (issuers: config_schema_issuers.py; SCEP's:
config_schema_scep.py) and what type each value has (config_values.py).
What they mean together: config.py.

Every model is closed and strict. `find_fields` walks the same models so that an unknown key can be answered with the one that was
meant.
"""

from __future__ import annotations

import types
import typing
from datetime import timedelta
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, Field

from certwright.config_schema_issuers import Issuer, RegistrationAuthority
from certwright.config_schema_scep import ScepEndpoint
from certwright.config_values import (
    Address,
    Closed,
    CommonNameRule,
    Delay,
    DomainName,
    Duration,
    KeyUsage,
    Lint,
    Name,
    Network,
    Origin,
    Percent,
    Port,
    Rate,
    Text,
    Url,
)
from policy.limits import Limit


class Listen(Closed):
    """null turns a listener off."""

    https: Address | None = ("0.0.0.0", 8443)
    mtls: Address | None = ("0.0.0.0", 9443)
    http: Address | None = ("0.0.0.0", 8080)
    metrics: Address | None = ("127.0.0.1", 9464)


class Tls(Closed):
    """The server's own certificate: PEM, leaf first."""

    certificate: Text
    key_file: Text


class Profile(Closed):
    """Also a `template`: every key that one of the two spellings knows."""

    issuer: Text | None = None
    validity: Duration | None = None
    validity_days: Annotated[int, Field(ge=1, le=36500)] | None = None
    max_validity: Duration | None = None
    backdate: Duration | None = None
    key_usage: list[KeyUsage] | None = None
    extended_key_usage: list[Text] | None = None
    common_name: CommonNameRule | None = None
    subject: dict[str, Text] | None = None
    subject_pattern: dict[str, Text] | None = None
    must_staple: bool | None = None
    allow_wildcard: bool | None = None
    require_san: bool | None = None
    evidence_max_age: Duration | None = None
    methods_required: Annotated[int, Field(ge=1, le=3)] | None = None
    perspectives_required: Annotated[int, Field(ge=0, le=64)] | None = None
    caa: bool | None = None
    lint: Lint | None = None
    server_keygen: bool | None = None
    subject_change: bool | None = None
    public: bool | None = None
    aliases: list[Name] | None = None
    description: Text | None = None  # what ACME clients are shown


class Policy(Closed):
    roles: list[Text]
    allowed_profiles: list[Text]
    allowed_sans: list[Text] = []
    allowed_common_names: list[Text] = []
    max_validity: Duration | None = None
    require_approval: bool = False


class RenewalInfo(Closed):
    """RFC 9773; `{}` is on, with these. Clients renew at a random moment between the two shares of the lifetime."""

    window_start: Percent = 66
    window_end: Percent = 83
    retry_after: Duration = timedelta(hours=6)


class AcmeLimits(Closed):
    """null is no limit. All names of a private CA tend to be below one registered name, so that one is null by itself."""

    accounts_per_address: Rate | None = Limit(100, timedelta(hours=3))
    orders_per_account: Rate | None = Limit(1000, timedelta(hours=3))
    orders_per_name: Rate | None = None
    failed_validations: Rate | None = Limit(60, timedelta(hours=1))
    pending_authorizations: Annotated[int, Field(ge=1, le=1_000_000)] | None = 1000
    help: Text | None = None


Challenge = Literal["http-01", "dns-01", "dns-account-01", "dns-persist-01", "tls-alpn-01", "onion-csr-01"]


class AutoRenewal(Closed):
    """RFC 8739; `{}` is on, with these."""

    min_lifetime: Duration = timedelta(days=1)
    max_duration: Duration = timedelta(days=90)
    allow_certificate_get: bool = False


class AcmeEndpoint(Closed):
    profiles: Annotated[list[Text], Field(min_length=1)]
    challenges: Annotated[list[Challenge], Field(min_length=1)] = ["http-01"]
    external_account: Literal["none", "optional", "required"] = "none"
    identifiers: Annotated[list[Literal["dns", "ip"]], Field(min_length=1)] = ["dns"]
    authorization_reuse: Duration = timedelta(0)
    order_reuse: bool = False
    pre_authorization: bool = False
    subdomains: bool = False
    caa: bool = False
    roles: list[Text] = ["acme"]
    terms_of_service: Text | None = None
    website: Text | None = None
    renewal_info: RenewalInfo | None = None
    auto_renewal: AutoRenewal | None = None
    limits: AcmeLimits = AcmeLimits()
    cors: list[Origin] = []


class EstClientCertificates(Closed):
    """`anchors`: CAs of manufacturers. What a label issued may renew itself there, without being listed."""

    anchors: list[Text] = []
    roles: list[Text] = []
    grace: Duration = timedelta(0)
    enroll: bool = False


class EstAgents(Closed):
    """Registration authorities: certificates with id-kp-cmcRA, of CAs in `anchors`."""

    anchors: Annotated[list[Text], Field(min_length=1)]
    roles: Annotated[list[Text], Field(min_length=1)]


class EstLimits(Closed):
    """null is no limit."""

    failures_per_user: Rate | None = Limit(10, timedelta(minutes=15))
    failures_per_address: Rate | None = Limit(100, timedelta(minutes=15))
    enrollments_per_caller: Rate | None = None
    enrollments_per_address: Rate | None = None


class EstEndpoint(Closed):
    profile: Text
    authenticate: Annotated[list[Literal["basic", "digest", "bearer", "certificate"]], Field(min_length=1)] = ["basic"]
    realm: Annotated[str, Field(pattern=r"^[ !#-\[\]-~]{1,64}$")] = "estrealm"
    base64_wrap: Literal["auto", "76", "0"] = "auto"
    client_certificates: EstClientCertificates = EstClientCertificates()
    agents: EstAgents | None = None
    proof_linking: Literal["off", "optional", "required"] = "off"
    csr_attributes: Literal["none", "oids", "template"] = "none"
    server_keygen: bool = False
    full_cmc: bool = False
    registration_authority: Text | None = None
    require_approval: bool = False
    limits: EstLimits = EstLimits()


class Endpoints(Closed):
    acme: dict[Name, AcmeEndpoint] = {}
    est: dict[Name, EstEndpoint] = {}
    scep: dict[Name, ScepEndpoint] = {}


class Perspective(Closed):
    """A remote agent, `certwright perspective`. `certificate` and `key_file` are ours before it; `ca_file` is who made its own."""

    url: Url
    ca_file: Text
    certificate: Text
    key_file: Text


class Validation(Closed):
    resolver: Literal["system"] | list[Address] = "system"
    dnssec: Literal["off", "require"] = "off"
    http01_port: Port = 80
    tlsalpn01_port: Port = 443
    allow_networks: list[Network] = []
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    retry_delay: Duration = timedelta(seconds=3)
    caa_identities: list[DomainName] = []
    perspectives: dict[Name, Perspective] = {}
    quorum: Annotated[int, Field(ge=1)] | None = None  # of perspectives that must agree; without it as BR 3.2.2.9 has it


class SignerProcess(Closed):
    """`socket`: a signer that somebody else started; without it `serve` starts one."""

    socket: Text | None = None


class Chaos(Closed):
    """For the developers of clients; loopback only."""

    bad_nonce: Annotated[float, Field(ge=0, le=1)] = 0.05
    delay: Delay = timedelta(milliseconds=200)


class Retention(Closed):
    """How long what ACME leaves behind is kept: what came to nothing from its expiry, the rest from its certificate's."""

    unfinished: Duration = timedelta(days=30)
    issued: Duration = timedelta(days=730)


class Approvals(Closed):
    """Requests that wait for a person."""

    expire_after: Annotated[Duration, Field(ge=timedelta(hours=1))] = timedelta(days=7)
    pending_per_requester: Annotated[int, Field(ge=1, le=1_000_000)] = 1000


class Proxy(Closed):
    """`header` is for nginx and haproxy, where custom alone names the one that carries the certificate."""

    addresses: Annotated[list[Network], Field(min_length=1)]
    client_certificate: Literal["rfc9440", "nginx", "haproxy", "envoy"]
    header: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")] | None = None
    source_address: Literal["forwarded", "x-forwarded-for"] | None = None


class Root(Closed):
    base_url: Url
    http_url: Url | None = None
    data_dir: Text
    database: Text | None = None
    database_file: Text | None = None
    secrets_key_file: Text | None = None
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    listen: Listen = Listen()
    tls: Tls
    proxies: list[Proxy] = []  # before the mtls listener
    signer: SignerProcess = SignerProcess()
    issuers: Annotated[dict[Name, Issuer], Field(min_length=1)]
    registration_authorities: dict[Name, RegistrationAuthority] = {}
    profiles: dict[Name, Profile] = {}
    templates: dict[Name, Profile] = {}
    policies: dict[str, Policy] = {}
    endpoints: Endpoints = Endpoints()
    validation: Validation = Validation()
    approvals: Approvals = Approvals()
    retention: Retention = Retention()
    chaos: Chaos | None = None


def find_fields(place: tuple[str | int, ...]) -> list[str]:
    """The keys that the mapping at `place` may have; empty when it is free to choose them."""
    current: Any = Root
    for step in place:
        current = _step(current, step)
    models = _models(current)
    return sorted({name for model in models for name in model.model_fields})


def _step(annotation: Any, step: str | int) -> Any:
    for model in _models(annotation):
        if isinstance(step, str) and step in model.model_fields:
            return model.model_fields[step].annotation
    match typing.get_origin(annotation):
        case origin if origin in {dict, list}:
            return typing.get_args(annotation)[-1]
        case _:
            return None


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in {Union, types.UnionType, Annotated}:
        return [model for part in typing.get_args(annotation) for model in _models(part)]
    return []
