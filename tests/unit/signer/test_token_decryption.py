"""What a key in a token decrypts, with a simulated token: how often it is asked, and for what; that it makes no error of a bad
padding; what becomes of one that does no raw RSA, leaves zeros away, or goes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pkcs11
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from pkcs11 import Attribute, KeyType, Mechanism
from pkcs11.exceptions import GeneralError, MechanismInvalid, ObjectHandleInvalid, PKCS11Error

from pki.cms.transport import KeyTransport
from pki.reasons import Unavailable
from signer.api import TransportUnavailable
from signer.pkcs11 import Module, Pkcs11Backend, Token
from tests.helpers.scep import rsa_key

SIZE = 256  # octets of the modulus
KEY = b"0123456789abcdef"
RSA = rsa_key("token")
NUMBERS = RSA.private_numbers()
N = NUMBERS.public_numbers.n


def raw(ciphertext: bytes) -> bytes:
    return pow(int.from_bytes(ciphertext, "big"), NUMBERS.d, N).to_bytes(SIZE, "big")


@dataclass
class Hardware:
    """What is behind the handles. `raw` is its CKM_RSA_X_509."""

    raw: Callable[[bytes], bytes] = raw
    there: bool = True
    asked: list[Mechanism] = field(default_factory=list)
    errors: int = 0
    opened: int = 0


def no_raw_rsa(ciphertext: bytes) -> bytes:
    raise MechanismInvalid


class Key(pkcs11.PrivateKey, pkcs11.SignMixin, pkcs11.DecryptMixin):
    """A handle: it dies with the session in which it was found."""

    def __init__(self, hardware: Hardware) -> None:
        self._hardware = hardware
        self._session = hardware.opened

    @property
    def key_type(self) -> KeyType:
        return KeyType.RSA

    def __getitem__(self, key: Attribute) -> Any:
        self._alive()
        public = NUMBERS.public_numbers
        return {
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.LABEL: "ra",
            Attribute.MODULUS: public.n.to_bytes(SIZE, "big"),
            Attribute.PUBLIC_EXPONENT: public.e.to_bytes(3, "big"),
        }[key]

    def sign(self, data: str | bytes | Iterator[bytes], **kwargs: Any) -> bytes:
        self._alive()
        assert isinstance(data, bytes)
        return RSA.sign(data[-32:], padding.PKCS1v15(), Prehashed(hashes.SHA256()))

    def decrypt(self, data: bytes | Iterator[bytes], buffer_size: int = 8192, **kwargs: Any) -> bytes:
        self._hardware.asked.append(kwargs["mechanism"])
        try:
            self._alive()
            return self._decrypted(cast("bytes", data), kwargs["mechanism"])
        except PKCS11Error:
            self._hardware.errors += 1
            raise

    def _decrypted(self, data: bytes, mechanism: Mechanism) -> bytes:
        if mechanism is Mechanism.RSA_X_509:
            return self._hardware.raw(data)
        if mechanism is not Mechanism.RSA_PKCS:
            raise MechanismInvalid
        before, separator, message = raw(data)[2:].partition(b"\0")
        if raw(data)[:2] != b"\0\2" or not separator or len(before) < 8:
            raise GeneralError
        return message

    def _alive(self) -> None:
        if not self._hardware.there or self._session != self._hardware.opened:
            raise ObjectHandleInvalid


class Library(Module):
    """A module whose token is `hardware`."""

    def __init__(self, hardware: Hardware) -> None:
        super().__init__(Path("/simulated"))
        self._hardware = hardware

    def token(self, label: str) -> pkcs11.Token:
        return cast("pkcs11.Token", self)

    def open(self, user_pin: str) -> pkcs11.Session:
        if not self._hardware.there:
            raise GeneralError
        self._hardware.opened += 1
        return cast("pkcs11.Session", self)

    def get_key(self, **_: object) -> pkcs11.PrivateKey:
        return Key(self._hardware)


@dataclass(frozen=True, slots=True)
class Stage:
    key: Pkcs11Backend
    module: Module
    events: list[str]

    async def decrypt(self, ciphertext: bytes, transport: KeyTransport = KeyTransport.PKCS1) -> bytes:
        return await self.key.decrypt(ciphertext, len(KEY), transport)


@asynccontextmanager
async def stage(hardware: Hardware, directory: Path) -> AsyncIterator[Stage]:
    pin = directory / "pin"
    pin.touch(mode=0o600)
    pin.write_text("1234\n")
    events: list[str] = []
    module = Library(hardware)
    token = Token(module=module, label="simulated", pin_file=pin, log=lambda event, **_fields: events.append(event))
    key = Pkcs11Backend(token=token, label="ra", expected=None, accept=lambda _public_key: None)
    await token.open()
    yield Stage(key, module, events)
    await token.close()
    module.close()


def good(transport: KeyTransport = KeyTransport.PKCS1) -> bytes:
    return RSA.public_key().encrypt(KEY, transport.padding)


def encrypted(block: bytes) -> bytes:
    return pow(int.from_bytes(block, "big"), NUMBERS.public_numbers.e, N).to_bytes(SIZE, "big")


async def test_a_bad_padding_has_the_token_do_what_a_good_one_does(tmp_path: Path) -> None:
    hardware = Hardware()
    async with stage(hardware, tmp_path) as at:
        for transport in KeyTransport:
            assert await at.decrypt(good(transport), transport) == KEY
            hardware.asked.clear()
            bad = [
                b"\1" * SIZE,
                encrypted(b"\0\1" + b"\xff" * (SIZE - 2)),
                encrypted(b"\1" + bytes(SIZE - 1)),
                RSA.public_key().encrypt(b"", transport.padding),
                good(KeyTransport.OAEP_SHA256 if transport is KeyTransport.PKCS1 else KeyTransport.PKCS1),
            ]
            answers = [await at.decrypt(each, transport) for each in bad]
            assert {len(answer) for answer in answers} == {len(KEY)}
            assert len({KEY, *answers}) == 1 + len(bad)
            assert [await at.decrypt(each, transport) for each in bad] == answers
            assert hardware.asked == [Mechanism.RSA_X_509] * 2 * len(bad), transport
        assert (hardware.errors, hardware.opened, at.events) == (0, 1, [])


async def test_what_anybody_can_see_is_no_ciphertext_never_reaches_the_token(tmp_path: Path) -> None:
    """Not below the modulus, of another length, or a number that is its own plaintext: a token could take it for its end."""
    hardware = Hardware()
    async with stage(hardware, tmp_path) as at:
        assert await at.decrypt(good()) == KEY
        hardware.asked.clear()
        seen = [number.to_bytes(SIZE, "big") for number in (0, 1, N - 1, N, N + 1)]
        for ciphertext in (*seen, b"", good()[1:], b"\0" + good(), b"\xff" * SIZE):
            answer = await at.decrypt(ciphertext)
            assert (len(answer), answer) == (len(KEY), await at.decrypt(ciphertext))
        assert hardware.asked == []
        await at.decrypt((2).to_bytes(SIZE, "big"))
        await at.decrypt((N - 2).to_bytes(SIZE, "big"))
        assert len(hardware.asked) == 2


async def test_a_token_that_leaves_zeros_away_in_front_is_understood(tmp_path: Path) -> None:
    async with stage(Hardware(raw=lambda ciphertext: raw(ciphertext).lstrip(b"\0")), tmp_path) as at:
        for transport in KeyTransport:
            assert await at.decrypt(good(transport), transport) == KEY
            assert len(await at.decrypt(encrypted(bytes(SIZE - 1) + b"\5"), transport)) == len(KEY)
        assert at.events == []


@pytest.mark.parametrize(
    "instead",
    [no_raw_rsa, lambda ciphertext: os.urandom(len(ciphertext)), lambda _ciphertext: b""],
    ids=["refuses", "does-another", "does-none"],
)
async def test_a_token_without_raw_rsa_takes_the_padding_off_itself_and_the_log_says_so(
    tmp_path: Path, instead: Callable[[bytes], bytes]
) -> None:
    hardware = Hardware(raw=instead)
    async with stage(hardware, tmp_path) as at:
        assert await at.decrypt(good()) == KEY
        hardware.asked.clear()
        assert await at.decrypt(good()) == KEY
        bad = await at.decrypt(b"\1" * SIZE)
        assert (len(bad), bad) == (len(KEY), await at.decrypt(b"\1" * SIZE))
        assert hardware.asked == [Mechanism.RSA_PKCS] * 3  # and tries nothing else again
        with pytest.raises(TransportUnavailable, match="oaep-sha256 is not supported by the token"):
            await at.decrypt(good(), KeyTransport.OAEP_SHA256)
        assert (hardware.opened, at.events) == (1, ["token-unpads"])


async def test_a_token_that_went_and_is_back_decrypts_after_one_re_initialisation(tmp_path: Path) -> None:
    hardware = Hardware()
    async with stage(hardware, tmp_path) as at:
        assert await at.decrypt(good()) == KEY
        hardware.opened += 1  # every handle of before is dead
        assert await at.decrypt(good()) == KEY
        assert (at.module.generation, at.events) == (1, [])


async def test_a_token_that_is_gone_is_unavailable_for_good_and_bad_ciphertexts_alike(tmp_path: Path) -> None:
    for before in (True, False):  # whether it was seen to do raw RSA
        for ciphertext in (good(), b"\1" * SIZE):
            hardware = Hardware()
            directory = tmp_path / f"{before}-{ciphertext[0]:x}"
            directory.mkdir()
            async with stage(hardware, directory) as at:
                if before:
                    await at.decrypt(good())
                hardware.there = False
                with pytest.raises(Unavailable):
                    await at.decrypt(ciphertext)
                assert at.events == ["token-lost"]


async def test_a_raw_operation_that_fails_is_the_tokens_fault_whatever_was_in_it(tmp_path: Path) -> None:
    """No substitute for an error: what is right would then be wrong, and only when the token is ill."""
    ill = asyncio.Event()

    def sometimes(ciphertext: bytes) -> bytes:
        if ill.is_set():
            raise GeneralError
        return raw(ciphertext)

    async with stage(Hardware(raw=sometimes), tmp_path) as at:
        assert await at.decrypt(good(KeyTransport.OAEP_SHA256), KeyTransport.OAEP_SHA256) == KEY
        ill.set()
        with pytest.raises((Unavailable, TransportUnavailable)):
            await at.decrypt(good(KeyTransport.OAEP_SHA256), KeyTransport.OAEP_SHA256)
        assert at.module.generation == 1
