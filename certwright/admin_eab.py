"""`certwright eab …`: the keys that bind ACME accounts to somebody an operator knows (RFC 8555 §7.3.4)."""

from __future__ import annotations

import secrets
import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from acmeserver.external_keys import ExternalKey, ExternalKeys, NewKey
from acmeserver.urls import Urls
from certwright import output
from certwright.cli_options import Output
from certwright.commands import find_config, say, with_database
from certwright.config import NO_SEALING_KEY, Config, did_you_mean, load
from certwright.config_acme import AcmeSettings
from certwright.config_values import parse_duration
from certwright.errors import Refused
from certwright.failures import DONE
from pki.clock import Micros, SystemClock, after, rfc3339
from pki.sealing import KEY_OCTETS, Sealer
from policy.principal import COMMAND_LINE

T = TypeVar("T")


def create(
    config: Path | None,
    *,
    endpoint: str,
    roles: list[str],
    names: list[str],
    profiles: list[str],
    expires: str | None,
    reusable: bool,
    form: Output,
) -> int:
    found = load(find_config(config))
    settings = _endpoint(found, endpoint)
    if not found.sealing_keys:
        raise Refused(NO_SEALING_KEY)
    canonical = [_profile(found, settings, name) for name in profiles]
    until = _until(expires)
    made = _with_keys(
        found,
        lambda keys: keys.create(
            endpoint=endpoint,
            roles=roles,
            names=names,
            profiles=canonical,
            expires_at=until,
            reusable=reusable,
            principal=COMMAND_LINE,
        ),
    )
    lines = command_lines(found, endpoint, made)
    if form is Output.TABLE:
        say(f"key id    {made.kid}\nHMAC key  {made.hmac_key}\n")
        say("The HMAC key is not shown again. One of these registers an account with it:")
        say("".join(f"\n# {client}\n{line}\n" for client, line in lines.items()))
    else:
        output.show({"kid": made.kid, "hmac_key": made.hmac_key, "commands": lines}, form.value)
    _note_roles(found, roles or sorted(settings.roles))
    return DONE


def show(config: Path | None, form: Output) -> int:
    found = load(find_config(config))
    now = SystemClock().micros()
    rows = [_row(key, accounts, now) for key, accounts in _with_keys(found, lambda keys: keys.list())]
    output.show(rows, form.value)
    return DONE


def revoke(config: Path | None, kid: str) -> int:
    _with_keys(load(find_config(config)), lambda keys: keys.revoke(kid, COMMAND_LINE))
    say(f"external account key {kid} is revoked: it binds no account any more, and the accounts that it bound get nothing new")
    return DONE


def command_lines(config: Config, endpoint: str, key: NewKey) -> dict[str, str]:
    """Registering with the key, by client; secrets are there because this is shown once, to their owner."""
    directory = Urls(base_url=config.base_url, endpoint=endpoint).directory
    root = shlex.quote(str(config.file.absolute().parent / "ca" / "root.pem"))
    binding = f"--eab-kid {key.kid} --eab-hmac-key {key.hmac_key}"
    return {
        "certbot": f"REQUESTS_CA_BUNDLE={root} certbot register --server {directory} {binding} "
        "--agree-tos --register-unsafely-without-email --non-interactive",
        "lego 4": f"LEGO_CA_CERTIFICATES={root} lego --server {directory} --eab --kid {key.kid} --hmac {key.hmac_key} "
        "--accept-tos --email you@example.com --http --domains www.example.com run",
        "acme.sh": f"acme.sh --register-account --server {directory} --ca-bundle {root} {binding}",
    }


def _endpoint(config: Config, name: str) -> AcmeSettings:
    settings = config.acme.get(name)
    if settings is None:
        raise Refused(f"--endpoint: there is no ACME endpoint {name!r}{did_you_mean(name, config.acme)}")
    if settings.external_account == "none":
        raise Refused(
            f"the ACME endpoint {name!r} takes no external account binding; in {config.file}, give it "
            "external_account: optional (or required), and send SIGHUP to the server"
        )
    return settings


def _profile(config: Config, settings: AcmeSettings, name: str) -> str:
    canonical = config.profiles.get(name).name
    if canonical not in settings.profiles:
        raise Refused(f"--profile: the ACME endpoint {settings.name!r} has only: {', '.join(settings.profiles)}")
    return canonical


def _until(expires: str | None) -> Micros | None:
    if expires is None:
        return None
    try:
        life = parse_duration(expires)
    except ValueError as error:
        raise Refused(f"--expires: {error}") from error
    if not life:
        raise Refused(f"--expires: with {expires}, no account could ever be bound; write 90d, or leave it out for `never`")
    return after(SystemClock().micros(), life)


def _note_roles(config: Config, roles: list[str]) -> None:
    granted = {role for policy in config.policies for role in policy.roles}
    if not granted & set(roles):
        said = ", ".join(map(repr, roles))
        sys.stderr.write(
            f"certwright: note: no policy names the role {said}, so such an account may not have any certificate\n"
        )


def _row(key: ExternalKey, accounts: int, now: Micros) -> dict[str, object]:
    return {
        "kid": key.kid,
        "endpoint": key.endpoint,
        "roles": sorted(key.roles),
        "names": list(key.names),
        "profiles": list(key.profiles),
        "use": "reusable" if key.reusable else "single",
        "created": rfc3339(key.created_at),
        "expires": rfc3339(key.expires_at) if key.expires_at is not None else None,
        "accounts": accounts,
        "state": key.state(now).value,
    }


def _with_keys(config: Config, use: Callable[[ExternalKeys], Awaitable[T]]) -> T:
    """Only `create` seals, so only it has to have the real key: a key can be revoked when the file is lost."""
    sealer = Sealer(config.sealing_keys or (secrets.token_bytes(KEY_OCTETS),))
    return with_database(config, lambda database: use(ExternalKeys(database=database, clock=SystemClock(), sealer=sealer)))
