"""Challenges as tests set them."""

from __future__ import annotations

from pki.identifiers import Identifier
from validation.challenge import Challenge

ACCOUNT_URL = "https://ca.test/acme/default/account/one"


def challenge(
    identifier: Identifier,
    key_authorization: str,
    *,
    wildcard: bool = False,
    account_url: str = ACCOUNT_URL,
    response: tuple[tuple[str, str], ...] = (),
) -> Challenge:
    """The challenge that `key_authorization` ("token.thumbprint") is the answer to."""
    token, _, thumbprint = key_authorization.partition(".")
    return Challenge(identifier, wildcard, token, thumbprint, account_url, response=response)
