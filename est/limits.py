"""How many certificates one caller, or one address, gets at a label. Pure: the pipeline takes the charges with its first write."""

from __future__ import annotations

from est.endpoint import EstEndpoint
from issuance.buckets import Bucket, Charge
from policy.limits import address_key
from policy.principal import Principal


def charges(endpoint: EstEndpoint, principal: Principal) -> tuple[Charge, ...]:
    """A renewal counts as an enrolment. An agent is one caller, whoever it speaks for."""
    limits, address = endpoint.limits, address_key(principal.source_address)
    wanted = (
        (limits.enrollments_per_caller, "caller", str(principal), "enrolments of this caller"),
        (limits.enrollments_per_address, "address", address, f"enrolments from {address}"),
    )
    return tuple(
        Charge(Bucket(f"enrolled/{kind}/{endpoint.label}", name), limit, what)
        for limit, kind, name, what in wanted
        if limit is not None
    )
