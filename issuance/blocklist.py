"""Keys that no certificate and no account may have: lists that an operator brings, beside what revocations add.

Law of this file: a key is known by the SHA-256 of its SubjectPublicKeyInfo (DER), in lower-case hex, as everywhere else here. A list
that cannot be read whole is not read at all: who imports half of it believes in the other half.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from issuance import audit
from pki.clock import Micros
from pki.reasons import Reason, Rejection
from storage.database import Database, Step

# $1: the hashes one after the other, $3: how many less one. One statement for a thousand keys, on both engines.
BLOCK_LIST_SQL = """
INSERT INTO blocked_key (spki_sha256, reason, blocked_at)
SELECT substr(CAST($1 AS TEXT), n * 64 + 1, 64), CAST($4 AS TEXT), CAST($2 AS BIGINT) FROM (
    WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < $3) SELECT n FROM numbers
) AS listed WHERE TRUE ON CONFLICT (spki_sha256) DO NOTHING RETURNING spki_sha256"""
# Certificates that are valid although their key is blocked: for the operator to revoke.
AFFECTED_SQL = """
SELECT c.issuer, c.serial, c.names FROM certificate c JOIN blocked_key b ON b.spki_sha256 = c.spki_sha256
WHERE c.not_after > $1 AND NOT EXISTS (SELECT 1 FROM revocation r WHERE r.issuer = c.issuer AND r.serial = c.serial)
ORDER BY c.not_after LIMIT 1000"""

BATCH = 1000
_HASH = re.compile(r"(?:SHA256:)?([0-9a-f]{64})(?:[\s,;].*)?", re.IGNORECASE)
_PEM = re.compile(rb"-----BEGIN ([A-Z ]+)-----(.*?)-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Affected:
    issuer: str
    serial: str
    names: str


def parse_list(content: bytes) -> tuple[str, ...]:
    """The keys of a file: PEM public keys and certificates, or a SHA-256 of an SPKI on each line (pwnedkeys' form; what
    follows it, empty lines and # comments do not count). Each once. Raises Rejection(MALFORMED) that names the line.
    """
    if b"-----BEGIN " in content:
        _check_all_is_pem(content)
        return tuple(dict.fromkeys(_from_pem(found[1], found[0]) for found in _PEM.finditer(content)))
    hashes: dict[str, None] = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _HASH.fullmatch(text)
        if match is None:
            raise _unreadable(f"line {number} is not the SHA-256 of a public key (64 hexadecimal digits)")
        hashes[match[1].lower()] = None
    return tuple(hashes)


async def block(
    database: Database, hashes: Sequence[str], *, reason: str, principal: str, now: Micros, new_id: Callable[[], str]
) -> int:
    """How many of them were not blocked before. Can be repeated."""
    added = 0
    for start in range(0, len(hashes), BATCH):
        some = hashes[start : start + BATCH]
        rows, _ = await database.write(
            Step(BLOCK_LIST_SQL, ("".join(some), now, len(some) - 1, reason), rows=None),
            audit.record(
                audit.Event.KEY_BLOCKED,
                record_id=new_id(),
                at=now,
                principal=principal,
                subject=f"keys:{len(some)}",
                detail={"reason": reason, "first": some[0], "last": some[-1]},
            ),
        )
        added += len(rows)
    return added


async def affected(database: Database, now: Micros) -> list[Affected]:
    """Up to a thousand valid certificates whose key is blocked, and that nobody has revoked."""
    return [Affected(row["issuer"], row["serial"], row["names"]) for row in await database.fetch(AFFECTED_SQL, now)]


def _check_all_is_pem(content: bytes) -> None:
    """Nothing that the blocks leave over may have been meant as a key."""
    rest = _PEM.sub(b"", content)
    if b"-----BEGIN" in rest or b"-----END" in rest or any(b"-----BEGIN" in found[2] for found in _PEM.finditer(content)):
        raise _unreadable("one of its PEM blocks has no beginning or no end")
    if any(_HASH.fullmatch(line.strip()) for line in rest.decode("utf-8", "replace").splitlines()):
        raise _unreadable("it has PEM blocks and hashes; bring them one after the other, in two files")


def _from_pem(label: bytes, block: bytes) -> str:
    try:
        match label:
            case b"CERTIFICATE":
                return _hash(x509.load_pem_x509_certificate(block).public_key())
            case b"PUBLIC KEY" | b"RSA PUBLIC KEY":
                return _hash(load_pem_public_key(block))
            case _:
                raise _unreadable(f"it holds a {label.decode()}; bring public keys, certificates or hashes")
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unreadable("one of its PEM blocks is damaged, or has a key of a kind that is not known") from error


def _hash(key: PublicKeyTypes) -> str:
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _unreadable(why: str) -> Rejection:
    return Rejection(Reason.MALFORMED, f"this list of keys cannot be read: {why}")
