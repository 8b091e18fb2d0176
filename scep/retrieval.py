"""GetCert and GetCRL (RFC 8894 §3.3.4, §3.3.5): what an endpoint's own clients may read of its CA.

Law of this file: who asks has a certificate of the endpoint, but what they send may be somebody else's message. So everything that
can be wrong with what was asked is one badCertId with one text, and what is given is public, or any client's to see.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from pki.clock import Clock, Micros
from pki.cms.errors import CmsError
from pki.cms.fields import Fields, only, read_integer
from pki.cms.signed import certificates_only
from pki.der import INTEGER, SEQUENCE
from scep.endpoint import ScepEndpoint
from scep.failinfo import FailInfo, Refusal
from scep.holders import Holder, Register

# What was decrypted (None where it cannot be read), who asks, where -> a certs-only message, DER.
Finder = Callable[[bytes | None, Holder, ScepEndpoint], Awaitable[bytes]]

NOTHING = "there is nothing here by the issuer and serial number that were asked for"
MAX_SERIAL = 20  # octets (RFC 5280 §4.1.2.2), and one for the sign


class Crls(Protocol):
    """What has been published: of `issuance.crl.PublishedCrls`."""

    async def find(self, issuer: str, *, at: Micros) -> bytes | None: ...


class Retrieval:
    """Of all endpoints."""

    def __init__(self, *, register: Register, crls: Crls, clock: Clock) -> None:
        self._register = register
        self._crls = crls
        self._clock = clock

    async def certificate(self, plaintext: bytes | None, _holder: Holder, endpoint: ScepEndpoint) -> bytes:
        """One that this endpoint issued, to whomever; revoked and expired ones, too. Raises Refusal(BAD_CERT_ID), Unavailable."""
        issuer, serial = _issuer_and_serial(plaintext)
        for name in sorted(self._register.claimed_issuers(name=issuer, key_identifier=None)):
            record = await self._register.certificate(f"{serial:x}", issuer=name)
            if record is not None and Holder(record).is_of(endpoint):
                return certificates_only([record.certificate.der])
        raise _nothing()

    async def crl(self, plaintext: bytes | None, holder: Holder, endpoint: ScepEndpoint) -> bytes:
        """The newest of the CA that is named; CRLs are whole here, so the serial number does not matter. Of several CAs of one name
        first the asker's own. Raises Refusal(BAD_CERT_ID), Unavailable.
        """
        issuer, _serial = _issuer_and_serial(plaintext)
        first = (holder.record.certificate.issuer, endpoint.issuer)
        known = self._register.claimed_issuers(name=issuer, key_identifier=None)
        for name in (*(name for name in first if name in known), *sorted(known.difference(first))):
            found = await self._crls.find(name, at=self._clock.micros())
            if found is not None:
                return certificates_only([], crls=[found])
        raise _nothing()


def _issuer_and_serial(plaintext: bytes | None) -> tuple[bytes, int]:
    """IssuerAndSerialNumber (RFC 5652 §10.2.4): the Name as DER, for names are compared octet by octet."""
    try:
        inside = Fields(only(plaintext or b"", SEQUENCE, "IssuerAndSerialNumber").content, "IssuerAndSerialNumber")
        issuer = inside.take(SEQUENCE).raw
        serial = inside.take(INTEGER).content
        inside.end()
    except CmsError:
        raise _nothing() from None
    if len(serial) > MAX_SERIAL + 1:
        raise _nothing()
    return issuer, read_integer(serial)


def _nothing() -> Refusal:
    return Refusal(FailInfo.BAD_CERT_ID, NOTHING)
