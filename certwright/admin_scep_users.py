"""What `certwright scep user …` does."""

from __future__ import annotations

from pathlib import Path

from certwright import output
from certwright.admin import check_endpoint, credential_row, secret_of, with_credentials
from certwright.cli_options import Output
from certwright.commands import find_config, say
from certwright.config import load
from certwright.errors import Refused
from certwright.failures import DONE
from issuance.credentials import CredentialKind, scep_user_id
from pki.clock import SystemClock
from pki.identifiers import shown


def user_add(config: Path | None, user: str, *, endpoint: str, password_file: Path | None) -> int:
    found = load(find_config(config))
    check_endpoint("SCEP", endpoint, found.scep)
    if found.scep[endpoint].challenge_page is None:
        raise Refused(
            f"the SCEP endpoint {endpoint!r} has no challenge page; in {found.file}, add challenge_page to it, "
            "and send SIGHUP to the server"
        )
    password = secret_of(password_file)
    with_credentials(found, lambda those: those.set_scep_user(endpoint=endpoint, user=user, password=password))
    say(password if password_file is None else f"password of {shown(user)} set")
    return DONE


def user_list(config: Path | None, form: Output) -> int:
    found = with_credentials(load(find_config(config)), lambda those: those.list(CredentialKind.SCEP_USER))
    now = SystemClock().micros()
    rows = []
    for state in found:
        row = credential_row(state, now)
        _, _, name = state.credential.id.partition("/")  # no endpoint's name has one
        rows.append({"endpoint": state.credential.endpoint, "user": name, "created": row["created"], "opens": row["opens"]})
    output.show(rows, form.value)
    return DONE


def user_disable(config: Path | None, user: str, endpoint: str) -> int:
    found = load(find_config(config))
    with_credentials(found, lambda those: those.disable(CredentialKind.SCEP_USER, scep_user_id(endpoint, user)))
    say(f"{shown(user)} gets no challenges at the SCEP endpoint {endpoint} any more")
    return DONE
