"""What a label is called and whom it trusts: what could never work is an error, what has stopped working is told by `certwright check`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from certwright.config import parse
from certwright.doctor import check
from certwright.yaml_positions import ConfigError
from est.endpoint import METHODS
from tests.helpers.authorities import START, constraints, name
from tests.helpers.clock import FakeClock

DAY = timedelta(days=1)


def configured(made: Path) -> str:
    return (made / "certwright.yaml").read_text()


@pytest.mark.parametrize("label", [*METHODS, "CACerts"])
def test_a_label_is_not_called_like_an_operation(made: Path, label: str) -> None:
    """RFC 7030 §3.2.2: "the CA label MUST NOT be the same as any defined operation path segment"."""
    text = configured(made).replace("  est:\n    default:", f"  est:\n    {label}: {{profile: device}}\n    default:", 1)
    with pytest.raises(ConfigError, match=f"called like an operation of EST .* rename {label}"):
        parse(made / "certwright.yaml", text)


def anchor(key: Any, *, end: timedelta = 900 * DAY) -> str:
    """PEM of a CA with this key."""
    own = name("Maker")
    builder = x509.CertificateBuilder().subject_name(own).issuer_name(own).public_key(key.public_key()).serial_number(7)
    builder = builder.not_valid_before(START - 900 * DAY).not_valid_after(START + end)
    for extension, critical in (constraints(),):
        builder = builder.add_extension(extension, critical=critical)
    made = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    return made.public_bytes(Encoding.PEM).decode()


def trusting(made: Path, file: Path) -> str:
    return configured(made).replace("client_certificates: {", f"client_certificates: {{anchors: [{file}], ", 1)


@pytest.mark.parametrize(
    ("key", "taken"),
    [
        pytest.param(ec.generate_private_key(ec.SECP256R1()), True, id="P-256"),
        pytest.param(ec.generate_private_key(ec.SECP521R1()), True, id="P-521"),
        pytest.param(rsa.generate_private_key(65537, 2048), True, id="RSA 2048"),
        pytest.param(rsa.generate_private_key(65537, 1024), False, id="RSA 1024"),
        pytest.param(ec.generate_private_key(ec.SECP256K1()), False, id="secp256k1"),
        pytest.param(ed25519.Ed25519PrivateKey.generate(), False, id="Ed25519"),
    ],
)
def test_an_anchor_with_a_key_by_which_no_path_is_verified_is_refused(
    made: Path, tmp_path: Path, key: Any, taken: bool
) -> None:
    file = tmp_path / "maker.pem"
    file.write_text(anchor(key))
    if taken:
        assert parse(made / "certwright.yaml", trusting(made, file)).est["default"].anchors
        return
    with pytest.raises(ConfigError, match="nothing can be trusted by 'CN=Maker'"):
        parse(made / "certwright.yaml", trusting(made, file))


@pytest.mark.parametrize(
    ("end", "said"),
    [(-1 * DAY, "has expired on 2026-10-31"), (24 * DAY, "is good until 2026-11-25 only"), (900 * DAY, "")],
    ids=["expired", "soon", "well"],
)
def test_check_says_which_anchor_has_ended_or_will(
    made: Path, tmp_path: Path, clock: FakeClock, capsys: pytest.CaptureFixture[str], end: timedelta, said: str
) -> None:
    file = tmp_path / "maker.pem"
    file.write_text(anchor(ec.generate_private_key(ec.SECP256R1()), end=end))
    other = made / "anchors.yaml"
    other.write_text(trusting(made, file))
    try:
        check(other, clock)
    finally:
        other.unlink()
    told = [line for line in capsys.readouterr().out.splitlines() if "anchor" in line and "[warn]" in line]
    assert len(told) == bool(said)
    assert all(f"EST endpoint default: its anchor 'CN=Maker' {said}" in line for line in told)


def test_the_endpoint_of_a_released_configuration_is_what_it_was(made: Path) -> None:
    """Passwords, and nothing that has come since."""
    text = configured(made)
    begin, end = text.index("  est:\n    default:"), text.index("  scep:\n    default:")
    text = f"{text[:begin]}  est:\n    default: {{profile: device, authenticate: [basic]}}\n{text[end:]}"
    begin, end = text.index("  est:\n    certificate:"), text.index("profiles: ")
    text = text[:begin] + text[end:]
    text = text.replace("secrets_key_file: ", "# ")
    label = parse(made / "certwright.yaml", text).est["default"]
    assert (label.authenticate, label.proof_linking, label.csr_attributes) == (frozenset({"basic"}), "off", "none")
    assert not any((label.server_keygen, label.full_cmc, label.require_approval, label.roles, label.anchors))
