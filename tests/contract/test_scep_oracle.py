"""Nobody learns from an endpoint what is in a message that somebody else encrypted (RFC 3218, CVE-2019-1563): with an RA key in a file
and in a SoftHSM2 token, by PKCS #1 and by OAEP, whatever is wrong inside has one failInfo, one text, one length and, as far as a clock tells over the socket, one duration. That good and
bad padding take the same way to the last instruction: tests/unit/signer/test_unpadding.py, test_token_decryption.py.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import padding

from pki.cms.transport import KeyTransport
from scep import message
from scep.authority import RegistrationAuthority
from signer.api import KeyConfig, KeyUse, Pkcs11Key, SoftwareKey
from signer.client import SignerClient
from signer.configuration import ProcessConfig
from tests.helpers.scep import (
    NULL,
    Answer,
    Message,
    ScepCa,
    csr,
    encrypt_content,
    enveloped,
    integer,
    issuer_and_serial,
    octets,
    oid,
    parse_answer,
    rsa_key,
    seq,
)
from tests.helpers.scep_world import ADDRESS, scep_world
from tests.helpers.signing import SignerProcess, write_key
from tests.helpers.softhsm import SoftHsm

BAD_MESSAGE_CHECK = "1"
KEY = b"0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Transport:
    """As a client writes it. SHA-1 is OAEP's default."""

    name: KeyTransport
    identifier: str
    parameters: bytes

    def wrap(self, ca: ScepCa, key: bytes) -> bytes:
        return ca.ra_key.public_key().encrypt(key, self.name.padding)

    def info(self, ca: ScepCa, encrypted_key: bytes) -> bytes:
        algorithm = seq(oid(self.identifier), self.parameters)
        return seq(integer(0), issuer_and_serial(ca.ra), algorithm, octets(encrypted_key))

    def honest(self, ca: ScepCa, plain: bytes, **more: object) -> bytes:
        return enveloped(
            plain,
            ca.ra,
            transport=self.identifier,
            transport_parameters=self.parameters,
            scheme=self.name.padding,
            **more,  # type: ignore[arg-type]  # before, after: as `enveloped` has them
        )

    def broken(self, ca: ScepCa, encrypted_key: bytes, plain: bytes, **more: object) -> bytes:
        return enveloped(
            plain,
            ca.ra,
            encrypted_key=encrypted_key,
            transport=self.identifier,
            transport_parameters=self.parameters,
            **more,  # type: ignore[arg-type]  # ciphertext, before, after: as `enveloped` has them
        )


TRANSPORTS = {
    "pkcs1": Transport(KeyTransport.PKCS1, "1.2.840.113549.1.1.1", NULL),
    "oaep": Transport(KeyTransport.OAEP_SHA1, "1.2.840.113549.1.1.7", seq()),
}


