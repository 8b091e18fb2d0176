"""PKIResponses (RFC 5272 §4): what a report becomes on the wire, and which HTTP status goes with it (RFC 7030 §4.3.2). Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from est.cmc import controls
from est.cmc.asked import Asked
from est.cmc.failinfo import HTTP
from est.cmc.messages import CmcRefusal, Control, FailInfo, PkiData, PkiResponse, Status
from est.cmc.processing import Report
from est.cmc.values import DataReturn, GetCert, GetCrl, RecipientNonce, SenderNonce, TransactionId, Value


@dataclass(frozen=True, slots=True)
class Echo:
    """What every response to a message gives back, also one that refuses it (§6.4, §6.6)."""

    transaction: TransactionId | None = None
    sender_nonce: SenderNonce | None = None
    data_return: tuple[DataReturn, ...] = ()

    @property
    def context(self) -> str:
        """The transaction that a nonce of ours is made for."""
        return "" if self.transaction is None else str(self.transaction.number)


def echo_of(data: PkiData) -> Echo:
    """As much of it as can be read; of what is there twice, the first."""
    said: list[Value] = []
    for control in data.controls:
        with contextlib.suppress(CmcRefusal):
            value = controls.read(control)
            if isinstance(value, TransactionId | SenderNonce | DataReturn):
                said.append(value)
    return Echo(
        transaction=next((value for value in said if isinstance(value, TransactionId)), None),
        sender_nonce=next((value for value in said if isinstance(value, SenderNonce)), None),
        data_return=tuple(value for value in said if isinstance(value, DataReturn)),
    )


def is_simple(asked: Asked, report: Report) -> bool:
    """§3.2: a Simple PKI Response "if the enrollment was successful and only certificates are returned"; §6.9 and §6.10 say the
    same of those that exist. §6.11 and §6.14 want a full one.
    """
    only_fetches = all(isinstance(action, GetCert | GetCrl) for _, action in asked.actions)
    has_some = bool(report.certificates or report.crls)
    return report.all_done and has_some and only_fetches and not asked.wants_answer


def response(report: Report, echo: Echo, *, nonce: bytes) -> PkiResponse:
    """`nonce` is ours, for a message that has one (§6.6)."""
    return PkiResponse(controls=_numbered(_values(report, echo, nonce)))


def _values(report: Report, echo: Echo, nonce: bytes) -> Iterable[Value]:
    yield from report.statuses
    if echo.transaction is not None:
        yield echo.transaction
    if echo.sender_nonce is not None:
        yield SenderNonce(nonce)
        yield RecipientNonce(echo.sender_nonce.octets)
    yield from echo.data_return
    yield from report.challenges


def _numbered(values: Iterable[Value]) -> tuple[Control, ...]:
    return tuple(controls.write(number, value) for number, value in enumerate(values, start=1))


def http_status(report: Report) -> int:
    """202 for what only waits; an error for what is refused, if nothing else came of it. A challenge refuses nothing."""
    found = {each.status for each in report.statuses}
    if found & {Status.SUCCESS, Status.POP_REQUIRED}:
        return 200
    if found & {Status.PENDING, Status.PARTIAL}:
        return 202
    fail_info = next((each.fail_info for each in report.statuses if each.fail_info is not None), FailInfo.BAD_REQUEST)
    return report.http or HTTP[fail_info]
