"""The padding off a content-encryption key that a token has decrypted raw (RFC 8017 §7.1.2 and §7.2.2), with implicit rejection. Pure.

Law of this file: how long the key must be is known, so there is one right form of the whole block, and every block takes the same
way: built, masked and compared as a whole, both answers there, one chosen by arithmetic. No branch, exception, index or size
depends on what is inside; the lengths that do are of the modulus, the transport and the key, which everybody knows.
"""

from __future__ import annotations

import hmac

from pki.cms.transport import KeyTransport
from pki.cms.types import Digest

# By bytes.translate: 1 for a zero, 0 for all else. No octet stays itself, so that it has no way round for a block without changes.
_IS_ZERO = b"\1" + bytes(255)
_SHORTEST_PS = 8  # octets (RFC 8017 §7.2.1)


def unpad(block: bytes, *, length: int, transport: KeyTransport, otherwise: bytes) -> bytes:
    """The key of `length` octets in `block`, or `otherwise`, which is as long. `block` has as many octets as the modulus."""
    if len(block) < length + _overhead(transport):
        return otherwise  # the modulus has no room: nobody can have encrypted such a key to it
    if transport.oaep is None:
        right = _is_pkcs1(block, length)
        key = block[-length:]
    else:
        plain, form = _unmask(block, length, *transport.oaep)
        right = hmac.compare_digest(plain[:-length], form)
        key = plain[-length:]
    return _select(right, key, otherwise)


def _overhead(transport: KeyTransport) -> int:
    """Octets of the modulus that are not the message's: RFC 8017 §7.1.1 and §7.2.1, step 1."""
    if transport.oaep is None:
        return _SHORTEST_PS + 3
    digest, _ = transport.oaep
    return 2 * digest.algorithm.digest_size + 2


def _is_pkcs1(block: bytes, length: int) -> bool:
    """EM = 00 02 PS 00 key, where PS has no zeros; its length follows from the key's."""
    begin = len(block) - length
    seen = block[:2] + block.translate(_IS_ZERO)[2:begin]
    return hmac.compare_digest(seen, b"\0\2" + bytes(begin - 3) + b"\1")


def _unmask(block: bytes, length: int, digest: Digest, mask: Digest) -> tuple[bytes, bytes]:
    """Y, seed and DB = lHash PS 01 key, without their masks; and what all before the key has to be, which has Y zero (Manger)."""
    size = digest.algorithm.digest_size
    seed_begin, begin = 1, 1 + size
    seed_mask = _mgf1(block[begin:], size, mask)
    seed = _xor(block[seed_begin:begin], seed_mask)
    plain = _xor(block, bytes(1) + seed_mask + _mgf1(seed, len(block) - begin, mask))
    zeros = len(block) - begin - size - 1 - length
    return plain, b"\0" + seed + digest.of(b"") + bytes(zeros) + b"\1"


def _mgf1(seed: bytes, length: int, digest: Digest) -> bytes:
    """RFC 8017 §B.2.1."""
    rounds = -(-length // digest.algorithm.digest_size)
    return b"".join(digest.of(seed + counter.to_bytes(4, "big")) for counter in range(rounds))[:length]


def _xor(first: bytes, second: bytes) -> bytes:
    """Of the same length. An octet in front of both keeps the numbers as long as they are: a leading zero would make one shorter."""
    number = int.from_bytes(b"\1" + first, "big") ^ int.from_bytes(b"\2" + second, "big")
    return number.to_bytes(1 + len(first), "big")[1:]


def _select(right: bool, key: bytes, otherwise: bytes) -> bytes:  # noqa: FBT001  # what it selects by
    mask = 0xFF * right
    return bytes([there ^ (mask & (here ^ there)) for here, there in zip(key, otherwise, strict=True)])
