"""How many certificates one caller, or one address, gets at a label. Pure: the pipeline takes the charges with its first write."""

from __future__ import annotations

import hashlib

from est.caller import Caller
from est.endpoint import EstEndpoint
from est.renewal import identity
from issuance.buckets import Bucket, Charge
from issuance.request import CertificateRole
from policy.limits import address_key


def charges(endpoint: EstEndpoint, caller: Caller) -> tuple[Charge, ...]:
    """A renewal counts as an enrolment. An agent is one caller, whoever it speaks for."""
    limits, address = endpoint.limits, address_key(caller.principal.source_address)
    wanted = (
        (limits.enrollments_per_caller, "caller", _name(caller), "enrolments of this caller"),
        (limits.enrollments_per_address, "address", address, f"enrolments from {address}"),
    )
    return tuple(
        Charge(Bucket(f"enrolled/{kind}/{endpoint.label}", name), limit, what)
        for limit, kind, name, what in wanted
        if limit is not None
    )


def _name(caller: Caller) -> str:
    """Who renews a certificate is another principal with the next one, and the same caller: what has the same subject and names."""
    if caller.certificate is None or caller.role is not CertificateRole.PREVIOUS:
        return str(caller.principal)
    found = identity(caller.certificate)
    names = found.subject + (found.alternative_names or b"")  # DER: where one ends is in it
    return f"names:{hashlib.sha256(names).hexdigest()}"
