"""What happens when the signer is killed, its token is pulled out, its PIN is wrong, or a stranger knocks."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pki.certificate import signature_algorithm, verify_signature
from pki.cms.transport import KeyTransport
from pki.reasons import Unavailable
from signer.api import KeyConfig, KeyUse, SignerRefused
from signer.client import SignerClient
from signer.configuration import ProcessConfig, dump
from signer.envelope import spki
from signer.software import KeyKind
from signer.wire import Operation, Request, encode_request
from tests.helpers.signing import Authority, SignerProcess, authority, leaf, ra_key, software_keys
from tests.helpers.softhsm import PIN, SoftHsm

BACK_WITHIN = 30  # seconds, from the token's return to the next signature


async def sign(client: SignerClient, issuer: Authority) -> None:
    tbs = leaf(issuer)
    signature = await client.sign_certificate("issuing", tbs)
    assert verify_signature(issuer.key.public_key(), signature_algorithm(issuer.key.public_key()), signature, tbs)


async def until_it_signs(client: SignerClient, issuer: Authority) -> None:
    async with asyncio.timeout(BACK_WITHIN):
        while True:
            with suppress(Unavailable):
                return await sign(client, issuer)
            await asyncio.sleep(0.05)  # somebody else's process: there is nothing to wait on but its answer


# ---------------------------------------------------------------- the process dies


async def test_a_killed_signer_is_unavailable_and_the_same_client_finds_the_next_one(tmp_path: Path) -> None:
    issuer, path = authority(), tmp_path / "socket"
    config = ProcessConfig(listen=path, keys=software_keys(tmp_path, issuer))
    first = SignerProcess(config, errors=tmp_path / "log")
    client = SignerClient(path)
    await sign(client, issuer)
    first.kill()
    with pytest.raises(Unavailable) as caught:
        await sign(client, issuer)
    assert caught.value.what == "signer"  # and nothing of paths or processes
    with pytest.raises(Unavailable):
        await client.ping()
    second = SignerProcess(config, errors=tmp_path / "log")  # over the socket file that the first one left behind
    await sign(client, issuer)
    await client.close()
    assert second.end() == 0


async def test_requests_under_way_when_the_signer_is_killed_are_unavailable_not_hanging(tmp_path: Path) -> None:
    issuer, path = authority(), tmp_path / "socket"
    process = SignerProcess(ProcessConfig(listen=path, keys=software_keys(tmp_path, issuer)), errors=tmp_path / "log")
    client = SignerClient(path, timeout=60)
    await client.ping()
    process.signal(signal.SIGSTOP)
    under_way = [asyncio.ensure_future(client.ping()) for _ in range(20)]
    await asyncio.sleep(0)  # they are written now
    process.kill()
    results = await asyncio.gather(*under_way, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 20
    await client.close()
    process.end()


async def test_a_signer_that_does_not_answer_in_time_is_unavailable(tmp_path: Path) -> None:
    issuer, path = authority(), tmp_path / "socket"
    process = SignerProcess(ProcessConfig(listen=path, keys=software_keys(tmp_path, issuer)), errors=tmp_path / "log")
    client = SignerClient(path, timeout=0.2)
    await client.ping()
    process.signal(signal.SIGSTOP)
    with pytest.raises(Unavailable):
        await client.ping()
    process.signal(signal.SIGCONT)
    patient = SignerClient(path)
    await sign(patient, issuer)
    await client.close()
    await patient.close()
    assert process.end() == 0


async def test_an_inherited_socket_outlives_its_signer(tmp_path: Path) -> None:
    issuer, path = authority(), tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        config = ProcessConfig(listen=listener.fileno(), keys=software_keys(tmp_path, issuer))
        first = SignerProcess(config, errors=tmp_path / "log")
        client = SignerClient(path)
        await sign(client, issuer)
        first.kill()
        waiting = SignerClient(path, timeout=60)
        early = asyncio.ensure_future(sign(waiting, issuer))  # knocks while nobody is there
        await asyncio.sleep(0)
        second = await asyncio.to_thread(SignerProcess, config, errors=tmp_path / "log")
        await early
        await until_it_signs(client, issuer)
        await client.close()
        await waiting.close()
        assert second.end() == 0
    assert path.exists()  # whoever made it removes it


def test_the_signer_ends_with_its_parent(tmp_path: Path) -> None:
    config = ProcessConfig(listen=tmp_path / "socket", keys=software_keys(tmp_path, authority()), parent=os.getpid())
    (tmp_path / "config").write_bytes(dump(config))
    # A parent that starts a signer which is to end with it, says so, and is then killed.
    code = (
        "import os, pathlib, subprocess, sys\n"
        "text = pathlib.Path(sys.argv[1]).read_text().replace(f'\"parent\":{sys.argv[2]}', f'\"parent\":{os.getpid()}')\n"
        "child = subprocess.Popen([sys.executable, '-m', 'signer.process'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdin.write(text.encode()); child.stdin.close()\n"
        "child.stdout.readline(); print(child.pid, flush=True); sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "config"), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    child = int(parent.stdout.readline())
    descriptor = os.pidfd_open(child)
    parent.kill()
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    ended = _wait_for_end(descriptor)
    os.close(descriptor)
    assert ended


def _wait_for_end(descriptor: int) -> bool:
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(20_000))


# ---------------------------------------------------------------- who may ask


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """Where another user can reach a socket; pytest's own directories are closed to others."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


