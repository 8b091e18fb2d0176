"""The shape of certwright.yaml: which keys there are and what type each value has. What they mean together: config.py.

Every model is closed and strict: an unknown key is a mistake, `"5"` is not a number. `find_fields` walks the same models so
that an unknown key can be answered with the one that was meant.
"""

from __future__ import annotations

import ipaddress
import re
import types
import typing
from datetime import timedelta
from typing import Annotated, Any, Literal, Union

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


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


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


class SoftwareKey(Closed):
    file: Text
    passphrase_file: Text | None = None


class Pkcs11Key(Closed):
    module: Text
    token: Text
    label: Text
    pin_file: Text


class Key(Closed):
    software: SoftwareKey | None = None
    pkcs11: Pkcs11Key | None = None


class Crl(Closed):
    refresh: Duration = timedelta(hours=24)
    lifetime: Duration = timedelta(days=4)


class Issuer(Closed):
    certificate: Text
    chain: list[Text] = []
    alternate_chains: list[Annotated[list[Text], Field(min_length=1)]] = []  # each begins with this CA, certified by another
    rollover: list[Text] = []  # what leads from the root that clients have to its successor, and back (RFC 4210 §4.4)
    next: list[Text] = []  # the CA that will follow, then what is above it: SCEP's GetNextCACert (RFC 8894 §4.7)
    key: Key
    crl: Crl = Crl()


class RegistrationAuthority(Closed):
    certificate: Text
    key: Key


class Profile(Closed):
    """Also a `template`: every key that one of the two spellings knows."""

    issuer: Text | None = None
    validity: Duration | None = None
    validity_days: Annotated[int, Field(ge=1, le=36500)] | None = None
    max_validity: Duration | None = None
    backdate: Duration | None = None
    key_usage: list[Annotated[KeyUsageBit, _one_enum(KeyUsageBit), BeforeValidator(_key_usage)]] | None = None
    extended_key_usage: list[Text] | None = None
    common_name: Annotated[CommonName, _one_enum(CommonName)] | None = None
    subject: dict[str, Text] | None = None
    subject_pattern: dict[str, Text] | None = None
    must_staple: bool | None = None
    allow_wildcard: bool | None = None
    require_san: bool | None = None
    evidence_max_age: Duration | None = None
    methods_required: Annotated[int, Field(ge=1, le=3)] | None = None
    perspectives_required: Annotated[int, Field(ge=0, le=64)] | None = None
    caa: bool | None = None
    lint: Annotated[LintMode, _one_enum(LintMode)] | None = None
    server_keygen: bool | None = None
    subject_change: bool | None = None
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


class ScepRenewal(Closed):
    """Renewal by a certificate that this endpoint issued; without roles there is none."""

    roles: list[Text] = []  # of whoever renews; policy decides by them
    grace: Annotated[Duration, Field(ge=timedelta(0), le=timedelta(days=365))] = timedelta(0)


class ScepOneTime(Closed):
    makers: list[Text] = []  # roles of the API keys that may make challenges by REST


class ScepChallengePage(Closed):
    """What Windows calls NDES: a page that gives whoever logs in a one-time challenge for any name."""

    roles: Annotated[list[Text], Field(min_length=1)]  # of those challenges
    expires: Annotated[Duration, Field(ge=timedelta(minutes=1), le=timedelta(days=7))] = timedelta(hours=1)


class ScepWebhook(Closed):
    url: ServiceUrl
    secret_file: Text  # signs what we send
    ca_file: Text | None = None  # who may have certified its server; else the system's CAs
    timeout: Annotated[Duration, Field(ge=timedelta(seconds=1), le=timedelta(seconds=30))] = timedelta(seconds=10)
    roles: Annotated[list[Text], Field(min_length=1)]  # of whom it lets in


class ScepIntune(Closed):
    """Microsoft Intune checks the challenge; an application of the tenant with the permission scep_challenge_provider asks it."""

    tenant: Text
    client_id: Text
    client_secret_file: Text
    roles: Annotated[list[Text], Field(min_length=1)]  # of whom it lets in
    timeout: Annotated[Duration, Field(ge=timedelta(seconds=1), le=timedelta(seconds=30))] = timedelta(seconds=10)
    login_url: ServiceUrl = "https://login.microsoftonline.com"
    graph_url: ServiceUrl = "https://graph.microsoft.com"
    ca_file: Text | None = None


class ScepLimits(Closed):
    """null is no limit."""

    failures_per_user: Rate | None = Limit(10, timedelta(minutes=15))  # of the challenge page
    failures_per_address: Rate | None = Limit(100, timedelta(minutes=15))
    enrollments_per_caller: Rate | None = None
    enrollments_per_address: Rate | None = None


class ScepEndpoint(Closed):
    profile: Text
    registration_authority: Text | None = None
    encryption_authority: Text | None = None  # where clients encrypt to another certificate than the one that signs
    next_registration_authority: Text | None = None  # shown beside the issuer's `next`
    use_ca_key: bool = False  # no registration authority: the issuing CA's own key signs and decrypts
    challenge: Annotated[list[Literal["static", "one-time", "webhook", "intune"]], Field(min_length=1)] = ["static"]
    chain: bool = True  # in GetCACert: what is above the issuing CA
    include_root: bool = True  # in GetCACert: certmonger and strongSwan verify up to it
    legacy: list[Literal["sha1", "md5", "des-ede3-cbc", "des-cbc"]] = []
    renewal: ScepRenewal = ScepRenewal()
    one_time: ScepOneTime = ScepOneTime()
    challenge_page: ScepChallengePage | None = None
    webhook: ScepWebhook | None = None
    intune: ScepIntune | None = None
    require_approval: bool = False
    limits: ScepLimits = ScepLimits()


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
