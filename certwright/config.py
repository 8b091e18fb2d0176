"""certwright.yaml -> `Config`: everything that the server is told, checked before anything starts.

Law of this file: a text gives a Config or a ConfigError with every problem and its line, and nothing else. Nothing below this floor
knows YAML; nothing above asks the file again.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from pydantic import ValidationError

from acmeserver.chaos import Chaos
from acmeserver.retention import Kept
from certwright import config_schema, config_schema_scep
from certwright.config_acme import CAA_IDENTITIES, AcmeSettings, acme_settings, retention_settings
from certwright.config_est import EstSettings, est_settings
from certwright.config_files import ConfigFiles
from certwright.config_issuers import Issuer, IssuerReader, RegistrationAuthority
from certwright.config_profiles import build_profile
from certwright.config_proxies import LINKED, proxy_settings
from certwright.config_scep import ScepReader, ScepSettings, check_names
from certwright.config_validation import Files, Validation, validation_settings
from certwright.proxies import Proxy
from certwright.yaml_positions import ConfigError, Document, Place, Problem, read_document
from issuance.approvals import Terms
from pki.sealing import parse_keys
from policy.names import parse_pattern
from policy.profiles import Profile, Profiles, canonical_profile_name
from policy.rules import Policy
from signer.api import KeyConfig

Address = tuple[str, int]

_SEALING = (
    "sealed in the database by a key in a file: make one with "
    "(umask 077; openssl rand -hex 32 > secrets.key) and say secrets_key_file: secrets.key"
)
NO_SEALING_KEY = f"the keys of external accounts are {_SEALING}"
NO_CMC_KEY = f"shared secrets of CMC clients, and what waits for an approval, are {_SEALING}"
NO_DIGEST_KEY = f"what Digest is computed from is {_SEALING}"
NO_SECRETS_KEY = f"shared secrets and keys are {_SEALING}"
ONE_WRITER = "SQLite has one writer, so there is one worker; for more, let `database` be a PostgreSQL"


@dataclass(frozen=True, slots=True)
class Listen:
    https: Address | None
    mtls: Address | None
    http: Address | None
    metrics: Address | None


@dataclass(frozen=True, slots=True)
class Config:
    """One valid configuration. Paths are absolute."""

    file: Path
    base_url: str
    http_url: str
    data_dir: Path
    database: str = field(repr=False)  # may hold a password
    sealing_keys: tuple[bytes, ...] = field(repr=False)  # of the secrets in the database; the first seals
    workers: int
    listen: Listen
    tls_certificate: Path
    tls_key: Path
    proxies: tuple[Proxy, ...]
    signer_socket: Path | None  # of a signer that somebody else started
    keys: tuple[KeyConfig, ...] = field(repr=False)
    issuers: Mapping[str, Issuer]
    registration_authorities: Mapping[str, RegistrationAuthority]
    profiles: Profiles
    policies: tuple[Policy, ...]
    acme: Mapping[str, AcmeSettings]
    est: Mapping[str, EstSettings]
    scep: Mapping[str, ScepSettings]
    validation: Validation
    approvals: Terms
    retention: Kept
    chaos: Chaos | None

    @property
    def database_is_embedded(self) -> bool:
        return self.database.startswith("sqlite:")


def load(file: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Read and check the file and everything that it names. Raises ConfigError."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem(file, 1, 1, f"cannot read it: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(file, 1, 1, "it is not UTF-8 text")]) from error
    return parse(file, text, environment)


def parse(file: Path, text: str, environment: Mapping[str, str] = os.environ) -> Config:
    """`file` gives relative paths their place and problems their name. Raises ConfigError."""
    document = read_document(file, text, environment)
    if not isinstance(document.value, dict):
        document.note((), "a configuration is a mapping that begins with base_url, data_dir, issuers ...")
        document.check()
    try:
        root = config_schema.Root.model_validate(document.value)
    except ValidationError as error:
        for one in error.errors(include_url=False, include_context=False):
            _note_invalid(document, one["loc"], one["type"], one["msg"], one["input"])
        document.check()
        raise ConfigError([Problem(file, 1, 1, "the configuration is not valid")]) from error  # not reached
    config = _Builder(document, root).build()
    document.check()
    return config


def _note_invalid(document: Document, place: Place, kind: str, message: str, value: object) -> None:
    """Pydantic's findings in our words: at the key, with what was meant. Values are shown only where no secret can be."""
    match kind:
        case "extra_forbidden":
            known = config_schema.find_fields(place[:-1])
            document.note(place, f"unknown key {str(place[-1])!r}{did_you_mean(str(place[-1]), known)}", at_key=True)
        case "missing":
            document.note(place[:-1], f"{place[-1]!r} is missing here", at_key=True)
        case "literal_error":
            words = message.removeprefix("Input should be ").replace("'", "").replace(" or ", ", ").split(", ")
            meant = difflib.get_close_matches(str(value), words, n=1)
            document.note(place, f"one of: {', '.join(words)}{f' (did you mean {meant[0]!r}?)' if meant else ''}")
        case "too_short" if value in ([], {}):
            document.note(place, "list at least one, or leave the key out")
        case _:
            said = message.removeprefix("Value error, ").replace("Input should be", "this must be")
            document.note(tuple(step for step in place if step != "[key]"), said.replace("a valid string", "text"))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    choices = sorted(set(known))
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if close:
        return f" (did you mean {close[0]!r}?)"
    return f" (there is: {', '.join(choices)})" if 0 < len(choices) <= 30 else ""


