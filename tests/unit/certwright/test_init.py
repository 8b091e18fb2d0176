"""`certwright init`: what lies in the directory, who may read it, and what the certificates of a new CA say (RFC 5280)."""

from __future__ import annotations

import asyncio
import ipaddress
import shlex
import shutil
import stat
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from certwright.config import load
from certwright.errors import InitError
from certwright.init import Options, init
from issuance.credentials import Credentials
from storage.open import open_database
from tests.helpers.clock import FakeClock

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
T = TypeVar("T")


def certificate(made: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((made / name).read_bytes())


def environment(made: Path) -> dict[str, str]:
    words = shlex.split((made / "bootstrap.env").read_text(), comments=True)
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def options(directory: Path) -> Options:
    return Options(directory=directory, base_url="https://ca.example.com:8443", names=("ca2.example.com", "192.0.2.7"))


def test_the_directory_is_private_and_every_secret_in_it_is_too(made: Path) -> None:
    modes = {str(path.relative_to(made)): stat.S_IMODE(path.stat().st_mode) for path in made.rglob("*") if path.is_file()}
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    secret = {name for name in modes if name.endswith((".key", "passphrase", ".env"))} | {"certwright.db"}
    assert len(secret) == 11
    assert {modes[name] for name in secret} == {0o600}
    assert modes["ca/root.pem"] == 0o644


def test_the_keys_of_the_cas_are_encrypted_and_the_roots_has_a_passphrase_of_its_own(made: Path) -> None:
    for name, phrase in (
        ("root", "root.passphrase"),
        ("issuing", "passphrase"),
        ("devices", "passphrase"),
        ("scep-ra", "passphrase"),
        ("est-ra", "passphrase"),
    ):
        pem = (made / "ca" / f"{name}.key").read_bytes()
        assert b"ENCRYPTED" in pem
        load_pem_private_key(pem, (made / "ca" / phrase).read_bytes())
    assert (made / "ca" / "passphrase").read_bytes() != (made / "ca" / "root.passphrase").read_bytes()


def test_bootstrap_env_holds_what_a_client_needs_to_know(made: Path) -> None:
    found = environment(made)
    assert list(found) == [
        "CERTWRIGHT_BASE_URL",
        "CERTWRIGHT_ACME_DIRECTORY",
        "CERTWRIGHT_CA_FILE",
        "CERTWRIGHT_API_KEY",
        "CERTWRIGHT_EST_URL",
        "CERTWRIGHT_EST_USER",
        "CERTWRIGHT_EST_PASSWORD",
        "CERTWRIGHT_SCEP_URL",
        "CERTWRIGHT_SCEP_CHALLENGE",
    ]
    assert found["CERTWRIGHT_ACME_DIRECTORY"] == "https://localhost:8443/acme/directory"
    assert found["CERTWRIGHT_EST_URL"] == "https://localhost:9443"
    assert found["CERTWRIGHT_SCEP_URL"] == "http://localhost:8080/scep"
    assert found["CERTWRIGHT_CA_FILE"] == str(made / "ca" / "root.pem")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


def test_the_first_credentials_open_and_are_nowhere_in_clear_text_but_in_bootstrap_env(made: Path) -> None:
    found = environment(made)

    async def check() -> None:
        database = await open_database(load(made / "certwright.yaml").database, migrate=False)
        credentials = Credentials(database=database, clock=FakeClock())
        key = await credentials.check_api_key(found["CERTWRIGHT_API_KEY"])
        assert key.roles == {"admin", "operator"}
        assert key.profile == "tls-server"
        user = await credentials.check_est_user(
            endpoint="default", user=found["CERTWRIGHT_EST_USER"], password=found["CERTWRIGHT_EST_PASSWORD"]
        )
        assert user.roles == {"device"}
        await credentials.check_scep_challenge(endpoint="default", challenge=found["CERTWRIGHT_SCEP_CHALLENGE"])
        await database.close()

    run(check())
    secrets = [found[name].encode() for name in ("CERTWRIGHT_API_KEY", "CERTWRIGHT_EST_PASSWORD", "CERTWRIGHT_SCEP_CHALLENGE")]
    for path in made.rglob("*"):
        if path.is_file() and path.name != "bootstrap.env":
            assert not any(secret in path.read_bytes() for secret in secrets), path


def extension(one: x509.Certificate, kind: type[x509.ExtensionType]) -> x509.Extension[Any]:
    return one.extensions.get_extension_for_class(kind)


def bits(one: x509.Certificate) -> set[str]:
    usage = extension(one, x509.KeyUsage).value
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
    )
    return {name for name in names if getattr(usage, name)}


