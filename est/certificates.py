"""Callers by client certificate: whose it is, and what it opens at this label (RFC 7030 §3.3.2, §3.7).

Law of this file: that TLS took a certificate means that its key is there, and nothing else. One that says that it is from a CA of
ours is what the ledger has, octet by octet and not revoked, or it is nothing; one of others leads to the label's own anchors, or
it is nothing. What it then is to the label (`CertificateRole`) says what it opens:

    role       which                                                   simpleenroll            simplereenroll
    PREVIOUS   issued here: by EST, at this label                      where `enroll` is set   itself, within the grace
    DEVICE     below client_certificates.anchors                       yes                     never
    AGENT      below agents.anchors, and with id-kp-cmcRA              for others              for others
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol, assert_never

from cryptography import x509

from est.caller import Caller
from est.connection import Connection
from est.endpoint import EstEndpoint
from est.exchange import Exchange
from issuance.request import CertificateRole, Channel, HeldCertificate
from issuance.service import CertificateRecord
from pki.clock import Clock, to_datetime
from pki.path import Anchors, PathError, Purpose, check_dates, check_leaf, load, names_agent
from pki.reasons import Reason, Rejection
from policy.principal import Principal, PrincipalKind


class Register(Protocol):
    """What is known of our own certificates: of `issuance.service.Issuance`."""

    def claimed_issuers(self, *, name: bytes, key_identifier: bytes | None) -> frozenset[str]: ...

    async def certificate(
        self, serial: str, *, issuer: str | None = None, principal: str | None = None
    ) -> CertificateRecord | None: ...


@dataclass(frozen=True, slots=True)
class _Trust:
    """A label's anchors, read once; None where there are none."""

    devices: Anchors | None
    agents: Anchors | None


