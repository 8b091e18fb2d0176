"""What `certwright scep challenge …` does."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from certwright import output
from certwright.admin import check_endpoint, check_profile, credential_row, note_roles, secret_of, with_credentials
from certwright.cli_options import Output
from certwright.commands import find_config, say, with_database
from certwright.config import Config, load
from certwright.config_values import parse_duration
from certwright.errors import Refused
from certwright.failures import DONE
from issuance.credentials import CredentialKind, Credentials, scep_challenge_id
from issuance.scep_challenges import ID, MAX_LIFETIME, ChallengeRecord, ScepChallenges, Terms, foreseen
from pki.clock import Micros, SystemClock, rfc3339
from pki.identifiers import parse_identifier, shown
from pki.reasons import Reason, Rejection
from pki.subject import parse_subject, subject_text
from policy.principal import COMMAND_LINE, Principal, PrincipalKind
from scep.endpoint import Way
from storage.database import Database

T = TypeVar("T")

# ---------------------------------------------------------------------- static ones


def challenge_set(
    config: Path | None, endpoint: str, *, name: str, roles: list[str], profile: str, challenge_file: Path | None
) -> int:
    found = load(find_config(config))
    check_endpoint("SCEP", endpoint, found.scep)
    check_profile(found, profile)
    challenge, id_ = secret_of(challenge_file), scep_challenge_id(endpoint, name)

    async def replaced(those: Credentials) -> bool:
        before = await those.list(CredentialKind.SCEP_CHALLENGE)
        await those.set_scep_challenge(endpoint=endpoint, name=name, challenge=challenge, roles=roles, profile=profile)
        return any(state.credential.id == id_ and state.disabled_at is None for state in before)

    had = with_credentials(found, replaced)
    say(challenge if challenge_file is None else f"challenge {f'{name} ' if name else ''}of {endpoint} set")
    if had:
        sys.stderr.write(
            f"certwright: note: the challenge {shown(id_)} that was set before opens nothing any more; "
            "--name sets another beside it\n"
        )
    note_roles(found, roles)
    return DONE


# ---------------------------------------------------------------------- those that open once


def challenge_create(
    config: Path | None,
    endpoint: str,
    *,
    subject: str | None,
    names: list[str],
    any_name: bool,
    roles: list[str],
    profile: str,
    expires: str,
    form: Output,
) -> int:
    found = load(find_config(config))
    check_endpoint("SCEP", endpoint, found.scep)
    check_profile(found, profile)
    if Way.ONE_TIME not in found.scep[endpoint].challenges:
        ways = ", ".join([*(way.value for way in found.scep[endpoint].challenges), Way.ONE_TIME.value])
        raise Refused(
            f"the SCEP endpoint {endpoint!r} takes no challenges that open once; in {found.file}, give it the line "
            f"`challenge: [{ways}]`, and send SIGHUP to the server"
        )
    lifetime = _lifetime(expires)
    terms = Terms(
        endpoint,
        frozenset(roles),
        None if subject is None else parse_subject(subject),
        frozenset(parse_identifier(name) for name in names) if names else None,
        profile,
    )
    _check_bound(terms, any_name=any_name)
    why_not = None if terms.any_name else _foreseen(found, terms)
    made = _with_challenges(found, lambda those: those.create(terms, lifetime=lifetime, made_by=COMMAND_LINE))
    if form is Output.TABLE:
        say(made.challenge)
    else:
        row = {"id": made.id, "challenge": made.challenge, "endpoint": endpoint, "expires_at": rfc3339(made.expires_at)}
        output.show(row, form.value)
    note_roles(found, roles)
    if why_not is not None:
        sys.stderr.write(f"certwright: note: its request will be refused as things are: {why_not}\n")
    return DONE


def _lifetime(expires: str) -> timedelta:
    try:
        life = parse_duration(expires)
    except ValueError as error:
        raise Refused(f"--expires: {error}") from error
    if not timedelta(0) < life <= MAX_LIFETIME:
        raise Refused(f"--expires: a challenge that opens once does so for at most {MAX_LIFETIME.days} days; write 1h, or 30d")
    return life


def _check_bound(terms: Terms, *, any_name: bool) -> None:
    if terms.any_name and not any_name:
        raise Refused(
            "for which request? Give --subject, --san or both: whoever knows the challenge can have it for nothing else. "
            "With --any-name they can have it for every name that the policies grant to its roles"
        )
    if any_name and not terms.any_name:
        raise Refused("--any-name is for a challenge without --subject and --san; leave out one or the other")


def _foreseen(config: Config, terms: Terms) -> str | None:
    """Why policy would refuse the request that the challenge is made for, as far as it can be told. Raises Rejection."""
    profile = config.profiles.get(terms.profile or config.scep[terms.endpoint].profile)
    client = Principal(PrincipalKind.SCEP_CLIENT, "", terms.roles)
    why_not = foreseen(terms, client, profile=profile, policies=config.policies)
    return None if why_not is None else why_not.detail


# ---------------------------------------------------------------------- both


def challenge_list(config: Path | None, limit: int, form: Output) -> int:
    found, now = load(find_config(config)), SystemClock().micros()

    async def rows(database: Database) -> list[dict[str, object]]:
        static = await Credentials(database=database, clock=SystemClock()).list(CredentialKind.SCEP_CHALLENGE)
        once = await ScepChallenges(database=database, clock=SystemClock()).list(limit=limit)
        opens = [credential_row(state, now) for state in static]
        return [
            *(
                {
                    "id": row["id"],
                    "endpoint": state.credential.endpoint,
                    "kind": Way.STATIC.value,
                    "for": "any request",
                    "roles": row["roles"],
                    "profile": row["profile"],
                    "made_by": "",
                    "created": row["created"],
                    "expires": row["expires"],
                    "state": "open" if row["opens"] else "disabled",
                }
                for state, row in zip(static, opens, strict=True)
            ),
            *(_one_time_row(record, now) for record in once),
        ]

    output.show(with_database(found, rows), form.value)
    return DONE


def _one_time_row(record: ChallengeRecord, now: Micros) -> dict[str, object]:
    terms = record.terms
    parts = [] if terms.subject is None else [subject_text(terms.subject)]
    parts += sorted(name.tag for name in terms.names or ())
    return {
        "id": record.id,
        "endpoint": terms.endpoint,
        "kind": Way.ONE_TIME.value,
        "for": "any request" if terms.any_name else " ".join(parts),
        "roles": sorted(terms.roles),
        "profile": terms.profile,
        "made_by": record.made_by,
        "created": rfc3339(record.created_at),
        "expires": rfc3339(record.expires_at),
        "state": record.state(now).value,
    }


def challenge_disable(config: Path | None, challenge_id: str) -> int:
    found = load(find_config(config))
    if not (ID.fullmatch(challenge_id) and _disabled_one(found, challenge_id)):
        with_credentials(found, lambda those: those.disable(CredentialKind.SCEP_CHALLENGE, challenge_id))
    say(f"challenge {shown(challenge_id)} opens nothing any more")
    return DONE


def _disabled_one(config: Config, challenge_id: str) -> bool:
    """False where there is none that still opens: an endpoint may be called so, too."""
    try:
        _with_challenges(config, lambda those: those.disable(challenge_id, by=COMMAND_LINE))
    except Rejection as rejection:
        if rejection.reason is Reason.NOT_FOUND:
            return False
        raise
    return True


def _with_challenges(config: Config, use: Callable[[ScepChallenges], Awaitable[T]]) -> T:
    return with_database(config, lambda database: use(ScepChallenges(database=database, clock=SystemClock())))
