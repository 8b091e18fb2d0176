"""The one request that every front end makes, and the three answers it can get."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from issuance.buckets import Charge
from pki.clock import Micros
from pki.csr import Csr
from pki.identifiers import Identifier
from pki.reasons import Rejection
from policy.principal import Principal
from storage.database import Step


class Channel(enum.Enum):
    """Which front end asked."""

    ACME = "acme"
    EST = "est"
    SCEP = "scep"
    REST = "rest"


@dataclass(frozen=True, slots=True)
class ChallengeEvidence:
    """An ACME challenge proved control of one identifier (without its wildcard label)."""

    identifier: Identifier
    method: str  # "http-01", ...
    authorization_id: str
    validated_at: Micros
    wildcard: bool = False  # the authorization was for `*.identifier`, and the method knew it
    subdomains: bool = False  # it was asked for, and counts, for the names below as well (RFC 9444)
    perspectives: int = 0  # remote perspectives that saw the same


@dataclass(frozen=True, slots=True)
class PolicyOwnership:
    """An external account key owns the name, so nobody was made to prove it (RFC 8555 §7.3.4 binds the account to the key).

    A claim only: that the key still counts, is still this account's and still owns the name is looked up at step 3.
    """

    credential_id: str  # the external account key's id
    identifier: Identifier  # with its wildcard label: owning a name is not owning all names below
    authorization_id: str


@dataclass(frozen=True, slots=True)
class BasicPassword:
    """An EST user gave the right password over TLS; what names it owns is policy's business."""

    credential_id: str


@dataclass(frozen=True, slots=True)
class DigestPassword:
    """An EST user answered a Digest challenge (RFC 7616) over TLS."""

    credential_id: str


@dataclass(frozen=True, slots=True)
class BearerToken:
    """An EST client gave a token of one label."""

    credential_id: str


@dataclass(frozen=True, slots=True)
class SharedSecret:
    """A CMC client proved that it knows the secret that goes with its identification (RFC 5272 §6.2, identityProofV2)."""

    credential_id: str


class CertificateRole(enum.Enum):
    """What a client's certificate is to us. Closed."""

    PREVIOUS = "previous"  # issued by this label, and the requester's own
    DEVICE = "device"  # a manufacturer's (IDevID)
    AGENT = "agent"  # a registration authority's, id-kp-cmcRA


@dataclass(frozen=True, slots=True)
class HeldCertificate:
    """They hold the key of a certificate that is trusted where they came, by TLS or by a CMS signature.

    Of our own, `issuer` names the CA: that it is not revoked is looked at once more in the transaction of step 8.
    """

    role: CertificateRole
    issuer: str  # "" for a foreign certificate
    serial: str  # lower-case hex
    sha256: str  # hex, of the DER

    @property
    def credential_id(self) -> str:
        return f"{self.issuer}/{self.serial}" if self.issuer else f"sha256:{self.sha256}"


@dataclass(frozen=True, slots=True)
class ScepChallenge:
    """A SCEP client gave the endpoint's challenge password."""

    credential_id: str


@dataclass(frozen=True, slots=True)
class OneTimeChallenge:
    """A SCEP client gave a challenge that was made for one request."""

    credential_id: str


@dataclass(frozen=True, slots=True)
class DelegatedChallenge:
    """Somebody else's server, named in the configuration, said yes to a SCEP client's challenge and request."""

    credential_id: str  # which service, for which endpoint


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A program gave an API key."""

    credential_id: str


# A closed union: there is no way to call the pipeline without one of these.
Evidence = (
    ChallengeEvidence
    | PolicyOwnership
    | BasicPassword
    | DigestPassword
    | BearerToken
    | SharedSecret
    | HeldCertificate
    | ScepChallenge
    | OneTimeChallenge
    | DelegatedChallenge
    | ApiKey
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Who waits for the outcome, so that it can be settled in the same transaction, by a sweeper if need be."""

    kind: str  # "acme-order"
    id: str
    key: str = ""  # by which it was asked: nothing is begun when the asker has another by then; "" where no key decides


@dataclass(frozen=True, slots=True)
class IssuanceRequest:
    """Everything that one issuance depends on. `csr` gives the public key and nothing else."""

    channel: Channel
    endpoint: str
    principal: Principal
    evidence: tuple[Evidence, ...]
    profile: str
    csr: Csr
    identifiers: tuple[Identifier, ...]  # wanted, in the order wanted, without repetition
    profile_version: str | None = None  # pinned earlier (an ACME order); None takes today's
    common_name: str | None = None  # wanted; only a profile with `common_name: device` heeds it
    not_before: Micros | None = None  # wanted
    not_after: Micros | None = None  # wanted
    idempotency_key: str | None = None  # unique per caller; the same key and request give the same certificate
    origin: Origin | None = None
    caa: bool = False  # the endpoint wants CAA checked, whether or not the profile does
    require_approval: bool = False  # the endpoint wants one, whatever policy says
    heeds_denial: bool = False  # an earlier one's, where nobody has to agree any more: it rests on what was asked then
    asked_with: Csr | None = None  # the client's own request, where `csr` is ours because the server makes the key
    account_url: str = ""  # of an ACME account: what CAA's accounturi has to name (RFC 8657 §3)
    charges: tuple[Charge, ...] = ()  # what the endpoint admits, taken with the intent: all of it, or no certificate

    def __post_init__(self) -> None:
        if not self.evidence:
            message = "an issuance request without evidence"
            raise ValueError(message)


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate as stored. `chain_pem` is the leaf and its issuers without the root, leaf first."""

    issuer: str
    serial: str  # lower-case hex
    der: bytes = field(repr=False)
    profile: str
    not_before: Micros
    not_after: Micros
    issued_at: Micros


@dataclass(frozen=True, slots=True)
class Approval:
    """Somebody agreed to this request, and it has not been used. Becomes part of the certificate's evidence."""

    id: str  # of the approval request
    digest: str  # hex; what was agreed to: issuance.approvals.approval_digest
    by: str
    at: Micros


@dataclass(frozen=True, slots=True)
class Issued:
    certificate: IssuedCertificate


@dataclass(frozen=True, slots=True)
class Pending:
    """Not yet: ask again after so many seconds. `id` is what it waits for: an approval, or the same request that is being signed
    right now.
    """

    id: str
    retry_after: int


@dataclass(frozen=True, slots=True)
class Rejected:
    rejection: Rejection


Outcome = Issued | Pending | Rejected


class Settler(Protocol):
    """A front end's share in the pipeline's transactions, for the origins of one kind. Pure: it only makes steps.

    The steps ride in the same `Database.write` as the ledger's own, so they must not touch each other's rows. A step whose
    compare-and-set fails undoes the whole write: `began` is where an order goes ready -> processing, exactly once.
    """

    def began(self, origin_id: str, *, now: Micros, key: str = "") -> Sequence[Step]:
        """`key` is the origin's: while CAA was asked for, its owner may have taken it out of use."""

    def issued(self, origin_id: str, certificate: IssuedCertificate, *, now: Micros) -> Sequence[Step]: ...

    def failed(self, origin_id: str, rejection: Rejection, *, now: Micros) -> Sequence[Step]:
        """After `began` was committed: settle it for good. Must not fail when it is settled already (rows=None)."""

    def released(self, origin_id: str, *, now: Micros) -> Sequence[Step]:
        """After `began` was committed and the signer went away: back to where the client may ask again."""

    def not_begun(self) -> Rejection:
        """What to answer when `began` lost its compare-and-set."""
