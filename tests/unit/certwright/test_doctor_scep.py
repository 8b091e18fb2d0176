"""What `certwright check` says of SCEP endpoints whose configuration is valid and lets in the wrong ones, or nobody."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from certwright.config import parse
from certwright.doctor import check
from certwright.doctor_scep import StaticChallenge, challenge_warnings, static_challenges
from issuance.credentials import CredentialKind, Credentials
from storage.database import Database
from tests.helpers.clock import FakeClock

DEVICE = frozenset({"device"})
KNOWN = StaticChallenge("default", "default", DEVICE, chosen=False)


def warnings(made: Path, edit: tuple[str, str], *challenges: StaticChallenge) -> list[str]:
    text = (made / "certwright.yaml").read_text()
    before = "      challenge: [static, one-time]"
    assert before in text
    changed = text.replace(before, edit[0], 1).replace("renewal: {roles: [device]}", edit[1], 1)
    return list(challenge_warnings(parse(made / "certwright.yaml", changed), challenges))


AS_MADE = ("      challenge: [static, one-time]", "renewal: {roles: [device]}")


def test_what_init_makes_is_well(made: Path) -> None:
    assert warnings(made, AS_MADE, KNOWN) == []


@pytest.mark.parametrize(
    ("edit", "challenge", "said"),
    [
        pytest.param(AS_MADE, None, "nobody knows a static challenge of it", id="no static challenge"),
        pytest.param(("      challenge: [one-time]", AS_MADE[1]), None, "", id="none is needed"),
        pytest.param((AS_MADE[0], "renewal: {roles: [nobody]}"), KNOWN, "role of its renewal (nobody)", id="renewal roles"),
        pytest.param(
            (f"{AS_MADE[0]}\n      challenge_page: {{roles: [nobody]}}", AS_MADE[1]),
            KNOWN,
            "role of its challenge_page (nobody)",
            id="page roles",
        ),
        pytest.param(
            AS_MADE,
            StaticChallenge("default:x", "default", frozenset({"nobody"}), chosen=False),
            "static challenge default:x has no role that a policy has (nobody)",
            id="challenge roles",
        ),
        pytest.param(
            AS_MADE,
            StaticChallenge("default", "default", DEVICE, chosen=False, profile="short-lived"),
            "no policy grants profile short-lived to its static challenge default (device)",
            id="the profile of a challenge",
        ),
        pytest.param(
            (f"{AS_MADE[0]}\n      challenge_page: {{roles: [acme]}}", AS_MADE[1]),
            KNOWN,
            "no policy grants profile device to its challenge_page (acme)",
            id="the profile of a page",
        ),
        pytest.param(
            AS_MADE, StaticChallenge("default", "default", DEVICE, chosen=True), "was chosen by somebody", id="chosen"
        ),
        pytest.param(
            (f"{AS_MADE[0]}\n      legacy: [des-cbc]", AS_MADE[1]), KNOWN, "breaks its DES", id="DES around a static challenge"
        ),
        pytest.param(
            ("      challenge: [one-time]\n      legacy: [des-cbc, sha1]", AS_MADE[1]), None, "", id="DES around one-time ones"
        ),
    ],
)
def test_what_lets_in_nobody_or_anybody_is_said(
    made: Path, edit: tuple[str, str], challenge: StaticChallenge | None, said: str
) -> None:
    found = warnings(made, edit, *([] if challenge is None else [challenge]))
    assert [said in one for one in found] == ([True] if said else [])


async def test_a_challenge_that_a_person_chose_is_told_from_a_generated_one(database: Database, clock: FakeClock) -> None:
    credentials = Credentials(database=database, clock=clock)
    for name, secret in (("", "cws_" + "a" * 43), ("old", "correct horse"), ("gone", "battery staple")):
        await credentials.set_scep_challenge(endpoint="default", name=name, challenge=secret, roles=["device"], profile=name)
    await credentials.disable(CredentialKind.SCEP_CHALLENGE, "default:gone")
    found = {one.id: (one.chosen, one.profile) for one in await static_challenges(database, clock.micros())}
    assert found == {"default": (False, ""), "default:old": (True, "old")}


def test_check_warns_of_the_endpoint_that_has_no_challenge(
    made: Path, tmp_path: Path, clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "certwright"
    shutil.copytree(made, folder)
    file = folder / "certwright.yaml"
    file.write_text(
        file.read_text().replace(
            "  scep:\n    default:", "  scep:\n    other: {profile: device, registration_authority: scep}\n    default:", 1
        )
    )
    check(file, clock)
    assert "certwright scep challenge set --endpoint other" in capsys.readouterr().out
