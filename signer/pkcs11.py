"""Keys in tokens, through PKCS#11, with **one calling thread per module**.

python-pkcs11 initialises modules without OS locking, and two threads inside one end the process; so everything that touches
a module runs in its one thread. Handles die with the token's connection, and only C_Finalize and C_Initialize bring a token
back (SoftHSM: ObjectHandleInvalid on old handles, GeneralError on new sessions): that too is done here, by itself.
A PIN that was refused is not tried again, because tokens count: reload or restart the signer after the file is put right.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar, assert_never

import pkcs11
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.exceptions import (
    MultipleObjectsReturned,
    MultipleTokensReturned,
    NoSuchKey,
    PinExpired,
    PinIncorrect,
    PinInvalid,
    PinLenRange,
    PinLocked,
    PKCS11Error,
)

from pki.certificate import PublicKey, signature_algorithm, verify_signature
from pki.cms.transport import KeyTransport
from pki.reasons import Unavailable
from signer.api import SignerRefused, TransportUnavailable
from signer.backend import REJECTION_LABEL, rejection_secret, substitute
from signer.configuration import ConfigurationError
from signer.pkcs11rsa import Modulus, Unpads, decrypt_padded, decrypt_raw
from signer.secretfile import read_phrase
from signer.unpadding import unpad

T = TypeVar("T")

_PROBE = b"certwright: does this key belong to that certificate?"
_FIRST_DELAY, _LONGEST_DELAY = 0.25, 5.0  # seconds between attempts to get a token back
_STRANGERS = 2  # of their calls at once with one module: one that is done, and the next

# DigestInfo up to the digest itself (RFC 8017 §9.2 note 1).
_DIGEST_INFO = {
    "md5": bytes.fromhex("3020300c06082a864886f70d020505000410"),
    "sha1": bytes.fromhex("3021300906052b0e03021a05000414"),
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}


class Log(Protocol):
    """One event with its fields; never a secret among them."""

    def __call__(self, event: str, **fields: object) -> None: ...


class PinRefused(Exception):
    """The token did not take the PIN. It counts its failures, so nobody tries again by himself."""


class Module:
    """One PKCS#11 library. Everything but `run` is for its own thread.

    `patience` is how many seconds one call may take before nobody else is made to queue behind it: a driver that hangs
    cannot be interrupted, but it need not hang its callers.
    """

    def __init__(self, path: Path, *, patience: float = 5.0) -> None:
        self.path = path
        self._patience = patience
        self._busy_since: float | None = None  # monotonic
        self.generation = 0  # handles of an earlier one are dead
        self._library: pkcs11._pkcs11.lib | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pkcs11")
        self._turns = asyncio.Semaphore(_STRANGERS)

    async def run(self, work: Callable[[], T]) -> T:
        """`work` in the module's thread. If the caller gives up before it has begun, it never begins."""
        self._check_patience()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._timed, work)

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Around work that strangers cause: little of it is in the queue of the thread, so that none of the CA's own waits long."""
        self._check_patience()
        async with self._turns:
            yield

    def _check_patience(self) -> None:
        """Raises Unavailable."""
        since = self._busy_since
        if since is not None and time.monotonic() - since > self._patience:
            raise Unavailable(f"{self.path} has not come back from a call for more than {self._patience} s")

    def _timed(self, work: Callable[[], T]) -> T:
        self._busy_since = time.monotonic()
        try:
            return work()
        finally:
            self._busy_since = None

    def token(self, label: str) -> pkcs11.Token:
        if self._library is None:
            try:
                ctypes.CDLL(str(self.path))
            except OSError as error:  # dlopen's text; python-pkcs11 mixes it up with what a token may say
                raise ConfigurationError(f"{self.path}: is no PKCS#11 module that can be loaded ({error})") from None
            self._library = pkcs11.lib(str(self.path))
        try:
            return self._library.get_token(token_label=label)
        except MultipleTokensReturned:
            raise ConfigurationError(f"{self.path}: has more than one token with the label {label!r}") from None

    def reinitialize(self) -> None:
        """C_Finalize and C_Initialize. Every handle of every token of the module is void afterwards."""
        self.generation += 1
        if self._library is None:
            return
        with contextlib.suppress(PKCS11Error):  # the library's state is what we are throwing away
            self._library.finalize()
        self._library.initialize()

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


