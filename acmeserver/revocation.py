"""revokeCert (RFC 8555 §7.6): who may revoke which certificate. Everything else is the issuance floor's."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from acmeserver import store
from acmeserver.authentication import Acting, check_valid
from acmeserver.endpoint import AcmeEndpoint
from acmeserver.jwk import Jwk
from acmeserver.messages import RevokeCert
from acmeserver.ports import IssuanceDoor
from acmeserver.problems import Problem, ProblemType, malformed, not_found, unauthorized
from acmeserver.star_orders import IS_STAR_SQL
from acmeserver.states import AccountStatus
from issuance.service import CertificateRecord
from pki.clock import Clock
from pki.reasons import SUBSCRIBER_REASONS, RevocationReason
from policy.principal import Principal, PrincipalKind
from storage.database import Database


class Revocation:
    def __init__(self, *, endpoint: AcmeEndpoint, database: Database, clock: Clock, issuance: IssuanceDoor) -> None:
        self._endpoint = endpoint
        self._database = database
        self._clock = clock
        self._issuance = issuance

    async def by_account(self, acting: Acting, wanted: RevokeCert) -> None:
        """The account that it was issued to, or one that controls all its names. Raises Problem, Rejection."""
        row = await self._database.fetch_one(store.ACCOUNT_SQL, acting.account_id, self._endpoint.name)
        if row is None or row["thumbprint"] != acting.jwk.thumbprint:
            raise unauthorized("this key is not, or no longer, the account's")
        check_valid(AccountStatus(row["status"]))
        record, _ = await self._find(wanted)
        principal = self._principal(acting.account_id, acting.source_address)
        if record.principal != str(principal):
            if not await self._controls_all(acting.account_id, record.names):
                raise unauthorized(
                    "the certificate is another's, and this account has no valid authorizations for all its names"
                )
            _check_names_only(wanted)
        await self._revoke(record, wanted, principal)

    async def by_key(self, jwk: Jwk, wanted: RevokeCert, *, source_address: str) -> None:
        """Whoever has the certificate's private key. Raises Problem, Rejection."""
        record, certificate = await self._find(wanted)
        if certificate.public_key() != jwk.key:
            raise unauthorized("the request is signed neither by an account nor by the certificate's own key")
        await self._revoke(record, wanted, self._principal(f"key:{jwk.thumbprint}", source_address))

    async def _find(self, wanted: RevokeCert) -> tuple[CertificateRecord, x509.Certificate]:
        try:
            certificate = x509.load_der_x509_certificate(wanted.certificate)
            serial = format(certificate.serial_number, "x")
            certificate.public_key()  # fails late on odd keys
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
            raise malformed("certificate is no DER X.509 certificate") from error
        record = await self._issuance.certificate(serial)
        if record is None or record.certificate.der != wanted.certificate:
            raise not_found("certificate")
        return record, certificate

    async def _controls_all(self, account_id: str, names: tuple[str, ...]) -> bool:
        """Whether the account has a valid authorization for every one of "dns:example.com", "dns:*.example.com", "ip:..."."""
        now = self._clock.micros()
        for tag in names:
            kind, _, text = tag.partition(":")
            wildcard = text.startswith("*.")
            args = (account_id, text.removeprefix("*."), kind, int(wildcard), now)
            if await self._database.fetch_one(store.CONTROLS_SQL, *args) is None:
                return False
        return bool(names)

    async def _revoke(self, record: CertificateRecord, wanted: RevokeCert, principal: Principal) -> None:
        """Whoever comes here may revoke it, and may therefore be told what state it is in."""
        certificate = record.certificate
        if await self._database.fetch_one(IS_STAR_SQL, certificate.issuer, certificate.serial) is not None:
            raise Problem(
                ProblemType.AUTO_RENEWAL_REVOCATION_NOT_SUPPORTED,
                "certificates of an order with auto-renewal are not revoked; cancel the order (RFC 8739 §3.1.2)",
            )
        reason = _reason(wanted.reason)
        await self._issuance.revoke(issuer=certificate.issuer, serial=certificate.serial, reason=reason, principal=principal)

    def _principal(self, principal_id: str, source_address: str) -> Principal:
        return Principal(PrincipalKind.ACME_ACCOUNT, principal_id, self._endpoint.roles, source_address=source_address)


def _check_names_only(wanted: RevokeCert) -> None:
    """A compromised key is blocked for good, so its holder has to say so: control of the names says nothing about the key."""
    if wanted.reason == RevocationReason.KEY_COMPROMISE:
        raise Problem(
            ProblemType.BAD_REVOCATION_REASON,
            "only the account that the certificate was issued to, or a request signed by its key, may give keyCompromise (1); "
            "an account that controls the names gives cessationOfOperation (5)",
        )


def _reason(code: int) -> RevocationReason:
    known = {reason.value: reason for reason in SUBSCRIBER_REASONS}
    if code not in known:
        allowed = ", ".join(str(value) for value in sorted(known))
        raise Problem(ProblemType.BAD_REVOCATION_REASON, f"a subscriber may give one of the reasons {allowed}")
    return known[code]
