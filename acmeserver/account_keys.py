"""Which keys may be an account's: not the weak ones, and none that is known to be compromised."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from acmeserver.jwk import Jwk
from acmeserver.problems import Problem, ProblemType
from issuance.ledger import BLOCKED_KEY_SQL, KEY_NOT_BLOCKED_SQL
from pki.reasons import Rejection
from policy.keys import check_public_key
from storage.database import Database, Step


def check_key(jwk: Jwk) -> None:
    """An account's key meets the rules of a certificate's (ROCA, close primes, small factors). Raises Problem."""
    try:
        check_public_key(jwk.key)
    except Rejection as rejection:
        raise Problem(ProblemType.BAD_PUBLIC_KEY, rejection.detail) from rejection


def not_blocked(jwk: Jwk) -> Step:
    """Guard of the write that makes the key an account's: a key that is known to be compromised stays out, also at this moment."""
    return Step(KEY_NOT_BLOCKED_SQL, (spki_sha256(jwk),), rows=0)


async def is_blocked(database: Database, jwk: Jwk) -> bool:
    return await database.fetch_one(BLOCKED_KEY_SQL, spki_sha256(jwk)) is not None


def blocked() -> Problem:
    return Problem(ProblemType.BAD_PUBLIC_KEY, "this key is known to be compromised; make another")


def spki_sha256(jwk: Jwk) -> str:
    return hashlib.sha256(jwk.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