class Token:
    """One token: its login, its keys, and getting it back when it has gone."""

    def __init__(self, *, module: Module, label: str, pin_file: Path, log: Log) -> None:
        self._module = module
        self._label = label
        self._pin_file = pin_file
        self._log = log
        self._keys: list[Pkcs11Backend] = []
        self._generation = -1
        self._broken: PKCS11Error | ConfigurationError | None = None  # the module's thread's own view of `_away`
        self._away: str | None = "not opened yet"
        self._delay = _FIRST_DELAY
        self._recovery: asyncio.Task[None] | None = None

    def add(self, key: Pkcs11Backend) -> None:
        self._keys.append(key)

    @property
    def away(self) -> str | None:
        """Why the token cannot be used now, or None."""
        return self._away

    def tell(self, event: str, **fields: object) -> None:
        self._log(event, token=self._label, **fields)

    async def open(self) -> None:
        """Raises ConfigurationError for what waiting does not mend. A token that is away is waited for in the background."""
        try:
            await self._module.run(self._ensure_open)
        except PinRefused as refused:
            self._refuse_pin(refused)
        except PKCS11Error as error:
            self._lost(error)
        else:
            self._away = None

    def reload(self) -> None:
        """Somebody has put the PIN right: try again."""
        if self._away is not None and self._recovery is None:
            self._recovery = asyncio.get_running_loop().create_task(self._recover())

    async def run(self, work: Callable[[], T]) -> T:
        """`work` in the module's thread with the token open; once more after a re-initialisation when the token was lost."""
        if self._away is not None:
            raise Unavailable(self._away)
        try:
            result = await self._module.run(lambda: self._attempt(work))
        except PinRefused as refused:
            self._refuse_pin(refused)
        except (PKCS11Error, ConfigurationError) as error:
            self._lost(error)
        else:
            self._delay = _FIRST_DELAY
            return result
        raise Unavailable(str(self._away))

    async def close(self) -> None:
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)

    # ------------------------------------------------------------ in the loop's thread

    def _lost(self, error: Exception) -> None:
        if self._away is None or self._recovery is None:
            self._log("token-lost", token=self._label, error=_text(error))
        self._away = f"token {self._label!r} is away ({_text(error)})"
        if self._recovery is None:
            self._recovery = asyncio.get_running_loop().create_task(self._recover())

    def _refuse_pin(self, refused: PinRefused) -> None:
        self._away = f"token {self._label!r} refused the PIN ({refused}); put {self._pin_file} right, then reload the signer"
        self._log("pin-refused", token=self._label, pin_file=str(self._pin_file), error=str(refused))

    async def _recover(self) -> None:
        """Tries until the token is back, ever more slowly; a refused PIN ends it."""
        try:
            while True:
                await asyncio.sleep(self._delay)
                self._delay = min(2 * self._delay, _LONGEST_DELAY)
                try:
                    await self._module.run(self._reopen)
                except PinRefused as refused:
                    return self._refuse_pin(refused)
                except (PKCS11Error, ConfigurationError, Unavailable) as error:
                    self._away = f"token {self._label!r} is away ({_text(error)})"
                else:
                    self._away = None
                    return self._log("token-back", token=self._label)
        finally:
            self._recovery = None

    # ------------------------------------------------------------ in the module's thread

    def _attempt(self, work: Callable[[], T]) -> T:
        if self._broken is not None:  # what was queued when the token went: no re-initialisation each
            raise self._broken
        try:
            self._ensure_open()
            return work()
        except PKCS11Error:
            self._reopen()
        try:
            return work()
        except PKCS11Error as error:
            self._broken = error
            raise

    def _reopen(self) -> None:
        try:
            self._module.reinitialize()
            self._ensure_open()
        except (PKCS11Error, ConfigurationError) as error:
            self._broken = error
            raise
        self._broken = None

    def _ensure_open(self) -> None:
        if self._generation == self._module.generation:
            return
        token = self._module.token(self._label)
        pin = _pin(self._pin_file)
        try:
            session = token.open(user_pin=pin)
        except (PinIncorrect, PinLocked, PinExpired, PinInvalid, PinLenRange) as error:
            raise PinRefused(_text(error)) from None
        for key in self._keys:
            key.attach(session)
        self._generation = self._module.generation


