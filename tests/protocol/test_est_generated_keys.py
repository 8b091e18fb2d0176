"""A key that a real server made is in nothing that it leaves behind (RFC 7030 §4.4, §6: the server knows a key that is not its own)."""

from __future__ import annotations

import asyncio
import base64
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certwright.config import load
from issuance.sealed import SealedSecrets
from pki.clock import SystemClock
from pki.sealing import Sealer
from storage.open import open_database
from tests.helpers.books import Books, Watch
from tests.helpers.front_doors import Door, Doors, basic, refusal
from tests.helpers.keygen import (
    AES256_WRAP,
    Delivered,
    PrivateKey,
    content_info,
    delivered,
    keygen_csr,
    loaded,
    read_package,
    spki_in,
    spki_of,
    to_shared_key,
)
from tests.helpers.neighbourhood import Neighbourhood, with_key_generation
from tests.helpers.server import Server
from tests.helpers.wire import Reply

KEY_ID, KEY = b"line-7", secrets.token_bytes(32)


async def give_key(server: Server) -> None:
    """As an operator does it."""
    config = load(server.config_file)
    database = await open_database(config.database, migrate=False)
    try:
        sealed = SealedSecrets(database=database, clock=SystemClock(), sealer=Sealer(config.sealing_keys))
        await sealed.set_key(endpoint="default", key_id=KEY_ID, expires_at=None, key=KEY)
    finally:
        await database.close()


@pytest.fixture(scope="module")
def doors() -> Iterator[Doors]:
    with Neighbourhood() as around, Server(edit=with_key_generation) as server:
        asyncio.run(give_key(server))
        doors = Doors(server, around)
        yield doors
        doors.close()


def ask(doors: Doors, csr: bytes) -> Reply:
    return doors.simple_enroll(csr, doors.secrets.est, operation="serverkeygen")


def got(reply: Reply) -> Delivered:
    assert reply.status == 200, reply.body
    return delivered(reply.headers["Content-Type"], reply.body)


def private_octets(key: PrivateKey) -> list[bytes]:
    """What nobody else may know, as the octets that would be stored."""
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.private_numbers()
        return [numbers.p.to_bytes(128, "big"), numbers.q.to_bytes(128, "big"), numbers.d.to_bytes(256, "big")]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return [key.private_numbers().private_value.to_bytes(32, "big")]
    return [key.private_bytes_raw()]


def written(key: PrivateKey) -> list[bytes]:
    """In every form in which it might be written down."""
    pkcs8 = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    forms = [pkcs8, base64.b64encode(pkcs8)]
    for octets in private_octets(key):
        at = pkcs8.find(octets)
        aligned = pkcs8[at + (-at % 3) : at + len(octets)]  # base64 of the whole has this as it stands
        forms += [
            octets,
            octets.hex().encode(),
            octets.hex().upper().encode(),
            base64.b64encode(aligned[: len(aligned) // 3 * 3]),
            base64.urlsafe_b64encode(aligned[: len(aligned) // 3 * 3]),
            str(int.from_bytes(octets, "big")).encode(),
        ]
    return forms


def left_behind(server: Server) -> Iterator[tuple[str, bytes]]:
    """Everything on the disk: the database and its journal, the log, and what the metrics say."""
    for file in server.directory.rglob("*"):
        if file.is_file() and not file.is_symlink():
            yield str(file), file.read_bytes()
    yield "log", server.log_text().encode()
    yield "metrics", server.get(server.metrics_url)[1]


def is_nowhere(server: Server, key: PrivateKey) -> None:
    places = dict(left_behind(server))
    database = [content for name, content in places.items() if "certwright.db" in name]
    public = spki_of(key)
    assert any(public in content for content in database), "the certificate is there: this looks at the right places"
    for form in written(key):
        assert [name for name, content in places.items() if form in content] == []


@pytest.mark.parametrize(
    "like", [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)], ids=["EC", "RSA"]
)
def test_a_key_that_was_given_in_the_clear_is_nowhere_else(doors: Doors, like: PrivateKey) -> None:
    given = got(ask(doors, keygen_csr("host.example.com", like=like)))
    assert spki_of(given.key) == spki_in(given.certificate)
    is_nowhere(doors.server, given.key)


def test_an_encrypted_one_is_nowhere_either_and_is_signed_by_the_registration_authority(doors: Doors, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    given = got(ask(doors, keygen_csr(attributes=to_shared_key(KEY_ID, AES256_WRAP))))
    decrypt = ["openssl", "cms", "-decrypt", "-inform", "DER", "-binary", "-secretkey", KEY.hex(), "-secretkeyid", KEY_ID.hex()]
    signed = subprocess.run(decrypt, input=given.key_part, capture_output=True, check=True, timeout=30).stdout
    ca = doors.server.directory / "ca"
    (tmp_path / "ca.pem").write_bytes((ca / "root.pem").read_bytes() + (ca / "devices.pem").read_bytes())
    verify = ["openssl", "cms", "-verify", "-inform", "DER", "-binary", "-purpose", "any", "-CAfile", str(tmp_path / "ca.pem")]
    ran = subprocess.run(verify, input=content_info(signed), capture_output=True, check=False, timeout=30)
    assert ran.returncode == 0, ran.stderr
    key = loaded(read_package(signed)[0])
    assert spki_of(key) == spki_in(given.certificate)
    is_nowhere(doors.server, key)
    for name, content in left_behind(doors.server):
        assert KEY not in content, name
        assert KEY.hex().encode() not in content, name


def test_no_worker_writes_its_memory_to_the_disk_when_it_dies(doors: Doors) -> None:
    workers = doors.server.children()["worker"]
    assert workers
    for pid in workers:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
        core = next(line for line in lines if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"]


def test_the_same_request_again_gets_another_key(doors: Doors) -> None:
    asked = keygen_csr()
    first, second = got(ask(doors, asked)), got(ask(doors, asked))
    assert spki_of(first.key) != spki_of(second.key)
    assert first.certificate.serial_number != second.certificate.serial_number


def test_what_no_policy_grants_leaves_no_certificate_without_its_key(doors: Doors) -> None:
    watch = Watch(Books(doors.server)).begin()
    reply = ask(doors, keygen_csr("a b.example.com"))
    refusal(Door.EST_KEYGEN, reply)
    watch.nothing_happened()


def test_no_key_is_sent_without_tls(doors: Doors) -> None:
    assert doors.secrets.est is not None
    headers = {"Content-Type": "application/pkcs10", **basic(*doors.secrets.est)}
    reply = doors.http.send("POST", "/.well-known/est/serverkeygen", base64.b64encode(keygen_csr()), headers)
    assert reply.status in {403, 404}
    assert b"BEGIN" not in reply.body
    assert b"pkcs8" not in reply.body
