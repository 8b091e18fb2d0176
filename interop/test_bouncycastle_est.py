"""BouncyCastle's ESTService (Debian libbcpkix-java): waits for the 401, reads Digest challenges, fails on bodies that nobody wants."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from interop.bouncycastle import java, java_command, java_refused, needs_bouncycastle
from interop.est import EstSite
from interop.support import P256, RSA, make_csr, openssl, pem_certificates, running, verify, within_a_minute

pytestmark = needs_bouncycastle()


class Bouncy:
    def __init__(self, est: EstSite, classes: Path, home: Path) -> None:
        self._est = est
        self._classes = classes
        self.home = home

    def _words(self, operation: str, label: str, options: tuple[str | Path, ...]) -> list[str | Path]:
        words: list[str | Path] = [operation, "--url", self._est.server_url, "--ca", self._est.root]
        return [*words, *(("--label", label) if label != "default" else ()), *options]

    def _environment(self, label: str, *, login: bool) -> dict[str, str]:
        return {"EST_PASSWORD": self._est.password(label)} if login else {}

    def ask(self, operation: str, *options: str | Path, label: str = "default", login: bool = False) -> str:
        words = self._words(operation, label, (*options, *(("--user", label) if login else ())))
        said = java(self._classes, "Est", *words, home=self.home, env=self._environment(label, login=login))
        return said.stdout.decode()

    def refused(self, operation: str, *options: str | Path, label: str = "default", password: str | None = None) -> str:
        words = self._words(operation, label, (*options, *(("--user", label) if password else ())))
        return java_refused(self._classes, "Est", *words, home=self.home, env={"EST_PASSWORD": password or ""})

    @contextmanager
    def asking(self, operation: str, *options: str | Path, label: str) -> Iterator[subprocess.Popen[bytes]]:
        """Started, and not waited for."""
        words = self._words(operation, label, (*options, "--user", label))
        command = java_command(self._classes, "Est", *words)
        with running(command, home=self.home, env=self._environment(label, login=True)) as process:
            yield process

    def enrol(self, name: str, *, label: str = "default", key: tuple[str, ...] = P256) -> Path:
        csr, leaf = make_csr(self.home, "device", cn=name, names=[name], key=key), self.home / "device.crt"
        self.ask("enroll", "--csr", csr, "--out", leaf, label=label, login=True)
        return leaf


@pytest.fixture
def bouncy(est: EstSite, classes: Path, home: Path) -> Bouncy:
    return Bouncy(est, classes, home)


@pytest.mark.parametrize("label", ["default", "wrapped", "unwrapped"])
def test_cacerts_are_read_however_they_are_wrapped(est: EstSite, bouncy: Bouncy, home: Path, label: str) -> None:
    bouncy.ask("cacerts", "--out", home / "ca.pem", label=label)
    root = pem_certificates(est.root)
    assert set(root) <= set(pem_certificates(home / "ca.pem"))


@pytest.mark.parametrize("key", [P256, RSA], ids=["P-256", "RSA"])
def test_a_password_enrols_after_the_401(est: EstSite, bouncy: Bouncy, home: Path, key: tuple[str, ...]) -> None:
    leaf = bouncy.enrol("bouncy.example.com", key=key)
    verify(est.hold(leaf, home=home), purpose="sslclient", names=["bouncy.example.com"])


@pytest.mark.parametrize("label", ["wrapped", "unwrapped"])
def test_a_label_enrols_however_its_answers_are_wrapped(est: EstSite, bouncy: Bouncy, home: Path, label: str) -> None:
    verify(
        est.hold(bouncy.enrol("label.example.com", label=label), home=home), purpose="sslclient", names=["label.example.com"]
    )


def test_a_wrong_password_ends_with_401(bouncy: Bouncy, home: Path) -> None:
    csr = make_csr(home, "device", cn="bouncy", names=[])
    assert "401" in bouncy.refused("enroll", "--csr", csr, "--out", home / "device.crt", password="wrong")


def test_without_a_password_it_ends_with_401(bouncy: Bouncy, home: Path) -> None:
    csr = make_csr(home, "device", cn="bouncy", names=[])
    assert "refused 401" in bouncy.refused("enroll", "--csr", csr, "--out", home / "device.crt")


def test_a_label_that_asks_for_nothing_has_no_attributes(bouncy: Bouncy) -> None:
    assert bouncy.ask("csrattrs") == ""


def test_a_request_that_we_refuse_is_refused_with_its_status(est: EstSite, bouncy: Bouncy, home: Path) -> None:
    csr = make_csr(home, "weak", cn="weak", names=[], key=("rsa:1024",))
    said = bouncy.refused("enroll", "--csr", csr, "--out", home / "weak.crt", password=est.password())
    assert "refused 400" in said
    assert not (home / "weak.crt").exists()
    assert openssl("req", "-in", csr, "-noout", "-verify", home=home)


def test_digest_enrols(est: EstSite, bouncy: Bouncy, home: Path) -> None:
    leaf = bouncy.enrol("digest.example.com", label="digest")
    verify(est.hold(leaf, home=home), purpose="sslclient", names=["digest.example.com"])


def test_a_wrong_password_by_digest_ends_with_401(bouncy: Bouncy, est: EstSite, home: Path) -> None:
    est.password("digest")
    csr = make_csr(home, "device", cn="bouncy", names=[])
    said = bouncy.refused("enroll", "--csr", csr, "--out", home / "device.crt", label="digest", password="wrong")
    assert "401" in said


def test_a_certificate_renews_itself(est: EstSite, bouncy: Bouncy, home: Path) -> None:
    name = "bouncy-renews.example.com"
    leaf = bouncy.enrol(name)
    csr, renewed = make_csr(home, "next", cn=name, names=[name]), home / "next.crt"
    bouncy.ask("reenroll", "--csr", csr, "--out", renewed, "--cert", leaf, "--key", home / "device.key")
    verify(est.hold(renewed, home=home), purpose="sslclient", names=[name])
    assert est.shows(renewed, home=home)["serial"] != est.shows(leaf, home=home)["serial"]


def test_it_reads_the_attributes_that_a_label_asks_for(bouncy: Bouncy) -> None:
    oids = bouncy.ask("csrattrs", label="oids").split()
    assert oids
    assert all(re.fullmatch(r"[0-9.]+", oid) for oid in oids)


def test_it_asks_again_until_somebody_has_approved(est: EstSite, bouncy: Bouncy, home: Path) -> None:
    csr, leaf = make_csr(home, "device", cn="bouncy-waits", names=[]), home / "device.crt"
    with bouncy.asking("enroll", "--csr", csr, "--out", leaf, label="approved") as client:
        within_a_minute("the request waits", lambda: est.is_waiting("bouncy-waits"))
        assert client.poll() is None
        est.approve("bouncy-waits")
        assert client.wait(timeout=60) == 0
    assert "pending" in (home / "java.log").read_text()
    verify(est.hold(leaf, home=home), purpose="sslclient")
