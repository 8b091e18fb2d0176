"""How many certificates one caller, or one address, gets at a label. Pure: the pipeline takes the charges with its first write."""

from __future__ import annotations

import hashlib

from est.caller import Caller
from est.endpoint import EstEndpoint
from est.renewal import identity
from issuance.buckets import Charge, enrolment_charges
from issuance.request import CertificateRole


def charges(endpoint: EstEndpoint, caller: Caller) -> tuple[Charge, ...]:
    """An agent is one caller, whoever it speaks for."""
    limits = endpoint.limits
    return enrolment_charges(
        "enrolled",
        endpoint.label,
        caller=_name(caller),
        per_caller=limits.enrollments_per_caller,
        source_address=caller.principal.source_address,
        per_address=limits.enrollments_per_address,
    )


def _name(caller: Caller) -> str:
    """Who renews a certificate is another principal with the next one, and the same caller: what has the same subject and names."""
    if caller.certificate is None or caller.role is not CertificateRole.PREVIOUS:
        return str(caller.principal)
    found = identity(caller.certificate)
    names = found.subject + (found.alternative_names or b"")  # DER: where one ends is in it
    return f"names:{hashlib.sha256(names).hexdigest()}"
