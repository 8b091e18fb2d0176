"""Clients written in shell read the octets on the wire: curl's dump of the headers, grep, sed, cut and tr. So do these tests.

acme.sh and dehydrated are such clients, uacme and mod_md look at header lines one by one. What is asserted about values in Python
is in test_acme_wire_clients.py; here the tools themselves have to find them.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from issuance.request import Pending
from pki.strict import base64url
from storage.database import Database
from tests.helpers.acme_client import BASE, JOSE, AcmeClient, make_jws, to_json
from tests.helpers.acme_world import AcmeWorld, acme_world, ready
from tests.helpers.clock import FakeClock
from tests.helpers.issuance_simulator import der_of, make_csr

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("curl", "grep", "sed", "cut", "tr")),
    reason="curl, grep, sed, cut or tr is missing",
)


@pytest.fixture
async def world(database: Database, clock: FakeClock) -> AsyncIterator[AcmeWorld]:
    async with acme_world(database, clock) as world:
        yield world


async def output_of(*command: str, stdin: bytes = b"") -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate(stdin)
    assert process.returncode == 0, err.decode()
    return out.decode()


@dataclass(frozen=True, slots=True)
class Dump:
    """What curl wrote to two files."""

    headers: Path
    body: Path

    async def shell(self, pipeline: str) -> str:
        """A pipeline that may find nothing."""
        script = f'HEADERS="{self.headers}"; BODY="{self.body}"; {pipeline}; true'
        return (await output_of("sh", "-c", script)).strip()

    async def header(self, name: str) -> str:
        """acme.sh's way: the last line of that name, up to the end, without blanks."""
        return await self.shell(f"""grep -i "^{name} *:" "$HEADERS" | tail -n 1 | cut -d : -f 2- | tr -d '\\r\\n\\t '""")

    async def member(self, name: str) -> str:
        """The first member of that name in the whole body, in whatever object."""
        return await self.shell(f"""tr -d '\\r\\n' < "$BODY" | grep -o '"{name}":"[^"]*"' | head -n 1 | cut -d '"' -f 4""")


@dataclass(slots=True)
class ShellClient:
    """Signs as the others do, for that is no habit of parsing; sends with curl and keeps the dump."""

    client: AcmeClient
    directory: Path
    count: int = 0

    async def post(self, url: str, payload: object = b"", *, nonce: str | None = None) -> Dump:
        self.count += 1
        dump = Dump(self.directory / f"{self.count}.headers", self.directory / f"{self.count}.body")
        octets = payload if isinstance(payload, bytes) else to_json(payload)
        header = await (self.client.header(url) if nonce is None else self.client.header(url, nonce=nonce))
        jws = to_json(make_jws(self.client.key, header, octets))
        where = str(self.client.http.make_url(url.removeprefix(BASE)))
        files = ("-D", str(dump.headers), "-o", str(dump.body))
        await output_of("curl", "-sS", *files, "-H", f"Content-Type: {JOSE}", "--data-binary", "@-", where, stdin=jws)
        return dump


@pytest.fixture
async def shell(world: AcmeWorld, tmp_path: Path) -> ShellClient:
    return ShellClient(await world.registered("choice"), tmp_path)


