"""`certwright perspective` as its operator starts it: two agents, a server that asks them, and a real ACME client."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest
from acme import challenges, client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.jwa import ES256
from josepy.jwk import JWKEC

from tests.helpers.dns import DnsServer
from tests.helpers.issuance_simulator import make_csr, pem_of
from tests.helpers.perspectives import Pki
from tests.helpers.server import CERTWRIGHT, PATIENCE, Server, cleaned_environment, free_ports, run
from tests.helpers.world import HttpTarget

NAME = "www.example.com"


@contextmanager
def perspective(pki: Pki, address: str, port: int, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    certificate, key = pki.agent(address)
    command = [CERTWRIGHT, "perspective", "--listen", f"{address}:{port}", "--certificate", certificate, "--key", key]
    process = subprocess.Popen(
        [*map(str, command), "--client-ca", str(pki.ca_file), *arguments], stderr=subprocess.PIPE, env=cleaned_environment()
    )
    assert process.stderr is not None
    with process.stderr:
        try:
            assert orjson.loads(process.stderr.readline())["event"] == "ready"
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, said


@dataclass(slots=True)
class Stage:
    server: Server
    ours: DnsServer  # what the server sees
    theirs: DnsServer  # what the agents see
    target: HttpTarget  # at 127.0.0.1
    agents: list[tuple[str, int]]

    async def issue(self) -> str:
        """The chain in PEM."""
        return await asyncio.to_thread(self._issue)

    def _issue(self) -> str:
        key, trusted = JWKEC(key=ec.generate_private_key(ec.SECP256R1())), str(self.server.ca_file)
        net = client.ClientNetwork(key, alg=ES256, verify_ssl=trusted)  # type: ignore[arg-type]  # requests takes a file, too
        acme = client.ClientV2(client.ClientV2.get_directory(f"{self.server.base_url}/acme/directory", net), net)
        acme.new_account(messages.NewRegistration.from_data(terms_of_service_agreed=True))
        order = acme.new_order(pem_of(make_csr(NAME)).encode())
        for authorization in order.authorizations:
            body = next(one for one in authorization.body.challenges if isinstance(one.chall, challenges.HTTP01))
            response, content = body.response_and_validation(net.key)
            self.target.serve(body.chall.encode("token"), content)
            acme.answer_challenge(body, response)
        return str(acme.poll_and_finalize(order).fullchain_pem)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    pki = Pki(tmp_path)
    async with AsyncExitStack() as stack:
        ours, theirs = DnsServer(), DnsServer()
        await stack.enter_async_context(ours)
        await stack.enter_async_context(theirs)
        target = HttpTarget()
        await target.start("127.0.0.1")
        stack.push_async_callback(target.stop)
        agents = list(zip(("127.0.0.2", "127.0.0.3"), free_ports(2), strict=True))
        settings = ["--resolver", theirs.address, "--http01-port", str(target.port), "--allow-network", "127.0.0.0/8"]
        for address, port in agents:
            manager = perspective(pki, address, port, *settings)
            await asyncio.to_thread(manager.__enter__)
            stack.push_async_callback(asyncio.to_thread, manager.__exit__, None, None, None)
        certificate, key = pki.server()

        def edit(text: str) -> str:
            listed = "".join(
                f"    at-{port}: {{url: https://{address}:{port}, ca_file: {pki.ca_file}, "
                f"certificate: {certificate}, key_file: {key}}}\n"
                for address, port in agents
            )
            text = text.replace("\n  tls-server:\n", "\n  tls-server:\n    perspectives_required: 2\n", 1)
            return text.replace("\nvalidation:\n", f"\nvalidation:\n  quorum: 2\n  perspectives:\n{listed}", 1)

        server = Server(
            directory=tmp_path / "certwright",
            resolver=ours.address,
            http01_port=target.port,
            allow_networks=["127.0.0.0/8"],
            edit=edit,
        )
        await asyncio.to_thread(server.__enter__)
        stack.push_async_callback(asyncio.to_thread, server.__exit__, None, None, None)
        ours[NAME] = ["127.0.0.1"]
        yield Stage(server, ours, theirs, target, agents)


async def test_what_everybody_sees_is_issued_and_what_only_the_server_sees_is_not(stage: Stage, tmp_path: Path) -> None:
    stage.theirs[NAME] = ["127.0.0.1"]
    chain = await stage.issue()
    assert x509.load_pem_x509_certificates(chain.encode())
    assert len(stage.target.requests) == 3  # ours, and one from each agent

    stage.theirs[NAME] = ["127.0.0.4"]  # where nobody listens: only the server is led to 127.0.0.1
    with pytest.raises(errors.ValidationError) as refused:
        await stage.issue()
    (problem,) = [
        one.error for authorization in refused.value.failed_authzrs for one in authorization.body.challenges if one.error
    ]
    assert problem.code == "unauthorized"
    assert "of 2 other places of the network 0 see it too, and 2 must" in str(problem.detail)
    differing = {line["perspective"] for line in stage.server.log_lines() if line.get("event") == "perspective differs"}
    assert differing == {f"at-{port}" for _, port in stage.agents}

    for address, port in stage.agents:
        _assert_strangers_are_refused(Pki(tmp_path, "stranger"), address, port)


def _assert_strangers_are_refused(stranger: Pki, address: str, port: int) -> None:
    """Without a certificate of the agents' CA nobody gets as far as HTTP."""
    for certificate in (stranger.server(), None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if certificate is not None:
            context.load_cert_chain(*certificate)
        with socket.create_connection((address, port), timeout=PATIENCE) as plain:  # noqa: SIM117  # refusal may come in any
            with pytest.raises(OSError), context.wrap_socket(plain, server_hostname=address) as secured:  # noqa: PT012
                secured.sendall(b"GET /v1/validate HTTP/1.1\r\nHost: x\r\n\r\n")
                if not secured.recv(1):
                    raise ConnectionResetError


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"--listen": "127.0.0.2"}, 1, "--listen"),
        ({"--listen": "203.0.113.1:9444"}, 4, "cannot listen on 203.0.113.1:9444"),
        ({"--certificate": "/nowhere.pem"}, 1, "there is no file /nowhere.pem"),
        ({"--resolver": "resolver.example"}, 1, "--resolver"),
        ({"--allow-network": "10.0.0.1/8"}, 1, "--allow-network"),
        ({"--require-dnssec": ""}, 1, "--require-dnssec"),
        ({"--at-once": "0"}, 2, "--at-once"),
    ],
)
def test_a_mistake_in_the_command_line_is_said_and_nothing_starts(
    tmp_path: Path, change: dict[str, str], code: int, words: str
) -> None:
    pki = Pki(tmp_path)
    certificate, key = pki.agent("127.0.0.2")
    options = {
        "--listen": "127.0.0.2:9444",
        "--certificate": str(certificate),
        "--key": str(key),
        "--client-ca": str(pki.ca_file),
        **change,
    }
    done = run("perspective", *(word for option in options.items() for word in option if word), check=False)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    certificate, key = pki.agent("127.0.0.2")
    other_key = pki.agent("127.0.0.3")[1]
    arguments: list[str | Path] = ["perspective", "--listen", "127.0.0.2:9444", "--certificate", certificate]
    done = run(*arguments, "--key", other_key, "--client-ca", pki.ca_file, check=False)
    assert (done.returncode, f"{other_key} is not the key of {certificate}" in done.stderr) == (1, True)
    done = run(*arguments, "--key", key, "--client-ca", key, check=False)
    assert (done.returncode, "holds no CA certificate" in done.stderr) == (1, True)


def test_who_connects_and_shows_no_certificate_is_gone_in_seconds(tmp_path: Path) -> None:
    """A few hundred such connections at a time would else be an agent that is away, and then a quorum that fails."""
    (port,) = free_ports(1)
    with perspective(Pki(tmp_path), "127.0.0.2", port), socket.create_connection(("127.0.0.2", port)) as stranger:
        stranger.settimeout(15)
        stranger.send(b"\x16\x03\x01")  # the beginning of a ClientHello
        assert stranger.recv(1) == b""
