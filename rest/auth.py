"""Which API key came with a request: `X-API-Key: cw_...`, or `Authorization: Bearer cw_...` (RFC 6750 §2.1). Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pki.reasons import Reason, Rejection


def presented_key(*, api_key: Sequence[str], authorization: Sequence[str]) -> str:
    """All values of the two headers to the one key that they carry.

    Raises Rejection: UNAUTHENTICATED when there is none, MALFORMED when there is more than one.
    """
    keys = [*api_key, *(_bearer(value) for value in authorization)]
    match keys:
        case []:
            raise Rejection(
                Reason.UNAUTHENTICATED,
                "this needs an API key",
                suggestions=["send the key that `certwright apikey create` printed in the header X-API-Key"],
            )
        case [key]:
            return key.strip()
        case _:
            raise Rejection(Reason.MALFORMED, "more than one API key came with this request; send one")


def _bearer(value: str) -> str:
    scheme, _, token = value.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise Rejection(
            Reason.UNAUTHENTICATED,
            "this takes API keys, and no other kind of credentials",
            suggestions=["send the key in the header X-API-Key, or as Authorization: Bearer"],
        )
    return token
