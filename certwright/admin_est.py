"""What `certwright est …` does: users, tokens, shared secrets and key-encryption keys of EST endpoints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from certwright import output
from certwright.admin import check_endpoint, check_profile, credential_row, lifetime, note_roles, secret_of, with_credentials
from certwright.cli_options import Output
from certwright.commands import find_config, say, with_database
from certwright.config import NO_SECRETS_KEY, Config, load
from certwright.errors import Refused
from certwright.failures import DONE
from issuance.credentials import CredentialKind, Credentials, est_user_id
from issuance.digests import Digests
from issuance.lockout import Lockouts
from issuance.sealed import SealedKind, SealedSecrets, SealedState
from pki.clock import Micros, SystemClock, after, rfc3339
from pki.identifiers import shown
from pki.sealing import Sealer
from storage.database import Database

T = TypeVar("T")


# ---------------------------------------------------------------------- users


def user_add(
    config: Path | None, user: str, *, endpoint: str, roles: list[str], profile: str, password_file: Path | None
) -> int:
    found = load(find_config(config))
    check_endpoint("EST", endpoint, found.est)
    check_profile(found, profile)
    password = secret_of(password_file)

    async def add(database: Database) -> None:
        credentials = Credentials(database=database, clock=SystemClock())
        digest = None
        if "digest" in found.est[endpoint].authenticate:
            digests = _digests(found, database)
            digest = digests.step(endpoint=endpoint, user=user, realm=found.est[endpoint].realm, password=password)
        await credentials.set_est_user(
            endpoint=endpoint, user=user, password=password, roles=roles, profile=profile, digest=digest
        )

    with_database(found, add)
    say(password if password_file is None else f"password of {shown(user)} set")
    note_roles(found, roles)
    return DONE


def user_list(config: Path | None, form: Output) -> int:
    return _list(config, CredentialKind.EST_USER, form)


def user_disable(config: Path | None, user: str, endpoint: str) -> int:
    with_credentials(
        load(find_config(config)), lambda those: those.disable(CredentialKind.EST_USER, est_user_id(endpoint, user))
    )
    say(f"{shown(user)} opens nothing at the EST endpoint {endpoint} any more")
    return DONE


def _digests(config: Config, database: Database) -> Digests:
    clock = SystemClock()
    return Digests(
        database=database,
        clock=clock,
        sealed=_sealed(config, database),
        lockouts=Lockouts(database=database, clock=clock),
    )


# ---------------------------------------------------------------------- tokens


def token_create(config: Path | None, *, endpoint: str, roles: list[str], profile: str, expires: str | None) -> int:
    found = load(find_config(config))
    check_endpoint("EST", endpoint, found.est)
    check_profile(found, profile)
    if "bearer" not in found.est[endpoint].authenticate:
        raise Refused(
            f"the EST endpoint {endpoint!r} takes no tokens; in {found.file}, add bearer to its authenticate, "
            "and send SIGHUP to the server"
        )
    until = _until(expires)
    token = with_credentials(
        found, lambda those: those.create_est_token(endpoint=endpoint, roles=roles, profile=profile, expires_at=until)
    )
    say(token)
    note_roles(found, roles)
    return DONE


def token_list(config: Path | None, form: Output) -> int:
    return _list(config, CredentialKind.EST_TOKEN, form)


def token_disable(config: Path | None, token_id: str) -> int:
    with_credentials(load(find_config(config)), lambda those: those.disable(CredentialKind.EST_TOKEN, token_id))
    say(f"token {shown(token_id)} opens nothing any more")
    return DONE


def _list(config: Path | None, kind: CredentialKind, form: Output) -> int:
    found = with_credentials(load(find_config(config)), lambda those: those.list(kind))
    now = SystemClock().micros()
    output.show([{"endpoint": state.credential.endpoint, **credential_row(state, now)} for state in found], form.value)
    return DONE


# ---------------------------------------------------------------------- shared secrets


def secret_create(
    config: Path | None,
    identification: str,
    *,
    endpoint: str,
    roles: list[str],
    profile: str,
    expires: str | None,
    file: Path | None,
) -> int:
    found = load(find_config(config))
    check_endpoint("EST", endpoint, found.est)
    check_profile(found, profile)
    given, until = None if file is None else secret_of(file), _until(expires)
    secret = _with_sealed(
        found,
        lambda sealed: sealed.set_cmc_secret(
            endpoint=endpoint, identification=identification, roles=roles, profile=profile, expires_at=until, secret=given
        ),
    )
    say(secret if file is None else f"shared secret of {shown(identification)} set")
    note_roles(found, roles)
    return DONE


def secret_list(config: Path | None, form: Output) -> int:
    return _list_sealed(config, SealedKind.CMC_SECRET, "identification", form)


def secret_disable(config: Path | None, identification: str, endpoint: str) -> int:
    _disable(config, SealedKind.CMC_SECRET, endpoint, identification)
    say(f"the shared secret of {shown(identification)} opens nothing at the EST endpoint {endpoint} any more")
    return DONE


# ---------------------------------------------------------------------- key-encryption keys


def key_create(config: Path | None, key_id: str, *, endpoint: str, expires: str | None, file: Path | None) -> int:
    found = load(find_config(config))
    check_endpoint("EST", endpoint, found.est)
    octets, until = _hex("--id", key_id), _until(expires)
    given = None if file is None else _hex("--key-file", secret_of(file))
    key = _with_sealed(found, lambda sealed: sealed.set_key(endpoint=endpoint, key_id=octets, expires_at=until, key=given))
    say(key.hex() if file is None else f"key {octets.hex()} set")
    return DONE


def key_list(config: Path | None, form: Output) -> int:
    return _list_sealed(config, SealedKind.EST_KEY, "id", form)


def key_disable(config: Path | None, key_id: str, endpoint: str) -> int:
    octets = _hex("--id", key_id)
    _disable(config, SealedKind.EST_KEY, endpoint, octets.hex())
    say(f"no key is encrypted to {octets.hex()} at the EST endpoint {endpoint} any more")
    return DONE


def _hex(option: str, text: str) -> bytes:
    """The text is a secret, perhaps: it is not repeated."""
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise Refused(f"{option}: these are not octets in hex, two digits each") from error


# ---------------------------------------------------------------------- what is sealed


def _sealed(config: Config, database: Database) -> SealedSecrets:
    sealer = Sealer(config.sealing_keys) if config.sealing_keys else None
    return SealedSecrets(database=database, clock=SystemClock(), sealer=sealer)


def _with_sealed(config: Config, use: Callable[[SealedSecrets], Awaitable[T]]) -> T:
    if not config.sealing_keys:
        raise Refused(NO_SECRETS_KEY)
    return with_database(config, lambda database: use(_sealed(config, database)))


def _disable(config: Path | None, kind: SealedKind, endpoint: str, name: str) -> None:
    """A secret can be ended when the file of keys is lost."""
    found = load(find_config(config))
    with_database(found, lambda database: _sealed(found, database).disable(kind, endpoint=endpoint, name=name))


def _list_sealed(config: Path | None, kind: SealedKind, name: str, form: Output) -> int:
    found = load(find_config(config))
    states = with_database(found, lambda database: _sealed(found, database).list(kind))
    now = SystemClock().micros()
    output.show([_row(state, name, now) for state in states], form.value)
    return DONE


def _row(state: SealedState, name: str, now: Micros) -> dict[str, object]:
    return {
        "endpoint": state.endpoint,
        name: state.name,
        "roles": sorted(state.roles),
        "profile": state.profile,
        "created": rfc3339(state.created_at),
        "expires": rfc3339(state.expires_at) if state.expires_at is not None else None,
        "opens": state.opens(now),
    }


def _until(expires: str | None) -> Micros | None:
    return None if expires is None else after(SystemClock().micros(), lifetime(expires))
