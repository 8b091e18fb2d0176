"""The SCEP endpoints of certwright.yaml: whose keys they speak with, who is let in, and what must fit together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from certwright import config_schema
from certwright.config_files import ConfigFiles
from certwright.config_issuers import Issuer, RegistrationAuthority
from certwright.yaml_positions import Place
from issuance.lockout import FailureLimits
from policy.profiles import Profile
from scep.endpoint import Renewal, ScepLimits, Way

Note = Callable[[Place, str], None]


@dataclass(frozen=True, slots=True)
class ChallengePage:
    """Roles and lifetime of the challenges that it gives away."""

    roles: frozenset[str]
    expires: timedelta


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

    def __init__(self, given: config_schema.ScepEndpoint, *, files: ConfigFiles, place: Place, note: Note) -> None:
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
        return signing or "", given.encryption_authority or signing or ""

    def _check_ca_key(self, issuer: Issuer) -> None:
        """Clients encrypt to it and check its signatures: Apple's and Microsoft's look at the key usage."""
        certificate = x509.load_der_x509_certificate(issuer.certificate)
        if not isinstance(certificate.public_key(), rsa.RSAPublicKey):
            self._note(
                ("use_ca_key",),
                f"issuer {issuer.name} has no RSA key, so nobody can encrypt to it; use a registration_authority",
            )
            return
        try:
            usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        except x509.ExtensionNotFound:
            return
        if not (usage.digital_signature and usage.key_encipherment):
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
                    f"{way} belongs both into challenge and in a block of its own",
                )
        if "one-time" not in given.challenge:
            for key, used in (("challenge_page", given.challenge_page is not None), ("one_time", bool(given.one_time.makers))):
                if used:
                    self._note((key,), "it makes one-time challenges: add one-time to challenge")
        if given.intune is not None and given.require_approval:
            self._note(("require_approval",), "Intune's devices do not wait; leave it out, or do not use intune here")

    def _challenge_page(self) -> ChallengePage | None:
        given = self._given.challenge_page
        return None if given is None else ChallengePage(frozenset(given.roles), given.expires)

    def _webhook(self) -> Webhook | None:
        given = self._given.webhook
        if given is None:
            return None
        return Webhook(
            url=given.url,
            secret=self._secret(("webhook", "secret_file"), given.secret_file),
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
            client_secret=self._secret(("intune", "client_secret_file"), given.client_secret_file).decode("utf-8", "replace"),
            roles=frozenset(given.roles),
            timeout=given.timeout,
            login_url=given.login_url,
            graph_url=given.graph_url,
            ca_file=self._ca_file(("intune", "ca_file"), given.ca_file),
        )

    def _secret(self, below: Place, text: str) -> bytes:
        path = self._files.secret((*self._place, *below), text)
        try:
            found = path.read_bytes().strip()
        except OSError:
            return b""  # noted already
        if len(found) < 16:
            self._note(below, f"{path} has fewer than 16 octets: make one with (umask 077; openssl rand -hex 32 > {path.name})")
        return found

    def _ca_file(self, below: Place, text: str | None) -> Path | None:
        if text is None:
            return None
        self._files.certificates((*self._place, *below), text)
        return self._files.path(text)


def check_names(given: config_schema.ScepEndpoint, known: Collection[str], unknown: Callable[[Place, str], None]) -> None:
    """`unknown(place, name)` for every registration authority that there is not."""
    for key, value in (
        ("registration_authority", given.registration_authority),
        ("encryption_authority", given.encryption_authority),
        ("next_registration_authority", given.next_registration_authority),
    ):
        if value is not None and value not in known:
            unknown((key,), value)