class Pkcs11Backend:
    """One private key object. `expected` is the public key of the issuer certificate; an RA key brings its own.

    `accept` looks at the public key that was proven and raises ConfigurationError when it must not be served.
    """

    def __init__(self, *, token: Token, label: str, expected: PublicKey | None, accept: Callable[[PublicKey], None]) -> None:
        self._token = token
        self._label = label
        self._public_key = expected
        self._accept = accept
        self._key: pkcs11.PrivateKey | None = None
        self._is_rsa = False
        self._secret = b""
        self._modulus = Modulus.of(0)
        self._transports: dict[KeyTransport, Unpads] = {}  # that were seen to be done
        token.add(self)

    def __repr__(self) -> str:
        return f"Pkcs11Backend({self._label!r})"

    async def public_key(self) -> PublicKey:
        if self._public_key is None:
            await self.check()
        if self._public_key is None:
            raise Unavailable(f"the key {self._label!r} has not been seen yet")
        return self._public_key

    async def sign(self, data: bytes, digest: hashes.HashAlgorithm | None) -> bytes:
        if digest is None:
            raise SignerRefused("keys in tokens sign with a digest")
        name = digest.name
        return await self._token.run(lambda: self._sign(data, name))

    async def decrypt(self, ciphertext: bytes, length: int, transport: KeyTransport) -> bytes:
        return await self._token.run(lambda: self._decrypt(ciphertext, length, transport))

    async def check(self) -> None:
        await self._token.run(self._touch)

    # ------------------------------------------------------------ in the module's thread

    def attach(self, session: pkcs11.Session) -> None:
        """Finds the key anew. Raises ConfigurationError when it is not there, or is not one that we may use."""
        try:
            key = session.get_key(object_class=ObjectClass.PRIVATE_KEY, label=self._label)
        except NoSuchKey:
            raise ConfigurationError(f"the token has no private key with the label {self._label!r}") from None
        except MultipleObjectsReturned:
            raise ConfigurationError(f"the token has more than one private key with the label {self._label!r}") from None
        if not isinstance(key, pkcs11.PrivateKey):
            raise ConfigurationError(f"the object {self._label!r} is no private key")
        if not key[Attribute.SENSITIVE] or key[Attribute.EXTRACTABLE]:
            raise ConfigurationError(
                f"the key {self._label!r} can leave its token (CKA_SENSITIVE must be true and CKA_EXTRACTABLE false); "
                "make a new one inside the token"
            )
        self._key = key
        self._is_rsa = key.key_type is KeyType.RSA
        public_key = self._public_key or _rsa_public_key(key, self._label)
        self._prove(public_key)
        self._accept(public_key)
        if isinstance(public_key, rsa.RSAPublicKey):
            self._secret = rejection_secret(self._sign(REJECTION_LABEL, "sha256"))
            self._modulus = Modulus.of(public_key.public_numbers().n)
        self._public_key = public_key
        self._transports = {}

    def _prove(self, public_key: PublicKey) -> None:
        algorithm = signature_algorithm(public_key)
        fits = KeyType.EC if isinstance(public_key, ec.EllipticCurvePublicKey) else KeyType.RSA
        if algorithm.hash is None or self._handle().key_type is not fits:
            raise ConfigurationError(f"the key {self._label!r} is of another kind than its certificate, or neither EC nor RSA")
        if not verify_signature(public_key, algorithm, self._sign(_PROBE, algorithm.hash.name), _PROBE):
            raise ConfigurationError(f"the key {self._label!r} is not the one of its certificate")

    def _handle(self) -> pkcs11.PrivateKey:
        if self._key is None:
            raise ConfigurationError(f"the key {self._label!r} has not been opened")
        return self._key

    def _sign(self, data: bytes, digest: str) -> bytes:
        key = self._handle()
        value = hashlib.new(digest, data, usedforsecurity=digest not in {"md5", "sha1"}).digest()
        if not isinstance(key, pkcs11.SignMixin):
            raise SignerRefused(f"the token does not let the key {self._label!r} sign (CKA_SIGN)")
        if self._is_rsa:
            return key.sign(_DIGEST_INFO[digest] + value, mechanism=Mechanism.RSA_PKCS)
        raw = key.sign(value, mechanism=Mechanism.ECDSA)
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))

    def _decrypt(self, ciphertext: bytes, length: int, transport: KeyTransport) -> bytes:
        key = self._handle()
        if not isinstance(key, pkcs11.DecryptMixin):
            raise SignerRefused(f"the token does not let the key {self._label!r} decrypt (CKA_DECRYPT)")
        unpads = self._who_unpads(key, transport)
        otherwise = substitute(self._secret, ciphertext, length, transport)
        if not self._modulus.takes(ciphertext):
            return otherwise
        return self._opened(key, ciphertext, length, transport, unpads=unpads, otherwise=otherwise)

    def _opened(
        self,
        key: pkcs11.DecryptMixin,
        ciphertext: bytes,
        length: int,
        transport: KeyTransport,
        *,
        unpads: Unpads,
        otherwise: bytes,
    ) -> bytes:
        """Raises PKCS11Error, which never depends on the padding."""
        match unpads:
            case Unpads.WE:
                block = decrypt_raw(key, ciphertext, self._modulus)
                return unpad(block, length=length, transport=transport, otherwise=otherwise)
            case Unpads.THE_TOKEN:
                try:
                    plain = decrypt_padded(key, ciphertext, transport)
                except PKCS11Error:
                    plain = b""
                # Bad padding and a lost token can be the same error code (SoftHSM: CKR_GENERAL_ERROR for both). The handle tells
                # them apart, and it is looked at whatever came out, so that a good ciphertext takes no other way than a bad one.
                self._touch()
                return plain if len(plain) == length else otherwise
            case _:
                assert_never(unpads)

    def _who_unpads(self, key: pkcs11.DecryptMixin, transport: KeyTransport) -> Unpads:
        """Raises TransportUnavailable. Tried with a ciphertext of ours: the answer must not depend on anybody else's.

        Tokens have no common error for what they do not do, so every one counts while the handle is alive; and it is tried again the next
        time, for it may have been another reason.
        """
        known = self._transports.get(transport)
        if known is not None:
            return known
        public_key = self._public_key
        if not isinstance(public_key, rsa.RSAPublicKey):
            raise SignerRefused("only RSA keys decrypt")
        ours = _PROBE[:8]
        for unpads in Unpads:
            with contextlib.suppress(PKCS11Error, ValueError):  # ValueError: the modulus has no room for this digest
                ciphertext = public_key.encrypt(ours, transport.padding)
                if self._opened(key, ciphertext, len(ours), transport, unpads=unpads, otherwise=bytes(len(ours))) == ours:
                    if unpads is Unpads.THE_TOKEN:
                        self._token.tell("token-unpads", key=self._label, transport=transport.value)
                    self._transports[transport] = unpads
                    return unpads
        self._touch()
        instead = "RSAES-PKCS1-v1_5, or RSAES-OAEP with SHA-1" if transport.oaep else "RSAES-OAEP"
        raise TransportUnavailable(
            f"key transport {transport.value} is not supported by the token that decrypts here; use {instead}"
        )

    def _touch(self) -> None:
        """Raises PKCS11Error when the handle is dead."""
        self._handle()[Attribute.LABEL]


