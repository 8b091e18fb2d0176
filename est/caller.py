"""Who a request comes from, once that is certain. Only what authenticates makes one; nothing is enrolled without."""

from __future__ import annotations

from dataclasses import dataclass, field

from issuance.request import CertificateRole, Evidence, HeldCertificate
from policy.principal import Principal


@dataclass(frozen=True, slots=True)
class Caller:
    """`profile` is what they get; "" for the label's. `certificate` (DER) is the one that proved it, if one did."""

    principal: Principal
    evidence: Evidence
    profile: str = ""
    certificate: bytes | None = field(default=None, repr=False)

    @property
    def held(self) -> HeldCertificate | None:
        return self.evidence if isinstance(self.evidence, HeldCertificate) else None

    @property
    def role(self) -> CertificateRole | None:
        """What that certificate is to the label; None for who came by something else."""
        return None if self.held is None else self.held.role