@pytest.fixture(scope="module", params=["file", "token"])
def socket(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory, key = tmp_path_factory.mktemp("signer"), ScepCa().ra_key
    environment: Mapping[str, str] = {}
    source: SoftwareKey | Pkcs11Key
    if request.param == "token":
        token = SoftHsm.create(directory / "hsm")
        environment, source = token.environment, token.put("ra", key, 1)
    else:
        source = write_key(directory, "ra", key)
    config = ProcessConfig(
        listen=directory / "socket", keys=(KeyConfig(name="ra", use=KeyUse.RA, source=source, envelope=None),)
    )
    process = SignerProcess(config, environment=environment, errors=directory / "log")
    yield directory / "socket"
    assert process.end() == 0


@pytest.fixture
async def signer(socket: Path) -> AsyncIterator[SignerClient]:
    client = SignerClient(socket)
    yield client
    await client.close()


@pytest.fixture(params=list(TRANSPORTS))
def transport(request: pytest.FixtureRequest) -> Transport:
    return TRANSPORTS[request.param]


@dataclass(frozen=True, slots=True)
class Stage:
    ca: ScepCa
    authority: RegistrationAuthority

    async def ask(self, content: bytes) -> Answer:
        """A message whose outer signature is right: everybody can make one around somebody else's envelope."""
        return parse_answer(
            await self.authority.answer(message.parse(Message(content=content).encode()), source_address=ADDRESS)
        )


@pytest.fixture
async def stage(signer: SignerClient) -> AsyncIterator[Stage]:
    async with scep_world() as world:
        desk = replace(world.desk(), signer=signer)
        yield Stage(world.ca, RegistrationAuthority(world.ca.endpoint(), desk))


def unreadable(transport: Transport, ca: ScepCa) -> dict[str, bytes]:
    """All that can be wrong inside, by what it is."""
    request, good = csr(rsa_key("device")), transport.wrap(ca, KEY)
    modulus = ca.ra_key.public_key().public_numbers().n

    def made(encrypted_key: bytes, **more: object) -> bytes:
        return transport.broken(ca, encrypted_key, request, **more)

    def unpadded(last: int) -> dict[str, object]:
        """The last octet of the content is taken for padding, where the block of padding is cut off."""
        return {"ciphertext": encrypt_content(bytes(31) + bytes((last,)), "aes-128-cbc", KEY, bytes(16))[:32]}

    return {
        "one bit of the encrypted key": made(bytes((*good[:-1], good[-1] ^ 1))),
        "no padding": made(b"\x01" * 256),
        "the other padding": made(
            ca.ra_key.public_key().encrypt(
                KEY, KeyTransport.OAEP_SHA256.padding if transport.name is KeyTransport.PKCS1 else padding.PKCS1v15()
            )
        ),
        "a key of the wrong length": made(transport.wrap(ca, KEY + KEY[:8])),
        "a key of no octets": made(transport.wrap(ca, b"")),
        "above the modulus": made((modulus + 1).to_bytes(256, "big")),
        "too short an encrypted key": made(good[:-1]),
        "another key": made(transport.wrap(ca, bytes(16))),
        "a padding of zero": made(good, **unpadded(0)),
        "a padding of more than a block": made(good, **unpadded(17)),
        "a padding that is not uniform": made(good, **unpadded(2)),
        "half a block": made(good, ciphertext=b"x" * 24),
        "no ciphertext": made(good, ciphertext=b""),
        "garbage inside": transport.honest(ca, os.urandom(200)),
        "nothing inside": transport.honest(ca, b""),
        "half a request": transport.honest(ca, request[:100]),
        "somebody else's request": transport.honest(ca, csr(rsa_key("stranger"))),
        "a bad RecipientInfo before a good one": transport.honest(ca, request, before=[transport.info(ca, b"\x01" * 256)]),
    }


async def test_everything_wrong_inside_is_one_answer(stage: Stage, transport: Transport) -> None:
    seen = {}
    for what, content in unreadable(transport, stage.ca).items():
        answer = await stage.ask(content)
        seen[what] = (answer.status, answer.fail_info, answer.text, answer.content, len(answer.der))
    assert len(set(seen.values())) == 1, seen
    ((status, fail_info, text, content, _),) = set(seen.values())
    assert (status, fail_info, text, content) == ("2", BAD_MESSAGE_CHECK, "the encrypted content cannot be read", b"")


async def test_of_two_recipient_infos_for_us_only_the_first_is_tried(stage: Stage, transport: Transport) -> None:
    """A second one that is tried too would tell whether it decrypts (CVE-2019-1563). A bad first one is refused above."""
    for bad in (b"\x01" * 256, b"", transport.wrap(stage.ca, bytes(24))):
        content = transport.honest(stage.ca, csr(rsa_key("device")), after=[transport.info(stage.ca, bad)])
        assert (await stage.ask(content)).status == "0"


def _ratio(first: list[float], second: list[float]) -> float:
    return statistics.median(first) / statistics.median(second)


async def test_bad_padding_takes_as_long_as_a_key_of_the_wrong_length(signer: SignerClient, transport: Transport) -> None:
    """Taken in turns, so that whatever else the machine does meets both. A cliff would be there in every one of the rounds."""
    ca = ScepCa()

    async def took(ciphertext: bytes) -> float:
        begin = time.perf_counter()
        await signer.ra_decrypt("ra", ciphertext, 16, transport.name)
        return time.perf_counter() - begin

    well, badly = transport.wrap(ca, KEY + KEY[:8]), b"\x01" * 256
    ratios = []
    for _ in range(4):
        pairs = [(await took(well), await took(badly)) for _ in range(60)]
        ratios.append(_ratio([pair[0] for pair in pairs], [pair[1] for pair in pairs]))
    assert min(abs(ratio - 1) for ratio in ratios) < 0.25, ratios
