"""Certificates as they are fetched (RFC 8555 §7.4.2): the account's own, leaf first, by one of the chains that lead up from it."""

from __future__ import annotations

from dataclasses import dataclass

from acmeserver import store
from acmeserver.authentication import Acting, check_account
from acmeserver.endpoint import AcmeEndpoint
from acmeserver.ports import IssuanceDoor
from acmeserver.problems import not_found
from acmeserver.urls import Urls
from storage.database import Database


@dataclass(frozen=True, slots=True)
class Chain:
    """`alternates` are the URLs of the other chains, in the order of the configuration."""

    pem: str
    alternates: tuple[str, ...]


class Certificates:
    def __init__(self, *, endpoint: AcmeEndpoint, urls: Urls, database: Database, issuance: IssuanceDoor) -> None:
        self._endpoint = endpoint
        self._urls = urls
        self._database = database
        self._issuance = issuance

    async def read(self, acting: Acting, serial: str, chain: int = 0) -> Chain:
        """Of a certificate that came of one of the account's own orders; 0 is the default chain. Raises Problem."""
        args = (acting.account_id, self._endpoint.name, serial)
        row = check_account(await self._database.fetch_one(store.CERTIFICATE_SQL, *args), acting)
        if row["serial"] is None:
            raise not_found("certificate")
        others = self._issuance.alternates(row["issuer"])
        text = (
            await self._issuance.chain(issuer=row["issuer"], serial=row["serial"], alternate=chain) if chain <= others else None
        )
        if text is None:
            raise not_found("certificate")
        return Chain(text, tuple(self._url(serial, each) for each in range(others + 1) if each != chain))

    def _url(self, serial: str, chain: int) -> str:
        """Number 0 has no number: it is the URL that the order shows."""
        return self._urls.certificate(serial) if chain == 0 else self._urls.alternate(serial, chain)