STRANGER = """
import socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.settimeout(20)
peer.connect(sys.argv[1])
try:
    peer.sendall(bytes.fromhex(sys.argv[2]))
except BrokenPipeError:
    pass
answer = b""
try:
    while more := peer.recv(65536):
        answer += more
except ConnectionResetError:
    pass
sys.stdout.buffer.write(answer)
"""


def ask_as(uid: int, path: Path) -> bytes:
    """What a peer with this uid gets for asking for the public key."""
    request = encode_request(Request(1, Operation.PUBLIC_KEY, "issuing", 5000)).hex()
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
    done = subprocess.run(
        [python, "-c", STRANGER, str(path), request], user=uid, group=uid, capture_output=True, check=True, timeout=60, cwd="/"
    )
    return done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_peer_with_another_uid_is_turned_away_even_when_the_socket_lets_it_in(public_directory: Path, tmp_path: Path) -> None:
    path = public_directory / "socket"
    process = SignerProcess(ProcessConfig(listen=path, keys=software_keys(tmp_path, authority())), errors=tmp_path / "log")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o666)
    answer = ask_as(65534, path)
    assert b"user 65534 may not use this signer" in answer
    assert spki(authority().key.public_key()) not in answer
    assert process.end() == 0
    assert "peer-refused" in process.events()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_a_listed_uid_is_served(public_directory: Path, tmp_path: Path) -> None:
    path = public_directory / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        config = ProcessConfig(
            listen=listener.fileno(), keys=software_keys(tmp_path, authority()), allowed_uids=frozenset({65534})
        )
        process = SignerProcess(config, errors=tmp_path / "log")
        client = SignerClient(path)
        assert await client.public_key("issuing") == spki(authority().key.public_key())  # our own uid, all the same
        await client.close()
        asking = asyncio.create_subprocess_exec(
            shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable,
            "-c",
            STRANGER.replace("while more := peer.recv(65536):\n        answer += more", "answer = peer.recv(65536)"),
            str(path),
            encode_request(Request(1, Operation.PUBLIC_KEY, "issuing", 5000)).hex(),
            user=65534,
            group=65534,
            cwd="/",
            stdout=subprocess.PIPE,
        )
        answer, _ = await (await asking).communicate()
        assert spki(authority().key.public_key()) in answer
        assert process.end() == 0


async def test_nonsense_on_the_socket_costs_its_sender_the_connection_and_nobody_else(tmp_path: Path) -> None:
    issuer, path = authority(), tmp_path / "socket"
    process = SignerProcess(ProcessConfig(listen=path, keys=software_keys(tmp_path, issuer)), errors=tmp_path / "log")
    client = SignerClient(path)
    await client.ping()
    for nonsense in (b"GET / HTTP/1.0\r\n\r\n", struct.pack("!IH", 4, 2) + b"{}", b"\xff" * 64):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(nonsense)
        assert b"refused" in await reader.read()  # then it hangs up
        writer.close()
        await writer.wait_closed()
    await sign(client, issuer)
    await client.close()
    assert process.end() == 0
    assert process.events().count("peer-makes-no-sense") == 3


