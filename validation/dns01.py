"""dns-01 (RFC 8555 §8.4) and dns-account-01 (draft-ietf-acme-dns-account-label-03): a TXT record holds the key authorization's hash.

Law of this file: the name that is asked about is made of the identifier, and of the account's URL, and of nothing else that a
client said.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from pki.clock import Clock
from pki.strict import base64url
from validation.challenge import Challenge
from validation.outcome import Outcome
from validation.resolver import Resolver
from validation.txtproof import DEADLINE, Judge, NotShown, Shown, attempt, base_name

PREFIX = "_acme-challenge"


async def dns01(challenge: Challenge, *, resolver: Resolver, clock: Clock, deadline: float = DEADLINE) -> Outcome:
    """One attempt. Any of the records may be the one: a name and its wildcard are proved at one place (RFC 8555 §8.4)."""
    name = f"{PREFIX}.{base_name(challenge)}"
    return await attempt("dns-01", challenge, name, _digest_of(challenge), resolver=resolver, clock=clock, deadline=deadline)


async def dns_account01(challenge: Challenge, *, resolver: Resolver, clock: Clock, deadline: float = DEADLINE) -> Outcome:
    """One attempt, as dns-01 but at a name of the account's own, so that several clients can prove one name at a time."""
    name = f"_{account_label(challenge.account_url)}.{PREFIX}.{base_name(challenge)}"
    judge = _digest_of(challenge)
    return await attempt("dns-account-01", challenge, name, judge, resolver=resolver, clock=clock, deadline=deadline)


def account_label(account_url: str) -> str:
    """16 characters: the first ten octets of SHA-256 over the account's URL, in base32."""
    return base64.b32encode(hashlib.sha256(account_url.encode("ascii")).digest()[:10]).decode("ascii").lower()


def _digest_of(challenge: Challenge) -> Judge:
    expected = base64url(hashlib.sha256(challenge.key_authorization.encode("ascii")).digest()).encode("ascii")

    def judge(values: Sequence[bytes]) -> Shown | NotShown:
        if expected in values:
            return Shown()
        return NotShown(
            "none is the expected value (the hash of this challenge's key authorization). If the client has added it, name "
            "servers or caches may still have the old records: wait longer before asking for validation"
        )

    return judge
