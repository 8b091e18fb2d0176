"""Names of Tor's onion services, version 3: the name is the key (Tor's rend-spec-v3, "Encoding onion addresses"). Pure."""

from __future__ import annotations

import base64
import hashlib

_ADDRESS = 56  # characters of base32: 32 octets of key, 2 of checksum, 1 of version
_VERSION = b"\x03"
_ED25519_SPKI = bytes.fromhex("302a300506032b6570032100")  # RFC 8410 §4; then the key


def is_onion(name: str) -> bool:
    """Of a canonical name: does it lie in the special-use domain (RFC 7686)?"""
    return name == "onion" or name.endswith(".onion")


def onion_key(name: str) -> bytes:
    """The Ed25519 public key that a canonical name under .onion is made of, subdomains or not. Raises ValueError, with words that
    may be shown.
    """
    *_, address, _ = ("", *name.split("."))
    if len(address) != _ADDRESS:
        raise ValueError(
            "an onion name has an address of 56 characters before .onion; version 2 is no longer one (RFC 9799 §2)"
        )
    try:
        decoded = base64.b32decode(address.upper())
    except ValueError:
        raise ValueError("its onion address is not base32") from None
    key, checksum, version = decoded[:32], decoded[32:34], decoded[34:]
    if version != _VERSION:
        raise ValueError("its onion address is not of version 3")
    if checksum != hashlib.sha3_256(b".onion checksum" + key + version).digest()[:2]:
        raise ValueError("the checksum of its onion address is wrong; was a character mistyped?")
    return key


def onion_spki(name: str) -> bytes:
    """The same key as SubjectPublicKeyInfo. Raises ValueError."""
    return _ED25519_SPKI + onion_key(name)


def onion_name(key: bytes) -> str:
    """The inverse of `onion_key`, without subdomains."""
    checksum = hashlib.sha3_256(b".onion checksum" + key + _VERSION).digest()[:2]
    return base64.b32encode(key + checksum + _VERSION).decode("ascii").lower() + ".onion"