async def test_a_second_signer_does_not_steal_the_socket_of_a_living_one(tmp_path: Path) -> None:
    config = ProcessConfig(listen=tmp_path / "socket", keys=software_keys(tmp_path, authority()))
    process = SignerProcess(config, errors=tmp_path / "log")
    with pytest.raises(AssertionError, match="another process is listening there"):
        SignerProcess(config, errors=tmp_path / "log2")
    client = SignerClient(tmp_path / "socket")
    await sign(client, authority())
    await client.close()
    assert process.end() == 0


# ---------------------------------------------------------------- the token goes away


@pytest.fixture
def token(tmp_path: Path) -> SoftHsm:
    return SoftHsm.create(tmp_path / "hsm")


def token_config(tmp_path: Path, token: SoftHsm, issuer: Authority) -> ProcessConfig:
    return ProcessConfig(
        listen=tmp_path / "socket",
        keys=(
            KeyConfig(
                name="issuing", use=KeyUse.ISSUER, source=token.put("issuing", issuer.key, 1), envelope=issuer.envelope()
            ),
            KeyConfig(name="ra", use=KeyUse.RA, source=token.put("ra", ra_key(), 2), envelope=None),
        ),
    )


async def test_a_token_that_is_pulled_out_and_put_back_signs_again_without_a_restart(tmp_path: Path, token: SoftHsm) -> None:
    issuer = authority()
    process = SignerProcess(token_config(tmp_path, token, issuer), environment=token.environment, errors=tmp_path / "log")
    client = SignerClient(tmp_path / "socket", timeout=10)
    await sign(client, issuer)
    token.pull_out()
    with pytest.raises(Unavailable) as caught:
        await sign(client, issuer)
    assert caught.value.what == "signer"
    with pytest.raises(Unavailable):
        await client.ping()
    with pytest.raises(Unavailable):  # and not random bytes: a token that is away has rejected nothing
        await client.ra_decrypt("ra", bytes(256), 16, KeyTransport.PKCS1)
    assert await client.public_key("issuing")  # known without the token
    token.put_back()
    await until_it_signs(client, issuer)
    await client.ping()
    await client.close()
    assert process.end() == 0
    assert process.events()[0] == "token-lost"
    assert "token-back" in process.events()


async def test_a_decryption_is_the_first_to_see_the_loss_and_says_unavailable(tmp_path: Path, token: SoftHsm) -> None:
    issuer = authority()
    process = SignerProcess(token_config(tmp_path, token, issuer), environment=token.environment, errors=tmp_path / "log")
    client = SignerClient(tmp_path / "socket")
    token.pull_out()
    with pytest.raises(Unavailable):
        await client.ra_decrypt("ra", bytes(256), 16, KeyTransport.PKCS1)
    await client.close()
    assert process.end() == 0


async def test_many_requests_meet_the_loss_and_none_hangs(tmp_path: Path, token: SoftHsm) -> None:
    issuer = authority()
    process = SignerProcess(token_config(tmp_path, token, issuer), environment=token.environment, errors=tmp_path / "log")
    client = SignerClient(tmp_path / "socket", timeout=30)
    await sign(client, issuer)
    under_way = [asyncio.ensure_future(sign(client, issuer)) for _ in range(100)]
    token.pull_out()
    results = await asyncio.gather(*under_way, return_exceptions=True)
    assert {type(result) for result in results} <= {type(None), Unavailable}
    token.put_back()
    await until_it_signs(client, issuer)
    await client.close()
    assert process.end() == 0
    assert process.events().count("token-lost") <= 2


async def test_a_signer_starts_while_its_token_is_away_and_serves_when_it_comes(tmp_path: Path, token: SoftHsm) -> None:
    issuer = authority()
    config = token_config(tmp_path, token, issuer)
    token.pull_out()
    process = SignerProcess(config, environment=token.environment, errors=tmp_path / "log")
    assert "is away" in process.ready["away"][0]
    client = SignerClient(tmp_path / "socket")
    with pytest.raises(Unavailable):
        await sign(client, issuer)
    token.put_back()
    await until_it_signs(client, issuer)
    assert await client.public_key("ra") == spki(ra_key().public_key())
    await client.close()
    assert process.end() == 0


