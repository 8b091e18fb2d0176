"""What an account did, for the audit: rides in the write of the fact."""

from __future__ import annotations

from collections.abc import Mapping

from acmeserver.authentication import Acting
from issuance import audit
from pki.clock import Micros
from policy.principal import PrincipalKind
from storage.database import Step


def account_event(event: audit.Event, acting: Acting, detail: Mapping[str, object], *, record_id: str, at: Micros) -> Step:
    who = f"{PrincipalKind.ACME_ACCOUNT.value}:{acting.account_id}"
    detail = {**detail, "source": acting.source_address}
    return audit.record(event, record_id=record_id, at=at, principal=who, subject=who, detail=detail)