class CertificateChecks:
    """`endpoints` are all labels; anchors that cannot be read raise PathError here and now."""

    def __init__(self, *, register: Register, endpoints: Iterable[EstEndpoint], clock: Clock) -> None:
        self._register = register
        self._clock = clock
        self._trust = {endpoint.label: _trust(endpoint) for endpoint in endpoints}

    async def enroller(self, exchange: Exchange) -> Caller:
        """Raises Rejection(FORBIDDEN)."""
        endpoint = exchange.endpoint
        caller = await self.holder(endpoint, exchange.connection, source_address=exchange.source_address)
        match _role(caller):
            case CertificateRole.AGENT | CertificateRole.DEVICE:
                return caller
            case CertificateRole.PREVIOUS if endpoint.client_certificates.enroll:
                return replace(caller, profile="")  # whatever it was made by: what is enrolled is the label's
            case CertificateRole.PREVIOUS:
                raise _refused(
                    "certificates that this endpoint issued enrol nothing here",
                    "renew it at simplereenroll, or send credentials",
                )
            case other:
                assert_never(other)

    async def renewer(self, exchange: Exchange) -> Caller:
        """Raises Rejection(FORBIDDEN)."""
        endpoint = exchange.endpoint
        grace = endpoint.client_certificates.grace
        caller = await self.holder(endpoint, exchange.connection, source_address=exchange.source_address, grace=grace)
        match _role(caller):
            case CertificateRole.AGENT | CertificateRole.PREVIOUS:
                return caller
            case CertificateRole.DEVICE:
                raise _refused("it was not issued by this endpoint, so there is nothing to renew", "enrol at simpleenroll")
            case other:
                assert_never(other)

    async def holder(
        self, endpoint: EstEndpoint, connection: Connection, *, source_address: str, grace: timedelta = timedelta(0)
    ) -> Caller:
        """Who holds the certificate of this connection, as this label sees it; what it opens is the caller's to say.

        `profile` is that of a PREVIOUS certificate, which its renewal gets again. `grace` is how long after its end such a
        certificate is taken; all others are taken until their end. Raises Rejection(FORBIDDEN).
        """
        at = to_datetime(self._clock.micros())
        if not connection.chain:
            raise _refused("there is none", "present one")
        der = connection.chain[0]
        try:
            leaf = load(der)
            record = await self._own(leaf, der)
            role = self._find_role(endpoint, connection, leaf, record, at=at, grace=grace)
        except PathError as error:
            raise _refused(
                str(error), "present a certificate that this endpoint issued, or one of a CA that it trusts"
            ) from error
        serial, sha256 = f"{leaf.serial_number:x}", hashlib.sha256(der).hexdigest()
        held = HeldCertificate(role, "" if record is None else record.certificate.issuer, serial, sha256)
        return Caller(
            principal=Principal(
                PrincipalKind.TLS_CLIENT, held.credential_id, _roles(endpoint, role), source_address=source_address
            ),
            evidence=held,
            profile=record.certificate.profile if record is not None and role is CertificateRole.PREVIOUS else "",
            certificate=der,
        )

    async def _own(self, leaf: x509.Certificate, der: bytes) -> CertificateRecord | None:
        """What the ledger knows; None for a foreign certificate, which one of a CA that has left the configuration is by now. Raises
        PathError for one that only looks like ours, and for a revoked one.
        """
        issuers = self._register.claimed_issuers(name=leaf.issuer.public_bytes(), key_identifier=_key_identifier(leaf))
        asked: Sequence[str | None] = sorted(issuers) or [None]
        for issuer in asked:
            record = await self._register.certificate(f"{leaf.serial_number:x}", issuer=issuer)
            if record is not None and record.certificate.der == der:
                if record.revoked_at is not None:
                    raise PathError("it is revoked")
                return record if issuers else None
        if issuers:
            raise PathError("it names a CA of this server as its issuer, which did not issue it")
        return None

    def _find_role(
        self,
        endpoint: EstEndpoint,
        connection: Connection,
        leaf: x509.Certificate,
        record: CertificateRecord | None,
        *,
        at: datetime,
        grace: timedelta,
    ) -> CertificateRole:
        """The first that fits, an agent's before all. Raises PathError."""
        trust, no_agent = self._trust[endpoint.label], None
        if trust.agents is not None and names_agent(leaf):
            try:
                trust.agents.verify(connection.chain, at=at)
            except PathError as error:
                no_agent = error
            else:
                return CertificateRole.AGENT
        if record is not None and record.channel == Channel.EST.value and record.endpoint == endpoint.label:
            check_leaf(leaf, Purpose.CLIENT)
            # A grace moves the end and nothing else.
            in_grace = leaf.not_valid_after_utc < at and at - grace <= leaf.not_valid_after_utc
            check_dates(leaf, at=leaf.not_valid_after_utc if in_grace else at)
            return CertificateRole.PREVIOUS
        if trust.devices is not None:
            trust.devices.verify(connection.chain, at=at)
            return CertificateRole.DEVICE
        if no_agent is not None:
            raise no_agent
        raise PathError(
            "it was not issued by this endpoint" if record is not None else "no CA that is trusted here certified it"
        )


def _trust(endpoint: EstEndpoint) -> _Trust:
    devices = endpoint.client_certificates.anchors
    return _Trust(
        devices=Anchors(devices, Purpose.CLIENT) if devices else None,
        agents=None if endpoint.agents is None else Anchors(endpoint.agents.anchors, Purpose.AGENT),
    )


def _key_identifier(leaf: x509.Certificate) -> bytes | None:
    try:
        return leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return None


def _roles(endpoint: EstEndpoint, role: CertificateRole) -> frozenset[str]:
    if role is CertificateRole.AGENT and endpoint.agents is not None:
        return endpoint.agents.roles
    return endpoint.client_certificates.roles


def _role(caller: Caller) -> CertificateRole:
    assert caller.held is not None
    return caller.held.role


def _refused(why: str, *suggestions: str) -> Rejection:
    return Rejection(Reason.FORBIDDEN, f"this client certificate opens nothing here: {why}", suggestions=suggestions)