async def test_a_wrong_pin_is_tried_once_and_again_only_after_a_reload(tmp_path: Path, token: SoftHsm) -> None:
    issuer = authority()
    config = token_config(tmp_path, token, issuer)
    token.pin_file.write_text("000000\n")
    process = SignerProcess(config, environment=token.environment, errors=tmp_path / "log")
    assert "refused the PIN" in process.ready["away"][0]
    client = SignerClient(tmp_path / "socket")
    for _ in range(5):
        with pytest.raises(Unavailable):
            await sign(client, issuer)
    assert process.events() == ["pin-refused"]
    assert "000000" not in process.errors.read_text()
    token.pin_file.write_text(PIN)
    process.signal(signal.SIGHUP)
    await until_it_signs(client, issuer)
    await client.close()
    assert process.end() == 0


MAKE_EXTRACTABLE = """
import sys, pkcs11
from pkcs11 import Attribute, KeyType
from pkcs11.util.ec import encode_named_curve_parameters
token = pkcs11.lib(sys.argv[1]).get_token(token_label=sys.argv[2])
with token.open(rw=True, user_pin=sys.argv[3]) as session:
    parameters = session.create_domain_parameters(
        KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True)
    parameters.generate_keypair(store=True, label="loose", private_template={
        Attribute.SENSITIVE: sys.argv[4] == "1", Attribute.EXTRACTABLE: sys.argv[5] == "1"})
"""


@pytest.mark.parametrize(("sensitive", "extractable"), [("0", "0"), ("1", "1"), ("0", "1")])
def test_a_key_that_can_leave_its_token_is_refused_in_clear_text(
    tmp_path: Path, token: SoftHsm, sensitive: str, extractable: str
) -> None:
    subprocess.run(
        [sys.executable, "-c", MAKE_EXTRACTABLE, str(token.module), token.label, PIN, sensitive, extractable],
        check=True,
        env={**os.environ, **token.environment},
        timeout=60,
    )
    key = KeyConfig(name="issuing", use=KeyUse.ISSUER, source=token.key("loose"), envelope=authority().envelope())
    with pytest.raises(AssertionError, match="CKA_EXTRACTABLE false"):
        SignerProcess(ProcessConfig(listen=tmp_path / "s", keys=(key,)), environment=token.environment, errors=tmp_path / "log")


def test_a_key_that_is_not_the_certificates_is_refused_at_the_start(tmp_path: Path, token: SoftHsm) -> None:
    other = authority(common_name="Another CA")
    key = KeyConfig(
        name="issuing", use=KeyUse.ISSUER, source=token.put("issuing", other.key, 1), envelope=authority().envelope()
    )
    with pytest.raises(AssertionError, match="is not the one of its certificate"):
        SignerProcess(ProcessConfig(listen=tmp_path / "s", keys=(key,)), environment=token.environment, errors=tmp_path / "log")


def test_a_label_that_the_token_does_not_have_is_refused_at_the_start(tmp_path: Path, token: SoftHsm) -> None:
    key = KeyConfig(name="ra", use=KeyUse.RA, source=token.key("absent"), envelope=None)
    with pytest.raises(AssertionError, match="no private key with the label 'absent'"):
        SignerProcess(ProcessConfig(listen=tmp_path / "s", keys=(key,)), environment=token.environment, errors=tmp_path / "log")


async def test_a_token_key_keeps_its_envelope(tmp_path: Path, token: SoftHsm) -> None:
    issuer = authority()
    process = SignerProcess(token_config(tmp_path, token, issuer), environment=token.environment, errors=tmp_path / "log")
    client = SignerClient(tmp_path / "socket")
    with pytest.raises(SignerRefused, match="issuer name"):
        await client.sign_certificate("issuing", leaf(authority(common_name="Another CA")))
    await client.close()
    assert process.end() == 0
    assert process.events() == ["refused", "ended"]


def test_an_ra_key_in_a_token_that_is_an_issuers_too_is_refused(tmp_path: Path, token: SoftHsm) -> None:
    issuer = authority(KeyKind.RSA_2048)
    source = token.put("both", issuer.key, 1)
    keys = (
        KeyConfig(name="issuing", use=KeyUse.ISSUER, source=source, envelope=issuer.envelope()),
        KeyConfig(name="ra", use=KeyUse.RA, source=source, envelope=None),
    )
    with pytest.raises(AssertionError, match="ra: is the key of issuing too"):
        SignerProcess(ProcessConfig(listen=tmp_path / "s", keys=keys), environment=token.environment, errors=tmp_path / "log")
