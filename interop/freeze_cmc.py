"""Writes tests/fixtures/cmc anew: python -m interop.freeze_cmc. What each file says is in messages.json beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from interop.bouncycastle import compiled, java
from interop.est import CMC_RA, Authority
from interop.support import P256, RSA, make_csr, short_directory

TO = Path(__file__).parents[1] / "tests" / "fixtures" / "cmc"
SECRET = "a secret of the fixture"
NONCE, QUERY = "0a" * 16, "0b" * 20
UNKNOWN = "1.3.6.1.4.1.32473.1"  # RFC 5612's example arc


@dataclass(frozen=True, slots=True)
class Message:
    words: Sequence[str]
    controls: Sequence[str]  # the last arcs below id-cmc, in order; a whole OID for others
    requests: Sequence[str] = ()
    secret: bool = False
    signer: Sequence[str] = ("--agent", "agent")


MESSAGES: Mapping[str, Message] = {
    "agent-tcr": Message(
        ["--transaction", "7", "--nonce", NONCE, "--regInfo", "floor=3", "--tcr", "ec"], ["5", "6", "18"], ["tcr ec"]
    ),
    "agent-crm": Message(["--transaction", "8", "--crm", "ec"], ["5"], ["crm ec"]),
    "agent-batch": Message(
        ["--nonce", NONCE, "--tcr", "ec", "--crm", "rsa", "--tcr", "rsa"], ["6"], ["tcr ec", "crm rsa", "tcr rsa"]
    ),
    "agent-revoke": Message(["--revoke", "agent.pem"], ["17"]),
    "agent-get-cert": Message(["--getCert", "agent.pem"], ["15"]),
    "agent-query": Message(["--query", QUERY, "--transaction", "9"], ["21", "5"]),
    "agent-unknown": Message(["--unknown", UNKNOWN, "--tcr", "ec"], [UNKNOWN], ["tcr ec"]),
    "secret-tcr": Message(
        ["--identification", "fixture", "--tcr", "ec"], ["2", "34", "22"], ["tcr ec"], secret=True, signer=("--by", "ec")
    ),
    "secret-crm": Message(
        ["--identification", "fixture", "--crm", "rsa"], ["2", "34", "22"], ["crm rsa"], secret=True, signer=("--by", "rsa")
    ),
    "agent-silent": Message(["--crm-silent", "rsa"], [], ["crm rsa"]),
    "nobody": Message(["--tcr", "ec"], [], ["tcr ec"], signer=()),
}


def freeze(classes: Path, home: Path, to: Path) -> None:
    years = 365 * 30
    authority = Authority.new("Fixture Offices", days=years)
    authority.certify("Fixture Office", [ExtendedKeyUsageOID.CLIENT_AUTH, CMC_RA], home=home, stem="agent", days=years)
    for stem, key in (("ec", P256), ("rsa", RSA)):
        make_csr(home, stem, cn=f"{stem}.example.com", names=[f"{stem}.example.com"], key=key)
    to.mkdir(parents=True, exist_ok=True)
    for name, message in MESSAGES.items():
        environment = {"CMC_SECRET": SECRET} if message.secret else {}
        java(classes, "PkiData", to / f"{name}.der", *message.words, *message.signer, home=home, env=environment)
    shutil.copy(home / "agent.pem", to)
    (to / "offices.pem").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    said = {
        name: {"controls": list(message.controls), "requests": list(message.requests), "signed": bool(message.signer)}
        for name, message in MESSAGES.items()
    }
    (to / "messages.json").write_text(json.dumps(said, indent=2) + "\n")


def main() -> None:
    with short_directory() as home:
        classes = home / "classes"
        classes.mkdir()
        freeze(compiled(classes), home, TO)


if __name__ == "__main__":
    main()
