"""The SCEP endpoints of certwright.yaml: whose keys they speak with, who is let in, and what must fit together."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from certwright import config_schema_scep
from certwright.config_files import ConfigFiles
from certwright.config_issuers import Issuer, RegistrationAuthority
from certwright.yaml_positions import Place
from issuance.lockout import FailureLimits
from policy.profiles import Profile
from scep.endpoint import Renewal, ScepLimits, Way

Note = Callable[[Place, str], None]

_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
E = TypeVar("E", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True)
class ChallengePage:
    """Roles and lifetime of the challenges that it gives away, and how often its users may mistype their passwords."""

    roles: frozenset[str]
    expires: timedelta
    failures: FailureLimits


@dataclass(frozen=True, slots=True)
class Webhook:
    url: str
    secret: bytes = field(repr=False)
    ca_file: Path | None
    timeout: timedelta
    roles: frozenset[str]


@dataclass(frozen=True, slots=True)
class Intune:
    tenant: str
    client_id: str
    client_secret: str = field(repr=False)
    roles: frozenset[str]
    timeout: timedelta
    login_url: str
    graph_url: str
    ca_file: Path | None


@dataclass(frozen=True, slots=True)
class ScepSettings:
    """The authorities are names; "" where the issuing CA's own key is used."""

    name: str
    profile: str
    registration_authority: str
    encryption_authority: str
    next_registration_authority: str | None
    challenges: tuple[Way, ...]
    chain: bool
    include_root: bool
    legacy: frozenset[str]
    renewal: Renewal
    makers: frozenset[str]  # roles of the API keys that may make challenges
    challenge_page: ChallengePage | None
    webhook: Webhook | None
    intune: Intune | None
    require_approval: bool
    limits: ScepLimits


