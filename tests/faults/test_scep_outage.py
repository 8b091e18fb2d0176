"""A part of the server is away while SCEP is asked: 503 and when to ask again, what needs it not is served, no challenge is lost, and the
same messages get everything once it is back. Nobody restarts anything.

What every door does with a signer that is stopped, and with one that dies again and again, is in test_outage.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.faults.est_asks import let_leases_end
from tests.faults.gated_signer import GatedSigner, through
from tests.faults.scep_asks import Ask, ScepAsking, with_asked
from tests.helpers.books import Books, Watch, until
from tests.helpers.postgres import NO_POSTGRESQL, PostgresServer, binaries, running_server
from tests.helpers.server import Server
from tests.helpers.softhsm import SoftHsm
from tests.helpers.wire import Reply

WISHES = 8  # of each kind, while the database restarts


@dataclass(slots=True)
class Site:
    server: Server
    asking: ScepAsking
    gate: GatedSigner
    postgres: PostgresServer
    token: SoftHsm
    books: Books

    def asks(self, zone: str) -> dict[str, Ask]:
        """One of each kind; the poll is for something that has been approved."""
        at = self.asking
        waiting = at.enroll(f"polled.{zone}.example.test", endpoint="asked")
        at.approve([waiting])
        return {
            "static": at.enroll(f"static.{zone}.example.test"),
            "one-time": at.enroll(f"once.{zone}.example.test", challenge=at.one_time(1)[0]),
            "renewal": at.renew(f"renewal.{zone}.example.test"),
            "polled": at.poll(waiting),
        }

    def certificates(self, host: str) -> list[str]:
        sql = f"SELECT serial FROM certificate WHERE names LIKE '%:{host}\"%' ORDER BY issued_at"  # noqa: S608  # ours
        return [serial for (serial,) in self.books.rows(sql)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """PostgreSQL, two workers, and the RA's key in a token of a signer that somebody else started."""
    if binaries() is None:
        pytest.skip(NO_POSTGRESQL)
    token = SoftHsm.create(tmp_path_factory.mktemp("hsm"))
    folder = tmp_path_factory.mktemp("scep-outage")
    with pytest.MonkeyPatch.context() as patch, running_server() as postgres:
        for name, value in token.environment.items():
            patch.setenv(name, value)
        url = postgres.empty_database()
        edit = with_key_in_token(folder / "ca", token, folder / "signer.sock")
        server = Server(directory=folder / "ca", database=url, workers=2, edit=edit)
        server.init()
        with GatedSigner(server, folder / "signer.sock") as gate:
            server.start()
            try:
                books = Books(server, url)
                watch = Watch(books).begin()
                yield Site(server, ScepAsking(server), gate, postgres, token, books)
                watch_for_bugs(watch)
            finally:
                server.stop()


def with_key_in_token(directory: Path, token: SoftHsm, socket: Path) -> Callable[[str], str]:
    def moved(text: str) -> str:
        key = directory / "ca" / "scep-ra.key"
        private = load_pem_private_key(key.read_bytes(), (directory / "ca" / "passphrase").read_bytes().strip())
        assert isinstance(private, rsa.RSAPrivateKey)
        there = token.put("scep-ra", private, 1)
        key.unlink()
        before = "key: {software: {file: ca/scep-ra.key, passphrase_file: ca/passphrase}}"
        after = f"{{module: {there.module}, token: {there.token}, label: {there.label}, pin_file: {there.pin_file}}}"
        assert before in text
        return through(socket)(with_asked(text.replace(before, f"key: {{pkcs11: {after}}}")))

    return moved


def watch_for_bugs(watch: Watch) -> None:
    lines = watch.books.server.log_lines()
    assert [line for line in lines if "trace" in line or line.get("status") == 500] == []
    assert [line for line in lines if line["level"] == "error"] == []


def told_to_wait(reply: Reply) -> None:
    assert reply.status == 503, reply.body
    assert int(reply.headers["Retry-After"]) > 0


def all_wait(site: Site, asks: dict[str, Ask]) -> None:
    with ThreadPoolExecutor(len(asks)) as threads:
        for reply in threads.map(site.asking.send, asks.values()):
            told_to_wait(reply)


def read_only(server: Server, *paths: str) -> None:
    """What clients read, which takes neither database nor keys."""
    for path in (
        "/scep?operation=GetCACaps",
        "/scep?operation=GetCACert",
        "/scep/asked/pkiclient.exe?operation=GetCACert",
        *paths,
    ):
        assert server.get(f"{server.http_url}{path}")[0] == 200, path


def all_get_one(site: Site, asks: dict[str, Ask]) -> None:
    for kind, ask in asks.items():
        serial = ask.serial(site.asking.insist(ask))
        held = site.certificates(ask.host)
        assert held[-1] == serial, kind
        assert len(held) == (2 if kind == "renewal" else 1), kind  # with the one that it renews


def test_without_the_database_everybody_waits_and_no_challenge_is_lost(site: Site) -> None:
    asks = site.asks("database")
    site.postgres.stop()
    try:
        all_wait(site, asks)
        read_only(site.server)
    finally:
        site.postgres.start()
    all_get_one(site, asks)


def test_without_the_signer_everybody_waits_and_what_needs_no_key_is_served(site: Site) -> None:
    asks = site.asks("signer")
    with site.gate.away():
        all_wait(site, asks)
        read_only(site.server, "/crl/devices.crl", "/livez")
    all_get_one(site, asks)


def test_without_the_ra_key_nothing_is_opened_and_nothing_answered(site: Site) -> None:
    """Its token is pulled out; the CA's keys are there. What a poll finds is issued, and waits for its answer."""
    asks = site.asks("token")
    before = site.books.count("issuance")
    site.token.pull_out()
    try:
        all_wait(site, asks)
        all_wait(site, asks)
        assert site.books.count("issuance") == before + 1
        assert len(site.certificates(asks["polled"].host)) == 1
        read_only(site.server, "/crl/devices.crl")
    finally:
        site.token.put_back()
    all_get_one(site, asks)


def test_clients_that_insist_get_one_certificate_each_from_a_database_that_restarts(site: Site) -> None:
    at = site.asking
    static = [at.enroll(f"restart-{number}.example.test") for number in range(WISHES)]
    challenges = at.one_time(WISHES)
    once = [at.enroll(f"restart-once-{number}.example.test", challenge=one) for number, one in enumerate(challenges)]
    with ThreadPoolExecutor(4) as threads:
        before = site.books.count("certificate")
        running = [(ask, threads.submit(at.insist, ask)) for pair in zip(static, once, strict=True) for ask in pair]
        until(lambda: site.books.count("certificate") > before + 3, "load")
        site.postgres.stop()
        site.postgres.start()
        let_leases_end(site.books)  # of what was signed and could not be recorded
        granted = {ask.host: ask.serial(reply.result()) for ask, reply in running}
    assert {host: site.certificates(host) for host in granted} == {host: [serial] for host, serial in granted.items()}