class _Builder:
    """One pass over a well-shaped document: reads the files that it names, and checks what must fit together."""

    def __init__(self, document: Document, root: config_schema.Root) -> None:
        self._document = document
        self._root = root
        self._files = ConfigFiles(document)
        self._issuers = IssuerReader(document, root, self._files)

    def build(self) -> Config:
        root = self._root
        issuers = {name: self._issuers.issuer(name, given) for name, given in root.issuers.items()}
        profiles = self._profiles()
        policies = tuple(self._policy(name, given, profiles) for name, given in root.policies.items())
        authorities = {name: self._issuers.authority(name, given) for name, given in root.registration_authorities.items()}
        database = self._database()
        if not root.base_url.startswith("https://"):
            self._document.note(("base_url",), "ACME and EST are served over https only; write https://")
        return Config(
            file=self._document.file,
            base_url=root.base_url,
            http_url=root.http_url or self._default_http_url(),
            data_dir=self._files.path(root.data_dir),
            database=database,
            sealing_keys=self._sealing_keys(),
            workers=self._workers(database),
            listen=self._listen(),
            tls_certificate=self._files.readable(("tls", "certificate"), root.tls.certificate),
            tls_key=self._files.secret(("tls", "key_file"), root.tls.key_file),
            proxies=proxy_settings(root.proxies, partial(self._note_below, ("proxies",))),
            signer_socket=self._files.path(root.signer.socket) if root.signer.socket else None,
            keys=self._issuers.keys(issuers, profiles, authorities),
            issuers=issuers,
            registration_authorities=authorities,
            profiles=Profiles(profiles),
            policies=policies,
            acme=self._acme(profiles),
            est={name: self._est(name, given, profiles) for name, given in root.endpoints.est.items()},
            scep={name: self._scep(name, given, profiles, issuers, authorities) for name, given in root.endpoints.scep.items()},
            validation=self._validation(profiles),
            approvals=Terms(root.approvals.expire_after, root.approvals.pending_per_requester),
            retention=retention_settings(root.retention, partial(self._note_below, ("retention",))),
            chaos=self._chaos(),
        )

    # ---- profiles, policies, endpoints

    def _profiles(self) -> list[Profile]:
        first = next(iter(self._root.issuers))
        profiles: list[Profile] = []
        taken: dict[str, str] = {}
        for section, given in (("profiles", self._root.profiles), ("templates", self._root.templates)):
            for name, one in given.items():
                place = (section, name)
                profile = build_profile(name, one, first_issuer=first, note=partial(self._note_below, place))
                if profile.perspectives_required > (there := len(self._root.validation.perspectives)):
                    said = f"{profile.perspectives_required} perspectives, and validation.perspectives has {there}"
                    self._document.note((*place, "perspectives_required"), said)
                if profile.caa and not self._root.validation.caa_identities:
                    self._document.note((*place, "caa"), CAA_IDENTITIES)
                if one.issuer is not None:
                    self._known((*place, "issuer"), "issuer", one.issuer, self._root.issuers)
                for spelling in (profile.name, *profile.aliases):
                    if spelling in taken:
                        self._document.note(place, f"{taken[spelling]!r} answers to {spelling!r} too", at_key=True)
                    taken[spelling] = name
                profiles.append(profile)
        self._document.check()  # what refers to them would only repeat the problem
        return profiles

    def _note_below(self, place: Place, below: Place, message: str) -> None:
        self._document.note((*place, *below), message)

    def _known(self, place: Place, what: str, name: str, known: Iterable[str]) -> None:
        if name not in known:
            self._document.note(place, f"there is no {what} {name!r}{did_you_mean(name, known)}")

    def _profile_name(self, place: Place, name: str, profiles: list[Profile]) -> str:
        """An alias stands for its profile's own name."""
        wanted = canonical_profile_name(name)
        for profile in profiles:
            if wanted == profile.name or wanted in profile.aliases:
                return profile.name
        self._known(place, "profile", wanted, [profile.name for profile in profiles])
        return wanted

    def _profile_names(self, place: Place, names: list[str], profiles: list[Profile]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._profile_name((*place, index), name, profiles) for index, name in enumerate(names)))

    def _policy(self, name: str, given: config_schema.Policy, profiles: list[Profile]) -> Policy:
        place = ("policies", name)
        for index, pattern in enumerate(given.allowed_sans):
            try:
                parse_pattern(pattern)
            except ValueError as error:
                self._document.note((*place, "allowed_sans", index), str(error))
        self._document.check()
        return Policy(
            name=name,
            roles=frozenset(given.roles),
            allowed_profiles=frozenset(self._profile_names((*place, "allowed_profiles"), given.allowed_profiles, profiles)),
            allowed_sans=tuple(given.allowed_sans),
            allowed_common_names=tuple(given.allowed_common_names),
            max_validity=given.max_validity,
            require_approval=given.require_approval,
        )

    def _acme(self, profiles: list[Profile]) -> dict[str, AcmeSettings]:
        settings: dict[str, AcmeSettings] = {}
        for name, given in self._root.endpoints.acme.items():
            place = ("endpoints", "acme", name)
            names = self._profile_names((*place, "profiles"), given.profiles, profiles)
            settings[name] = acme_settings(
                name,
                given,
                profiles=[profile for wanted in names for profile in profiles if profile.name == wanted],
                caa_identities=tuple(self._root.validation.caa_identities),
                note=partial(self._note_below, place),
            )
        return settings

    def _est(self, name: str, given: config_schema.EstEndpoint, profiles: list[Profile]) -> EstSettings:
        place = ("endpoints", "est", name)
        known = self._root.registration_authorities
        authority = given.registration_authority
        if authority is not None:
            self._known((*place, "registration_authority"), "registration authority", authority, known)
        wanted = self._profile_name((*place, "profile"), given.profile, profiles)
        if given.proof_linking == "required" and self._root.proxies:
            self._document.note((*place, "proof_linking"), LINKED)

        def certificates(below: Place, text: str) -> list[x509.Certificate]:
            return self._files.certificates((*place, *below), text)

        return est_settings(
            name,
            given,
            profile=next((profile for profile in profiles if profile.name == wanted), None),
            authority=authority,
            certificates=certificates,
            note=partial(self._note_below, place),
        )

    def _scep(
        self,
        name: str,
        given: config_schema_scep.ScepEndpoint,
        profiles: list[Profile],
        issuers: Mapping[str, Issuer],
        authorities: Mapping[str, RegistrationAuthority],
    ) -> ScepSettings:
        place = ("endpoints", "scep", name)
        wanted = self._profile_name((*place, "profile"), given.profile, profiles)
        profile = next((profile for profile in profiles if profile.name == wanted), None)

        def unknown(below: Place, text: str) -> None:
            self._known((*place, *below), "registration authority", text, authorities)

        check_names(given, authorities, unknown)
        reader = ScepReader(given, files=self._files, place=place, note=partial(self._note_below, place))
        return reader.settings(
            name, profile=profile, issuer=None if profile is None else issuers.get(profile.issuer), authorities=authorities
        )

    # ---- the rest

    def _listen(self) -> Listen:
        given = self._root.listen
        listen = Listen(given.https, given.mtls, given.http, given.metrics)
        taken: dict[Address, str] = {}
        for name in ("https", "mtls", "http", "metrics"):
            address: Address | None = getattr(listen, name)
            if address is None:
                continue
            if address in taken:
                self._document.note(("listen", name), f"listen.{taken[address]} has this address; give each listener its own")
            taken.setdefault(address, name)
        return listen

    def _chaos(self) -> Chaos | None:
        """A CA that others use must not be able to get into this state; so not even the metrics may listen to the world."""
        given = self._root.chaos
        if given is None:
            return None
        for name in ("https", "mtls", "http", "metrics"):
            address: Address | None = getattr(self._root.listen, name)
            if address is not None and not _is_loopback(address[0]):
                said = f"chaos is for clients' developers: it works on loopback only, and listen.{name} is {address[0]}"
                self._document.note(("chaos",), said, at_key=True)
        return Chaos(bad_nonce=given.bad_nonce, delay=given.delay)

    def _validation(self, profiles: list[Profile]) -> Validation:
        def certificates(place: Place, text: str) -> Path:
            self._files.certificates(("validation", *place), text)
            return self._files.path(text)

        def secret(place: Place, text: str) -> Path:
            return self._files.secret(("validation", *place), text)

        note = partial(self._note_below, ("validation",))
        at_least = max((profile.perspectives_required for profile in profiles), default=0)
        return validation_settings(self._root.validation, at_least=at_least, files=Files(certificates, secret), note=note)

    def _database(self) -> str:
        url = self._root.database
        if (url is None) == (self._root.database_file is None):
            self._document.note((), "give one of database and database_file")
            return "sqlite:"
        place: Place = ("database",)
        if url is None:
            place = ("database_file",)
            file = self._files.secret(place, self._root.database_file or "")
            self._document.check()
            url = file.read_text(encoding="utf-8", errors="replace").strip()
        if url.startswith("sqlite:"):
            return f"sqlite://{self._files.path(url.removeprefix('sqlite:').removeprefix('//'))}"
        if not url.startswith(("postgresql://", "postgres://")):
            self._document.note(place, "a URL such as sqlite:certwright.db or postgresql://user@host/certwright")
        return url

    def _sealing_keys(self) -> tuple[bytes, ...]:
        """None without a file, which is right as long as nothing is sealed."""
        place, given = ("secrets_key_file",), self._root.secrets_key_file
        if given is None:
            for name, endpoint in self._root.endpoints.acme.items():
                if endpoint.external_account != "none":
                    self._document.note(("endpoints", "acme", name, "external_account"), NO_SEALING_KEY)
            for name, label in self._root.endpoints.est.items():
                if "digest" in label.authenticate:
                    self._document.note(("endpoints", "est", name, "authenticate"), NO_DIGEST_KEY)
                if label.full_cmc:
                    self._document.note(("endpoints", "est", name, "full_cmc"), NO_CMC_KEY)
            return ()
        before = len(self._document.problems)
        path = self._files.secret(place, given)
        if len(self._document.problems) > before:
            return ()
        try:
            return parse_keys(path.read_bytes())
        except OSError as error:
            self._document.note(place, f"cannot read {path}: {error.strerror}")
        except ValueError as error:
            self._document.note(place, f"{path}: {error}")
        return ()

    def _workers(self, database: str) -> int:
        if database.startswith("sqlite:") and self._root.workers > 1:
            self._document.note(("workers",), ONE_WRITER)
        return self._root.workers

    def _default_http_url(self) -> str:
        host = urlsplit(self._root.base_url).hostname or "localhost"
        port = self._root.listen.http[1] if self._root.listen.http else 80
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}" if port == 80 else f"http://{shown}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"  # `serve` looks at where its sockets are