async def test_a_shell_script_walks_from_the_order_to_the_certificate(shell: ShellClient) -> None:
    """Every URL that is posted to was found by grep in the answer before."""
    names = ["a.example.com", "b.example.com"]
    order = await shell.post(shell.client.url("new-order"), {"identifiers": [{"type": "dns", "value": name} for name in names]})
    order_url, finalize = await order.header("Location"), await order.member("finalize")
    listed = await order.shell(
        r"""tr -d '\r\n' < "$BODY" | grep -o '"authorizations":\[[^]]*\]' | sed 's/.*\[//; s/\].*//; s/"//g' | tr , '\n'"""
    )
    assert len(listed.splitlines()) == 2
    for url in listed.splitlines():
        authorization = await shell.post(url)
        entry = await authorization.shell(
            r"""tr -d '\r\n' < "$BODY" | grep -o '"challenges":\[[^]]*]' | grep -o '[^{]*"type":"http-01"[^}]*'"""
        )
        fields = dict(part.replace('"', "").split(":", 1) for part in entry.strip("{}").split('","'))
        assert fields["status"] == "pending"
        assert len(fields["token"]) == 43
        answered = await shell.post(fields["url"], {})
        assert await answered.shell("""grep -ci '^link: <[^>]*/authz/[^>]*>;rel="up"' "$HEADERS" """) == "1"
    assert await (await shell.post(order_url)).member("status") == "ready"
    final = await shell.post(finalize, {"csr": base64url(der_of(make_csr(*names)))})
    assert (await final.member("status"), await final.header("Location")) == ("valid", order_url)
    chain = await shell.post(await final.member("certificate"))
    assert await chain.shell("""grep -c -- '-----BEGIN CERTIFICATE-----' "$BODY" """) == "2"
    assert await chain.shell("""head -n 1 "$BODY" """) == "-----BEGIN CERTIFICATE-----"


async def test_a_chain_has_no_way_up_for_mod_md_and_acmez_would_append_it_once_more(shell: ShellClient) -> None:
    order = await ready(shell.client, "a.example.com")
    final = await shell.client.finalize(order, der_of(make_csr("a.example.com")))
    chain = await shell.post(final.json["certificate"])
    assert await chain.shell("""grep -ci 'rel="up"' "$HEADERS" """) == "0"
    assert await chain.header("Content-Type") == "application/pem-certificate-chain"


async def test_a_shell_reads_retry_after_as_a_number_below_its_patience(world: AcmeWorld, shell: ShellClient) -> None:
    """acme.sh takes the digits of the line; a date would be a very long time."""
    order = await ready(shell.client, "a.example.com")
    world.issuance.script.append(Pending("issuance", retry_after=1))
    waiting = await shell.post(order.json["finalize"], {"csr": base64url(der_of(make_csr("a.example.com")))})
    assert await waiting.member("status") == "processing"
    digits = await waiting.shell("""grep -i '^retry-after' "$HEADERS" | tr -dc 0-9""")
    assert 0 < int(digits) <= 600
    assert await waiting.header("Retry-After") == digits


async def test_every_link_is_a_line_of_its_own(shell: ShellClient) -> None:
    """uacme takes the first relation of a line; a comma would hide the second."""
    order = await shell.client.order("a.example.com")
    authorization = await shell.client.post(order.json["authorizations"][0])
    answered = await shell.post(authorization.json["challenges"][0]["url"], {})
    lines = await answered.shell("""grep -i '^link:' "$HEADERS" """)
    assert len(lines.splitlines()) == 2
    assert await answered.shell("""grep -ciE '^link: <[^<>]+>;rel="[a-z]+".?$' "$HEADERS" """) == "2"


async def test_a_shell_finds_the_next_nonce_and_the_words_that_make_it_try_again(shell: ShellClient) -> None:
    """acme.sh tries again for this English sentence only, and with the nonce of the refusal."""
    url = shell.client.kid
    nonce = await (await shell.post(url)).header("Replay-Nonce")
    spent = await shell.post(url, nonce=nonce)
    assert await spent.member("status") == "valid"
    again = await shell.post(url, nonce=nonce)
    assert await again.shell("""grep -c 'JWS has an invalid anti-replay nonce' "$BODY" """) == "1"
    assert await again.shell("""head -n 1 "$HEADERS" | cut -d ' ' -f 2""") == "400"
    fresh = await again.header("Replay-Nonce")
    assert await again.shell(f"""echo '{fresh}' | grep -cE '^[A-Za-z0-9_-]+$'""") == "1"
    assert await (await shell.post(url, nonce=fresh)).member("status") == "valid"
