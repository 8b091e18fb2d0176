"""`certwright keys block`: what it says, and what it refuses."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from acmeserver.jwk import parse_jwk
from acmeserver.store import INSERT_ACCOUNT_SQL
from certwright import admin_keys
from certwright.commands import with_database
from certwright.config import load
from certwright.errors import Refused
from pki.reasons import Rejection
from storage.database import Step
from tests.helpers.acme_client import AccountKey


@pytest.fixture
def ca(made: Path, tmp_path: Path) -> Path:
    """Of one's own: `made` is everybody's."""
    return shutil.copytree(made, tmp_path / "certwright")


def test_a_list_is_taken_and_said_to_be(ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "list.txt"
    file.write_text("".join(hashlib.sha256(bytes([number])).hexdigest() + "\n" for number in range(3)))
    assert admin_keys.block(ca / "certwright.yaml", file, "found") == 0
    assert capsys.readouterr().out == "3 keys read, 3 of them new; they are refused from now on, on every node\n"
    assert admin_keys.block(ca / "certwright.yaml", file, "found") == 0
    assert capsys.readouterr().out.startswith("3 keys read, 0 of them new")


def test_no_list_and_a_damaged_one_block_nothing(ca: Path, tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    with pytest.raises(Refused, match="No such file"):
        admin_keys.block(ca / "certwright.yaml", file, "found")
    file.write_text("# nothing\n")
    with pytest.raises(Refused, match="holds no keys"):
        admin_keys.block(ca / "certwright.yaml", file, "found")
    file.write_text(hashlib.sha256(b"").hexdigest() + "\nnonsense\n")
    with pytest.raises(Rejection, match="line 2"):
        admin_keys.block(ca / "certwright.yaml", file, "found")


def test_the_key_of_a_certificate_is_blocked_and_nobody_else_is_named(ca: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert admin_keys.block(ca / "certwright.yaml", ca / "ca" / "root.pem", "found") == 0
    said = capsys.readouterr()
    assert (said.out[:17], said.err) == ("1 keys read, 1 of", "")


def test_an_account_that_has_the_key_is_revoked_and_counted(
    ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jwk = parse_jwk(AccountKey().jwk)
    with_database(
        load(ca / "certwright.yaml"),
        lambda opened: opened.write(
            Step(INSERT_ACCOUNT_SQL, ("a1", "default", jwk.thumbprint, jwk.text, "[]", 1, 0, "", "", ""))
        ),
    )
    file = tmp_path / "key.pem"
    file.write_bytes(jwk.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert admin_keys.block(ca / "certwright.yaml", file, "found") == 0
    assert "1 ACME accounts had one of them and are revoked" in capsys.readouterr().out
    assert admin_keys.block(ca / "certwright.yaml", file, "found") == 0
    assert "ACME accounts" not in capsys.readouterr().out