CAS = [
    pytest.param("ca/root.pem", None, timedelta(days=3650), id="root"),
    pytest.param("ca/issuing.pem", 0, timedelta(days=1826), id="issuing"),
    pytest.param("ca/devices.pem", 0, timedelta(days=1826), id="devices"),
]


@pytest.mark.parametrize(("name", "path_length", "life"), CAS)
def test_a_ca_certificate_says_what_rfc_5280_wants_of_one(
    made: Path, name: str, path_length: int | None, life: timedelta
) -> None:
    ca, root = certificate(made, name), certificate(made, "ca/root.pem")
    constraints = extension(ca, x509.BasicConstraints)
    assert constraints.critical  # §4.2.1.9: MUST mark it as critical in CA certificates
    assert (constraints.value.ca, constraints.value.path_length) == (True, path_length)
    assert extension(ca, x509.KeyUsage).critical  # §4.2.1.3: SHOULD
    assert bits(ca) == {"digital_signature", "key_cert_sign", "crl_sign"}  # no keyEncipherment: SCEP clients would pick it
    identifier = extension(ca, x509.SubjectKeyIdentifier)
    assert not identifier.critical  # §4.2.1.2
    assert identifier.value == x509.SubjectKeyIdentifier.from_public_key(ca.public_key())
    assert ca.not_valid_before_utc == NOW - timedelta(hours=1)
    assert ca.not_valid_after_utc == NOW + life
    assert ca.serial_number.bit_length() > 64
    ca.verify_directly_issued_by(root)
    if ca != root:
        above = extension(root, x509.SubjectKeyIdentifier).value.digest
        assert extension(ca, x509.AuthorityKeyIdentifier).value.key_identifier == above  # §4.2.1.1
    assert len({certificate(made, param.values[0]).subject.rfc4514_string() for param in CAS}) == 3  # type: ignore[arg-type]  # pytest.param is untyped


def test_old_devices_find_nothing_but_rsa_up_to_the_root_and_everybody_else_gets_an_elliptic_ca(made: Path) -> None:
    assert isinstance(certificate(made, "ca/root.pem").public_key(), rsa.RSAPublicKey)
    assert isinstance(certificate(made, "ca/issuing.pem").public_key(), ec.EllipticCurvePublicKey)
    assert isinstance(certificate(made, "ca/devices.pem").public_key(), rsa.RSAPublicKey)


def test_scep_takes_no_old_algorithm_until_the_line_for_it_is_put_in(made: Path, tmp_path: Path) -> None:
    assert load(made / "certwright.yaml").scep["default"].legacy == frozenset()
    moved = tmp_path / "certwright"
    shutil.copytree(made, moved)
    text = (moved / "certwright.yaml").read_text()
    assert text.count("# legacy: [") == 1
    (moved / "certwright.yaml").write_text(text.replace("# legacy: [", "legacy: ["))
    assert load(moved / "certwright.yaml").scep["default"].legacy == {"sha1", "des-cbc", "des-ede3-cbc"}


def test_the_scep_ra_may_be_encrypted_to_and_may_not_issue(made: Path) -> None:
    ra = certificate(made, "ca/scep-ra.pem")
    assert bits(ra) == {"digital_signature", "key_encipherment"}
    assert not extension(ra, x509.BasicConstraints).value.ca
    ra.verify_directly_issued_by(certificate(made, "ca/devices.pem"))
    assert isinstance(ra.public_key(), rsa.RSAPublicKey)


