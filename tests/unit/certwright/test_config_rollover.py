"""`rollover` of an issuer: what takes clients from one root to another, and nothing else."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from certwright.compose_est import est_endpoint
from certwright.config import Config, parse
from certwright.yaml_positions import ConfigError
from tests.helpers.ca import ca_certificate
from tests.helpers.rollover import Rollover


@pytest.fixture
def rollover(made: Path) -> Rollover:
    ca = made / "ca"
    key = load_pem_private_key((ca / "root.key").read_bytes(), (ca / "root.passphrase").read_bytes())
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    return Rollover(x509.load_pem_x509_certificate((ca / "root.pem").read_bytes()), key)


def load(made: Path, files: list[str]) -> Config:
    """`rollover` is the device CA's; the default EST label issues by it."""
    text = (made / "certwright.yaml").read_text()
    before, after = text.split("  devices:      # RSA", 1)
    after = after.replace("    chain: [ca/root.pem]\n", f"    chain: [ca/root.pem]\n    rollover: [{', '.join(files)}]\n", 1)
    return parse(made / "certwright.yaml", before + "  devices:      # RSA" + after)


def pem(folder: Path, *certificates: x509.Certificate) -> str:
    path = folder / f"{certificates[0].serial_number:x}.pem"
    path.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in certificates))
    return str(path)


def der(*certificates: x509.Certificate) -> tuple[bytes, ...]:
    return tuple(one.public_bytes(Encoding.DER) for one in certificates)


def test_they_are_handed_out_by_the_labels_of_that_issuer_after_its_own_chain(
    made: Path, tmp_path: Path, rollover: Rollover
) -> None:
    config = load(made, [pem(tmp_path, one) for one in rollover.all])
    given = est_endpoint(config, config.est["default"]).ca_certificates
    assert given[1:] == der(rollover.new, *rollover.all)
    assert config.issuers["issuing"].rollover == ()


def test_each_is_handed_out_once_however_often_it_is_listed(made: Path, tmp_path: Path, rollover: Rollover) -> None:
    file = pem(tmp_path, rollover.new_with_old)
    config = load(made, [file, "ca/root.pem", file])
    given = est_endpoint(config, config.est["default"]).ca_certificates
    assert given[1:] == der(rollover.new, rollover.new_with_old)


def test_a_root_counts_that_only_another_listed_one_leads_to_and_their_order_is_free(
    made: Path, tmp_path: Path, rollover: Rollover
) -> None:
    # OldWithOld has neither name nor key of the chain; NewWithOld is what joins it.
    config = load(made, [pem(tmp_path, rollover.old, rollover.new_with_old)])
    assert config.issuers["devices"].rollover == der(rollover.old, rollover.new_with_old)


def test_certificates_that_cannot_be_read_are_named(made: Path, tmp_path: Path, rollover: Rollover) -> None:
    future = rollover.new.public_bytes(Encoding.DER).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x04", 1)  # version 5
    unread = tmp_path / "future.pem"
    unread.write_text(ssl.DER_cert_to_PEM_cert(future))
    key = ec.generate_private_key(ec.SECP256R1())
    strange = (
        x509.CertificateBuilder(rollover.new.subject, rollover.new.subject, key.public_key(), 1)
        .not_valid_before(rollover.new.not_valid_before_utc)
        .not_valid_after(rollover.new.not_valid_after_utc)
        .add_extension(
            x509.UnrecognizedExtension(x509.OID_SUBJECT_ALTERNATIVE_NAME, b"\x30\x02\xa3\x00"), critical=False
        )  # x400Address
        .sign(key, hashes.SHA256())
    )
    for file, said in ((str(unread), "holds no certificate in PEM"), (pem(tmp_path, strange), "is no CA")):
        with pytest.raises(ConfigError) as refused:
            load(made, [file])
        assert said in str(refused.value)


def test_what_leads_nowhere_or_is_no_ca_is_refused(made: Path, tmp_path: Path, rollover: Rollover) -> None:
    stranger = ca_certificate(ec.generate_private_key(ec.SECP256R1()), "Stranger")
    namesake = ca_certificate(
        ec.generate_private_key(ec.SECP256R1()), rollover.new.subject.rfc4514_string().removeprefix("CN=")
    )
    for files, said in (
        ([pem(tmp_path, stranger)], "'CN=Stranger' was not issued by a CA of this chain"),
        ([pem(tmp_path, rollover.new_with_old), pem(tmp_path, stranger)], "'CN=Stranger' was not issued"),
        ([pem(tmp_path, rollover.old)], "'CN=Old Root' was not issued"),
        ([pem(tmp_path, namesake)], "was not issued by a CA of this chain"),
        (["tls/server.pem"], "is no CA"),
        (["ca/nowhere.pem"], "there is no file"),
        (["secrets.key"], "holds no certificate"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            load(made, files)
        assert ":" in str(caught.value)  # a line