class ScepReader:
    """One endpoint. What is wrong goes to `note(place below the endpoint, message)`; its answer counts only when nothing is."""

    def __init__(self, given: config_schema_scep.ScepEndpoint, *, files: ConfigFiles, place: Place, note: Note) -> None:
        self._given = given
        self._files = files
        self._place = place
        self._note = note

    def settings(
        self,
        name: str,
        *,
        profile: Profile | None,
        issuer: Issuer | None,
        authorities: Mapping[str, RegistrationAuthority],
    ) -> ScepSettings:
        given = self._given
        signing, encryption = self._authorities(authorities, issuer)
        self._check_ways()
        if given.next_registration_authority is not None and issuer is not None and not issuer.next:
            self._note(("next_registration_authority",), "the issuer has no `next`: say there which CA follows")
        return ScepSettings(
            name=name,
            profile=profile.name if profile is not None else given.profile,
            registration_authority=signing,
            encryption_authority=encryption,
            next_registration_authority=given.next_registration_authority,
            challenges=tuple(dict.fromkeys(Way(one) for one in given.challenge)),
            chain=given.chain,
            include_root=given.include_root,
            legacy=frozenset(given.legacy),
            renewal=Renewal(frozenset(given.renewal.roles), given.renewal.grace),
            makers=frozenset(given.one_time.makers),
            challenge_page=self._challenge_page(),
            webhook=self._webhook(),
            intune=self._intune(),
            require_approval=given.require_approval,
            limits=ScepLimits(
                failures=FailureLimits(per_address=given.limits.failures_per_address),
                enrollments_per_caller=given.limits.enrollments_per_caller,
                enrollments_per_address=given.limits.enrollments_per_address,
            ),
        )

    # ---- whose keys

    def _authorities(self, known: Mapping[str, RegistrationAuthority], issuer: Issuer | None) -> tuple[str, str]:
        given = self._given
        if given.use_ca_key:
            for key, value in (
                ("registration_authority", given.registration_authority),
                ("encryption_authority", given.encryption_authority),
            ):
                if value is not None:
                    self._note((key,), "use_ca_key has the CA's own key sign and decrypt: leave one of the two out")
            if issuer is not None:
                self._check_ca_key(issuer)
            return "", ""
        signing = given.registration_authority
        if signing is None and len(known) == 1:
            signing = next(iter(known))
        if signing is None:
            self._note((), "say which registration_authority decrypts for it, or use_ca_key: true")
        encryption = given.encryption_authority or signing
        for key, name, wanted in (
            ("registration_authority", signing, "digital_signature"),
            (
                "encryption_authority" if given.encryption_authority else "registration_authority",
                encryption,
                "key_encipherment",
            ),
        ):
            if name is not None and name in known and known[name].certificate:
                self._check_authority((key,), known[name], wanted)
        return signing or "", encryption or ""

    def _check_authority(self, place: Place, authority: RegistrationAuthority, wanted: str) -> None:
        """Of several certificates, a client takes the one whose key usage says that it is for it (RFC 8894 §4.2.1)."""
        certificate = x509.load_der_x509_certificate(authority.certificate)
        name = f"registration authority {authority.name}"
        if not isinstance(certificate.public_key(), rsa.RSAPublicKey):
            self._note(place, f"{name} has no RSA key: SCEP's answers are signed, and its requests encrypted, with RSA")
        constraints, usage = extension(certificate, x509.BasicConstraints), extension(certificate, x509.KeyUsage)
        if constraints is not None and constraints.ca:
            self._note(place, f"the certificate of {name} is a CA's; give it one of its own, or say use_ca_key: true")
        if usage is not None and not getattr(usage, wanted):
            spelled = "digitalSignature" if wanted == "digital_signature" else "keyEncipherment"
            self._note(place, f"the certificate of {name} has a key usage without {spelled}, so clients refuse it here")

    def _check_ca_key(self, issuer: Issuer) -> None:
        """Clients encrypt to it and check its signatures: Apple's and Microsoft's look at the key usage."""
        certificate = x509.load_der_x509_certificate(issuer.certificate)
        if not isinstance(certificate.public_key(), rsa.RSAPublicKey):
            self._note(
                ("use_ca_key",),
                f"issuer {issuer.name} has no RSA key, so nobody can encrypt to it; use a registration_authority",
            )
            return
        if weak := sorted({"md5", "sha1"} & set(self._given.legacy)):
            self._note(
                ("legacy",),
                f"the CA's own key signs nothing with {' or '.join(weak)}; old devices need a registration_authority",
            )
        usage = extension(certificate, x509.KeyUsage)
        if usage is not None and not (usage.digital_signature and usage.key_encipherment):
            self._note(
                ("use_ca_key",),
                f"the certificate of issuer {issuer.name} needs the key usages digitalSignature and keyEncipherment beside its own; "
                "use a registration_authority",
            )

    # ---- who is let in

    def _check_ways(self) -> None:
        given = self._given
        for way, block in (("webhook", given.webhook), ("intune", given.intune)):
            if (way in given.challenge) != (block is not None):
                self._note(
                    (way,) if block is not None else ("challenge",),
                    f"{way} belongs in `challenge` and has a block of its own: give both, or neither",
                )
        if "one-time" not in given.challenge:
            for key, used in (("challenge_page", given.challenge_page is not None), ("one_time", bool(given.one_time.makers))):
                if used:
                    self._note((key,), "it makes one-time challenges: add one-time to challenge")
        if given.intune is not None and given.require_approval:
            self._note(("require_approval",), "Intune's devices do not wait; leave it out, or do not use intune here")

    def _challenge_page(self) -> ChallengePage | None:
        given, limits = self._given.challenge_page, self._given.limits
        if given is None:
            return None
        failures = FailureLimits(per_name=limits.failures_per_user, per_address=limits.failures_per_address)
        return ChallengePage(frozenset(given.roles), given.expires, failures)

    def _webhook(self) -> Webhook | None:
        given = self._given.webhook
        if given is None:
            return None
        return Webhook(
            url=given.url,
            secret=self._webhook_key(given.secret_file),
            ca_file=self._ca_file(("webhook", "ca_file"), given.ca_file),
            timeout=given.timeout,
            roles=frozenset(given.roles),
        )

    def _intune(self) -> Intune | None:
        given = self._given.intune
        if given is None:
            return None
        return Intune(
            tenant=given.tenant,
            client_id=given.client_id,
            client_secret=self._client_secret(given.client_secret_file),
            roles=frozenset(given.roles),
            timeout=given.timeout,
            login_url=given.login_url,
            graph_url=given.graph_url,
            ca_file=self._ca_file(("intune", "ca_file"), given.ca_file),
        )

    def _webhook_key(self, text: str) -> bytes:
        """The file has it in Base64, as step-ca shows the secrets of its webhooks."""
        below = ("webhook", "secret_file")
        found = self._secret(below, text)
        if found is None:
            return b""
        try:
            key = base64.b64decode(found, validate=True)
        except binascii.Error:
            key = b""
        if len(key) < 16:
            wanted = "at least 16 octets in Base64: make them with (umask 077; openssl rand -base64 32 > FILE)"
            self._note(below, f"{self._files.path(text)} does not hold {wanted}")
        return key

    def _client_secret(self, text: str) -> str:
        below = ("intune", "client_secret_file")
        found = (self._secret(below, text) or b"").decode("utf-8", "replace")
        if found and (len(found) < 16 or not (found.isascii() and found.isprintable()) or _UUID.fullmatch(found)):
            wanted = "the client secret of the application: its Value, which Microsoft shows once, not its Secret ID"
            self._note(below, f"{self._files.path(text)} does not hold {wanted}")
        return found

    def _secret(self, below: Place, text: str) -> bytes | None:
        """None where something is noted already."""
        path = self._files.secret((*self._place, *below), text)
        try:
            found = path.read_bytes().strip()
        except OSError:
            return None
        if not found:
            self._note(below, f"{path} is empty")
            return None
        return found

    def _ca_file(self, below: Place, text: str | None) -> Path | None:
        if text is None:
            return None
        self._files.certificates((*self._place, *below), text)
        return self._files.path(text)


def extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    """None also where it cannot be read."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return None


def check_names(given: config_schema_scep.ScepEndpoint, known: Collection[str], unknown: Callable[[Place, str], None]) -> None:
    """`unknown(place, name)` for every registration authority that there is not."""
    for key, value in (
        ("registration_authority", given.registration_authority),
        ("encryption_authority", given.encryption_authority),
        ("next_registration_authority", given.next_registration_authority),
    ):
        if value is not None and value not in known:
            unknown((key,), value)