def test_the_est_ra_answers_for_its_ca_and_does_nothing_else(made: Path) -> None:
    ra = certificate(made, "ca/est-ra.pem")
    assert bits(ra) == {"digital_signature"}
    assert [usage.dotted_string for usage in extension(ra, x509.ExtendedKeyUsage).value] == [
        "1.3.6.1.5.5.7.3.28"
    ]  # id-kp-cmcRA
    assert not extension(ra, x509.BasicConstraints).value.ca
    ra.verify_directly_issued_by(certificate(made, "ca/devices.pem"))


def test_the_server_certificate_is_for_every_name_that_it_is_called_by(tmp_path: Path) -> None:
    made = tmp_path / "ca"
    run(init(options(made), clock=FakeClock()))
    leaf, issuer = x509.load_pem_x509_certificates((made / "tls" / "server.pem").read_bytes())
    names = extension(leaf, x509.SubjectAlternativeName)
    assert names.critical  # §4.2.1.6: it MUST be, for the subject is empty
    assert not list(leaf.subject)
    assert {"ca.example.com", "ca2.example.com", "localhost"} <= set(names.value.get_values_for_type(x509.DNSName))
    addresses = set(names.value.get_values_for_type(x509.IPAddress))
    assert {ipaddress.ip_address(text) for text in ("127.0.0.1", "::1", "192.0.2.7")} <= addresses
    assert list(extension(leaf, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert bits(leaf) == {"digital_signature"}
    (access,) = extension(leaf, x509.AuthorityInformationAccess).value
    assert access.access_method == AuthorityInformationAccessOID.CA_ISSUERS
    assert access.access_location.value == "http://ca.example.com:8080/aia/issuing.cer"
    leaf.verify_directly_issued_by(issuer)
    assert leaf.not_valid_after_utc == NOW + timedelta(days=397)


def test_elsewhere_than_on_this_machine_it_listens_to_all_and_validates_at_port_80(tmp_path: Path) -> None:
    config = run(init(options(tmp_path / "ca"), clock=FakeClock()))
    assert config.listen.https == ("0.0.0.0", 8443)
    assert (config.validation.http01_port, config.validation.allow_networks) == (80, ())


def test_a_directory_that_is_in_use_is_left_as_it_is(made: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    with pytest.raises(InitError, match="certwright serve --config"):
        run(init(Options(directory=made), clock=FakeClock()))
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InitError, match="not empty") as raised:
        run(init(Options(directory=tmp_path), clock=FakeClock()))
    assert "certwright.yaml" not in str(raised.value)  # there is none to be started


def test_a_place_where_no_directory_can_be_is_named_as_it_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InitError, match=f"cannot make {tmp_path}/file/ca: "):
        run(init(Options(directory=tmp_path / "file" / "ca"), clock=FakeClock()))


def test_an_interrupted_init_leaves_nothing_even_where_a_thread_was_writing(tmp_path: Path) -> None:
    def writing() -> bool:
        return any(tmp_path.glob(".ca.init-*/certwright.db"))

    async def interrupted() -> None:
        task = asyncio.create_task(init(Options(directory=tmp_path / "ca"), clock=FakeClock()))
        while not task.done() and not writing():  # noqa: ASYNC110  # a file appears, nobody sets an event
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    run(interrupted())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"base_url": "http://ca.example.com"}, id="a base URL without TLS"),
        pytest.param({"base_url": "https://ca.example.com/acme"}, id="a base URL with a path"),
        pytest.param({"https_port": 9443}, id="two listeners at one port"),
        pytest.param({"database": "mysql://ca"}, id="a database that we do not know"),
        pytest.param({"names": ("under_score.example.com",)}, id="a name that no certificate may hold"),
    ],
)
def test_what_cannot_work_makes_nothing_at_all(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InitError) as raised:
        run(init(Options(directory=tmp_path / "ca", **wrong), clock=FakeClock()))
    assert str(tmp_path) not in str(raised.value)  # it was an option; no file to look into is left
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_is_away_leaves_nothing_half_done(tmp_path: Path) -> None:
    url = f"postgresql://u:p@localhost/ca?host={tmp_path}"
    with pytest.raises(Exception, match="database"):
        run(init(Options(directory=tmp_path / "ca", database=url), clock=FakeClock()))
    assert list(tmp_path.iterdir()) == []