class OpenToStrangers:
    """A key that works for whoever sends a message: `KeyBackend`, with turns of its module for what they can have it do."""

    def __init__(self, backend: Pkcs11Backend, module: Module) -> None:
        self._backend = backend
        self._module = module

    async def public_key(self) -> PublicKey:
        return await self._backend.public_key()

    async def sign(self, data: bytes, digest: hashes.HashAlgorithm | None) -> bytes:
        async with self._module.turn():
            return await self._backend.sign(data, digest)

    async def decrypt(self, ciphertext: bytes, length: int, transport: KeyTransport) -> bytes:
        async with self._module.turn():
            return await self._backend.decrypt(ciphertext, length, transport)

    async def check(self) -> None:
        await self._backend.check()


def _pin(path: Path) -> str:
    try:
        return read_phrase(path).decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: is no text, so it is no PIN") from None


def _rsa_public_key(key: pkcs11.PrivateKey, label: str) -> PublicKey:
    if key.key_type is not KeyType.RSA:
        raise ConfigurationError(f"the key {label!r} is no RSA key, and RA keys must be (RFC 8894 §2.1.2)")
    modulus, exponent = key[Attribute.MODULUS], key[Attribute.PUBLIC_EXPONENT]
    return rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big")).public_key()


def _text(error: Exception) -> str:
    """PKCS11Error's name is its CKR code; its message is often empty."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
