"""ACME from a web page of another origin (WHATWG Fetch, the CORS protocol): what an endpoint tells browsers. Pure.

Law of this file: nothing is said unless the endpoint lists the origin, and credentials are never allowed. ACME needs none: a
request is good by its signature, so a page of any origin can do no more than a program could.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

ANY = "*"
EXPOSED = "Link, Replay-Nonce, Location, Retry-After"  # what a client reads; a browser hides all but a few headers
PREFLIGHT_AGE = 7200  # seconds; what browsers take at most
_NONE: Mapping[str, str] = {}


def allowed(listed: Sequence[str], origin: str | None) -> Mapping[str, str]:
    """The headers of any answer to a request that came from `origin`."""
    if not listed:
        return _NONE
    if ANY in listed:
        return {"Access-Control-Allow-Origin": ANY, "Access-Control-Expose-Headers": EXPOSED}
    if origin is None or origin not in listed:
        return {"Vary": "Origin"}  # a cache must not show this answer to a page that is listed
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": EXPOSED, "Vary": "Origin"}


def preflight(listed: Sequence[str], origin: str | None, methods: str) -> Mapping[str, str] | None:
    """The further headers of the answer to a browser that asks beforehand; None when its page may not ask at all.

    `application/jose+json` is no type that a page may send unasked, so every POST of ACME is preceded by this.
    """
    if origin is None or "Access-Control-Allow-Origin" not in allowed(listed, origin):
        return None
    return {
        "Access-Control-Allow-Methods": methods,
        "Access-Control-Allow-Headers": "Content-Type",
        "Access-Control-Max-Age": str(PREFLIGHT_AGE),
    }
