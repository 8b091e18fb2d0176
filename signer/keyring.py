"""The keys that one signer serves: `api.Signer` itself, with nothing between the caller and the keys but the envelopes.

The signer process puts a socket in front of it; a test or a tool may use it as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from pki.certificate import PublicKey
from pki.cms.transport import KeyTransport
from signer.api import Hash, KeyConfig, KeyUse, Pkcs11Key, SignerRefused, SoftwareKey
from signer.backend import KeyBackend
from signer.configuration import ConfigurationError
from signer.envelope import Limits, spki
from signer.messages import check_announcement, check_cert_rep
from signer.pkcs11 import Log, Module, OpenToStrangers, Pkcs11Backend, Token
from signer.secretfile import read_phrase
from signer.software import PrivateKey, SoftwareBackend, load_key

_LONG_CRL = 256 * 1024  # octets; reading more than this is done in a thread
_SHORTEST_KEY, _LONGEST_KEY = 8, 32  # octets of a content-encryption key: DES has 8, AES-256 has 32

# Legacy digests mirror what an old SCEP client has sent; issuer keys never come near them.
_DIGESTS: Mapping[Hash, hashes.HashAlgorithm] = {
    Hash.MD5: hashes.MD5(),  # noqa: S303  # see above
    Hash.SHA1: hashes.SHA1(),  # noqa: S303  # see above
    Hash.SHA256: hashes.SHA256(),
    Hash.SHA384: hashes.SHA384(),
    Hash.SHA512: hashes.SHA512(),
}
_STRONG = frozenset({Hash.SHA256, Hash.SHA384, Hash.SHA512})


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """Signs certificates, CRLs and OCSP answers, inside its limits; and messages by `messages`, where there is one."""

    backend: KeyBackend
    limits: Limits
    messages: KeyBackend | None = None


@dataclass(frozen=True, slots=True)
class RaKey:
    """Signs and decrypts for SCEP. It can issue nothing, so what it signs is not looked at."""

    backend: KeyBackend


ServedKey = IssuerKey | RaKey


class KeyRing:
    """Implements `api.Signer` over keys in this process."""

    def __init__(
        self, *, keys: Mapping[str, ServedKey], tokens: Iterable[Token] = (), executors: Mapping[KeyUse, ThreadPoolExecutor]
    ) -> None:
        self._keys = dict(keys)
        self._tokens = tuple(tokens)
        self._executors = executors

    async def public_key(self, key: str) -> bytes:
        return spki(await self._key(key).backend.public_key())

    async def sign_certificate(self, key: str, tbs: bytes) -> bytes:
        issuer = self._issuer(key)
        issuer.limits.check_certificate(tbs)
        return await issuer.backend.sign(tbs, issuer.limits.algorithm.hash)

    async def sign_crl(self, key: str, tbs: bytes) -> bytes:
        issuer = self._issuer(key)
        if len(tbs) > _LONG_CRL:
            await asyncio.get_running_loop().run_in_executor(self._executors[KeyUse.ISSUER], issuer.limits.check_crl, tbs)
        else:
            issuer.limits.check_crl(tbs)
        return await issuer.backend.sign(tbs, issuer.limits.algorithm.hash)

    async def sign_ocsp(self, key: str, tbs: bytes) -> bytes:
        issuer = self._issuer(key)
        issuer.limits.check_ocsp(tbs)
        return await issuer.backend.sign(tbs, issuer.limits.algorithm.hash)

    async def sign_announcement(self, key: str, attributes: bytes) -> bytes:
        issuer = self._issuer(key)
        if not issuer.limits.announcements:
            raise SignerRefused(f"the key {key!r} announces no other CA: its configuration does not say so")
        check_announcement(attributes, digests=issuer.limits.announcements)
        return await issuer.backend.sign(attributes, issuer.limits.algorithm.hash)

    async def ra_sign(self, key: str, data: bytes, digest: Hash) -> bytes:
        served, backend = self._speaker(key)
        if isinstance(served, IssuerKey):
            if digest not in _STRONG:
                raise SignerRefused(f"the key {key!r} is an issuer's: it signs nothing with {digest.value}")
            check_cert_rep(data, digest_size=_DIGESTS[digest].digest_size)
        return await backend.sign(data, _DIGESTS[digest])

    async def ra_decrypt(self, key: str, ciphertext: bytes, length: int, transport: KeyTransport) -> bytes:
        _, backend = self._speaker(key)
        if not _SHORTEST_KEY <= length <= _LONGEST_KEY:
            raise SignerRefused(f"a content-encryption key has {_SHORTEST_KEY} to {_LONGEST_KEY} octets")
        return await backend.decrypt(ciphertext, length, transport)

    async def ping(self) -> None:
        for key in self._keys.values():
            await key.backend.check()

    async def close(self) -> None:
        for token in self._tokens:
            await token.close()
        for executor in self._executors.values():
            executor.shutdown(wait=False, cancel_futures=True)

    def reload(self) -> None:
        """Tokens whose PIN was refused are tried again."""
        for token in self._tokens:
            token.reload()

    def away(self) -> tuple[str, ...]:
        """What cannot be used now, and why."""
        return tuple(token.away for token in self._tokens if token.away is not None)

    def uses(self) -> dict[str, str]:
        """Name to use, for the log."""
        return {name: _use(key).value for name, key in self._keys.items()}

    def _key(self, name: str) -> ServedKey:
        key = self._keys.get(name)
        if key is None:
            raise SignerRefused(f"there is no key {name!r} here")
        return key

    def _issuer(self, name: str) -> IssuerKey:
        key = self._key(name)
        if not isinstance(key, IssuerKey):
            raise SignerRefused(
                f"the key {name!r} is a registration authority's: it signs no certificates, CRLs or OCSP answers"
            )
        return key

    def _speaker(self, name: str) -> tuple[ServedKey, KeyBackend]:
        """Whoever speaks SCEP: a registration authority's key, or an issuer's whose configuration says so."""
        key = self._key(name)
        backend = key.messages if isinstance(key, IssuerKey) else key.backend
        if backend is None:
            raise SignerRefused(f"the key {name!r} is an issuer's: it signs no messages and decrypts nothing")
        return key, backend


def _use(key: ServedKey) -> KeyUse:
    return KeyUse.ISSUER if isinstance(key, IssuerKey) else KeyUse.RA


async def open_keys(configs: Collection[KeyConfig], *, log: Log) -> KeyRing:
    """Loads every key. Raises ConfigurationError for what waiting does not mend; tokens that are away are waited for."""
    limits = {config.name: _limits(config) for config in configs}
    issuers = {found.spki: name for name, found in limits.items() if found is not None}
    # Strangers can make an RA key work (every SCEP message is decrypted before it is known whose it is): the queue before it is
    # its own, so that no flood of theirs holds up a certificate.
    executors = {use: ThreadPoolExecutor(max_workers=2, thread_name_prefix=f"{use.value}-keys") for use in KeyUse}
    modules: dict[Path, Module] = {}
    tokens: dict[tuple[Path, str], Token] = {}
    keys: dict[str, ServedKey] = {}
    for config in configs:
        within = limits[config.name]
        accept = partial(_accept, config.name, within, issuers)
        match config.source:
            case SoftwareKey() as source:
                key = _open_file(source)
                backend: KeyBackend = SoftwareBackend(key=key, executor=executors[config.use])
                messages: KeyBackend = SoftwareBackend(key=key, executor=executors[KeyUse.RA])
                accept(await backend.public_key())
            case Pkcs11Key() as source:
                module = modules.setdefault(source.module, Module(source.module))
                token = tokens.get((source.module, source.token))
                if token is None:
                    token = Token(module=module, label=source.token, pin_file=source.pin_file, log=log)
                    tokens[source.module, source.token] = token
                expected = None if within is None else within.public_key
                backend = found = Pkcs11Backend(token=token, label=source.label, expected=expected, accept=accept)
                messages = OpenToStrangers(found, module)
        keys[config.name] = (
            RaKey(messages) if within is None else IssuerKey(backend, within, messages if within.messages else None)
        )
    for token in tokens.values():
        await token.open()
    return KeyRing(keys=keys, tokens=tokens.values(), executors=executors)


def _limits(config: KeyConfig) -> Limits | None:
    match config.use, config.envelope:
        case KeyUse.ISSUER, envelope if envelope is not None:
            try:
                return Limits.of(envelope)
            except ValueError as error:
                raise ConfigurationError(f"{config.name}: {error}") from None
        case KeyUse.RA, None:
            return None
        case _:
            raise ConfigurationError(f"{config.name}: an issuer key has an envelope, an RA key has none")


def _open_file(source: SoftwareKey) -> PrivateKey:
    return load_key(source.file, None if source.passphrase_file is None else read_phrase(source.passphrase_file))


def _accept(name: str, limits: Limits | None, issuers: Mapping[bytes, str], public_key: PublicKey) -> None:
    """Raises ConfigurationError when the key that was found is not one that `name` may be."""
    found = spki(public_key)
    if limits is not None:
        if found != limits.spki:
            raise ConfigurationError(f"{name}: the key is not the one of its certificate")
        return
    if not isinstance(public_key, rsa.RSAPublicKey):
        raise ConfigurationError(f"{name}: is no RSA key, and RA keys must be (RFC 8894 §2.1.2)")
    if found in issuers:  # it would sign a TBSCertificate as if it were a message
        raise ConfigurationError(f"{name}: is the key of {issuers[found]} too; an RA has a key of its own")
