"""What a validation has to prove, and for whom. A frozen value that a remote perspective can be sent as it is."""

from __future__ import annotations

from dataclasses import dataclass, field

from pki.identifiers import Identifier


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of one authorization.

    `response` is what the client's answer held (RFC 8555 §7.5.1), as parsed JSON text members; most methods have none.
    """

    identifier: Identifier  # as authorized, without its wildcard label
    wildcard: bool  # the authorization is for `*.identifier`
    token: str
    thumbprint: str  # of the account's key (RFC 7638)
    account_url: str
    subdomains: bool = False  # the authorization is for the names below, too (RFC 9444)
    issuer_domains: tuple[str, ...] = ()  # of the endpoint, lower case: the names that CAA and dns-persist-01 know this CA by
    hash_prefix: str = ""  # of the endpoint (draft-ietf-acme-dns-persist-02 §4.1)
    response: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def key_authorization(self) -> str:
        """RFC 8555 §8.1."""
        return f"{self.token}.{self.thumbprint}"
