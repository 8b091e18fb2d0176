"""What credentials are called: the rules for names of users and endpoints, wherever their secrets are stored. Pure."""

from __future__ import annotations

import re
import unicodedata

from pki.reasons import Reason, Rejection

CREDENTIAL_NAME = re.compile(r"[^\x00-\x1f\x7f:\ud800-\udfff]{1,128}")  # RFC 7617 §2: no control characters, no colon
ENDPOINT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LONGEST = 1024  # characters that are normalised: sorting combining marks takes quadratic time


def prepared(text: str) -> str:
    """One spelling for what looks the same on different keyboards (RFC 8265 §3.4.2 and §4.2.2: NFC).

    What is longer than any name or password stays as it is: it is nobody's.
    """
    return unicodedata.normalize("NFC", text) if len(text) <= _LONGEST else text


def check_endpoint(endpoint: str) -> None:
    """Raises Rejection(MALFORMED)."""
    if not ENDPOINT.fullmatch(endpoint):
        raise Rejection(Reason.MALFORMED, "an endpoint's name has letters, digits, '.', '_' and '-', 64 at most")
