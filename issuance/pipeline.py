"""The issuance cycle, ten steps on one screen. Their order is the security argument: docs/issuance-cycle.md.

Every step either adds to what is known or raises a `Rejection`; only steps 8 and 10 write, each in one transaction, and only
step 9 touches a key. What has to wait at step 5 is written down there, and begins again at step 1 when it comes back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import orjson
from cryptography import x509

from issuance import audit, buckets, ledger
from issuance.approval_requests import release_step, use_step
from issuance.approvals import Approvals
from issuance.caa import CaaChecker, check_caa
from issuance.evidence import check_evidence
from issuance.plan import Names, make_plan, wanted_names, wanted_span
from issuance.request import (
    Approval,
    IssuanceRequest,
    Issued,
    IssuedCertificate,
    Outcome,
    Pending,
    PolicyOwnership,
    Settler,
)
from issuance.revocation import precaution_steps
from pki.certificate import assemble, verify_signature
from pki.clock import Clock, Micros, after, to_micros
from pki.identifiers import Identifier
from pki.plan import CertificatePlan, Issuer, build_tbs
from pki.reasons import Reason, Rejection, Unavailable
from policy import keys
from policy.engine import Decision, Deny, Wanted, decide
from policy.lints import LintGate
from policy.principal import Principal
from policy.profiles import LintMode, Profile, Profiles
from policy.rules import Policy
from signer.api import Signer, SignerRefused
from storage.database import Conflict, Database, Step
from validation.caa import CaaEvidence

LEASE = timedelta(seconds=30)  # longer than any signature may take, short enough that orders end within 5 minutes


@dataclass(frozen=True, slots=True)
class Rules:
    """What one version of the configuration says. Replaced as a whole when it is loaded again."""

    policies: Sequence[Policy]
    profiles: Profiles
    issuers: Mapping[str, Issuer]


class Ownership(Protocol):
    """Which names external account keys own, as of now."""

    async def owned(
        self, principal: Principal, credential_ids: Collection[str], identifiers: Collection[Identifier]
    ) -> Collection[Identifier]:
        """Those of `identifiers` that one of these keys owns. Of a key that is unknown, not bound to this principal, past its
        time or taken back: none.
        """


class Prepared:
    """The one-shot token between lint and signature: only step 7 makes one, and step 9 redeems it once."""

    __slots__ = ("_redeemed", "intent")

    def __init__(self, intent: ledger.Intent) -> None:
        self.intent = intent
        self._redeemed = False

    def redeem(self) -> bytes:
        """The bytes to sign. A second call is a bug that must not reach a key."""
        if self._redeemed:
            raise AssertionError("a prepared certificate was about to be signed a second time")
        self._redeemed = True
        return self.intent.tbs


class Pipeline:
    def __init__(
        self,
        *,
        rules: Rules,
        database: Database,
        signer: Signer,
        gate: LintGate,
        approvals: Approvals,
        settlers: Mapping[str, Settler],
        clock: Clock,
        new_id: Callable[[], str],
        new_serial: Callable[[], int],
        caa: CaaChecker | None = None,  # without one, what asks for CAA gets nothing
        ownership: Ownership | None = None,  # without one, no external account key owns anything
    ) -> None:
        self._rules = rules
        self._database = database
        self._ledger = ledger.Ledger(database)
        self._signer = signer
        self._gate = gate
        self._approvals = approvals
        self._settlers = settlers
        self._clock = clock
        self._new_id = new_id
        self._new_serial = new_serial
        self._caa = caa
        self._ownership = ownership

    async def issue(self, request: IssuanceRequest) -> Outcome:
        """Raises Rejection, and Unavailable when the database or the signer is away."""
        profile, issuer = self._look_up(request)
        if (earlier := await self._earlier(request)) is not None:
            return earlier
        names, now = _parse(request, profile), self._clock.micros()  # 1
        decision = self._decide(request, profile, names, now)  # 2
        check_evidence(request, names, profile, owned=await self._owned(request), now=now)  # 3
        caa = await check_caa(self._caa, request, names, profile, self._clock)  # 4
        approval = await self._approvals.clear(request, decision, names, profile)  # 5
        if isinstance(approval, Pending | Issued):
            return approval
        plan = make_plan(request, names, profile, issuer, now)  # 6
        prepared = self._prepare(request, names, plan, issuer, profile, caa=caa, approval=approval)  # 7
        if (conflict := await self._intend(prepared.intent)) is not None:  # 8
            return conflict
        signature = await self._sign(prepared, issuer)  # 9
        return await self._record(prepared.intent, issuer, signature)  # 10

    async def foresee(self, request: IssuanceRequest) -> Pending | None:
        """Why `issue` would make no certificate of this, as far as steps 1 to 5 and the limits tell: for whoever has costly work to do
        before. None promises nothing. The key does not count. Raises as `issue`.
        """
        profile, _ = self._look_up(request)
        names, now = wanted_names(request, profile), self._clock.micros()
        decision = self._decide(request, profile, names, now)
        check_evidence(request, names, profile, owned=await self._owned(request), now=now)
        if (limited := await buckets.refusal(self._database, request.charges, now)) is not None:
            raise limited
        await check_caa(self._caa, request, names, profile, self._clock)  # nobody is asked to approve what cannot be issued
        approval = await self._approvals.clear(request, decision, names, profile)
        return approval if isinstance(approval, Pending) else None

    # ------------------------------------------------------------------ before anything is written

    def _look_up(self, request: IssuanceRequest) -> tuple[Profile, Issuer]:
        profile = self._rules.profiles.get(request.profile)
        if request.profile_version not in {None, profile.version}:
            raise Rejection(
                Reason.UNKNOWN_PROFILE,
                f"profile {profile.name} has changed since this was begun",
                suggestions=["begin again with a new order"],
            )
        return profile, self._rules.issuers[profile.issuer]

    async def _earlier(self, request: IssuanceRequest) -> Outcome | None:
        """What the same idempotency key got before, if anything."""
        if request.idempotency_key is None:
            return None
        row = await self._ledger.attempt_with_key(request.idempotency_key)
        if row is None:
            return None
        if row["request_sha256"] != digest(request):
            raise Rejection(Reason.CONFLICT, "this idempotency key was used before for another request")
        found = await self._ledger.of_issuance(row["id"])
        if found is None:
            return Pending(row["id"], retry_after=2)
        if found.revoked_at is not None:
            raise _of_no_use("it was revoked")
        if found.certificate.not_after < self._clock.micros():
            raise _of_no_use("it has expired")
        return Issued(found.certificate)

    def _decide(self, request: IssuanceRequest, profile: Profile, names: Names, now: Micros) -> Decision:
        """2: policy, default deny."""
        span = wanted_span(profile, not_before=request.not_before, not_after=request.not_after, now=now)
        wanted = Wanted(profile, names.to_grant, names.device, span)
        decision = decide(self._rules.policies, request.principal, wanted)
        if isinstance(decision, Deny):
            raise decision.rejection
        return decision

    async def _owned(self, request: IssuanceRequest) -> Collection[Identifier]:
        """Of what the request claims to own, what it owns now. Nothing is looked up for a request that claims nothing."""
        claims = [evidence for evidence in request.evidence if isinstance(evidence, PolicyOwnership)]
        if not claims or self._ownership is None:
            return ()
        keys_claimed = {claim.credential_id for claim in claims}
        return await self._ownership.owned(request.principal, keys_claimed, {claim.identifier for claim in claims})

    def _prepare(
        self,
        request: IssuanceRequest,
        names: Names,
        plan: CertificatePlan,
        issuer: Issuer,
        profile: Profile,
        *,
        caa: tuple[CaaEvidence, ...],
        approval: Approval | None,
    ) -> Prepared:
        """7: serial and to-be-signed bytes, linted as the certificate that they will be."""
        serial = self._new_serial()
        tbs = build_tbs(plan, issuer, serial)
        self._gate.check(tbs, plan, issuer, serial, every=profile.lint is LintMode.EVERY)
        return Prepared(
            ledger.Intent(
                id=self._new_id(),
                serial=serial,
                tbs=tbs,
                plan=plan,
                request=request,
                names=names.tags,
                request_sha256=digest(request),
                lease_until=after(self._clock.micros(), LEASE),
                caa=caa,
                approval=approval,
            )
        )

    # ------------------------------------------------------------------ the two transactions and the signature between them

    async def _intend(self, intent: ledger.Intent) -> Outcome | None:
        """8: write-ahead. None when the intent is ours to sign; else what became of the request elsewhere."""
        now = self._clock.micros()
        settler, origin = self._settler(intent), intent.request.origin
        began = settler.began(origin.id, now=now, key=origin.key) if settler and origin else ()
        used = (use_step(intent.approval, intent.id, intent.plan, now),) if intent.approval else ()
        recorded = self._audit(audit.Event.ISSUE_INTENT, intent, now, _summary(intent))
        try:
            await self._database.write(*began, *used, *ledger.intent_steps(intent, now), recorded)
        except Conflict:
            if (earlier := await self._earlier(intent.request)) is not None:
                return earlier
            if (refused := await self._ledger.guarded(intent.request)) is not None:
                raise refused from None
            if intent.approval is not None and (taken := await self._approvals.overtaken(intent.approval)) is not None:
                return taken
            if (limited := await buckets.refusal(self._database, intent.request.charges, now)) is not None:
                raise limited from None
            if settler is not None:
                raise settler.not_begun() from None
            # Only a serial that exists already is left: a broken source of randomness must not go on.
            raise Unavailable("serial numbers") from None
        return None

    async def _sign(self, prepared: Prepared, issuer: Issuer) -> bytes:
        """9: the signer checks its own envelope. Whatever goes wrong from here on, the serial never comes back."""
        intent = prepared.intent
        try:
            signature = await self._signer.sign_certificate(issuer.name, prepared.redeem())
        except Unavailable:
            await self._abandon(intent, None)
            raise
        except SignerRefused:
            await self._abandon(intent, Rejection(Reason.LINT_REFUSED, "the signer refused this certificate"))
            raise
        if not verify_signature(issuer.certificate.public_key(), issuer.algorithm, signature, intent.tbs):
            await self._abandon(intent, None)
            raise Unavailable("signer (it gave a signature that does not verify)")
        return signature

    async def _record(self, intent: ledger.Intent, issuer: Issuer, signature: bytes) -> Outcome:
        """10: the certificate exists from here on, for everybody at once."""
        der = assemble(intent.tbs, issuer.algorithm, signature)
        _check_assembled(der, intent, issuer)
        now = self._clock.micros()
        certificate = IssuedCertificate(
            issuer=issuer.name,
            serial=intent.serial_hex,
            der=der,
            profile=intent.plan.profile,
            not_before=to_micros(intent.plan.not_before),
            not_after=to_micros(intent.plan.not_after),
            issued_at=now,
        )
        settler, origin = self._settler(intent), intent.request.origin
        settled = settler.issued(origin.id, certificate, now=now) if settler and origin else ()
        done = [self._audit(audit.Event.ISSUE_DONE, intent, now, {"sha256": hashlib.sha256(der).hexdigest()})]
        if intent.approval is not None:
            done.append(self._approvals.issued_record(intent.approval, intent, now))
        try:
            await self._database.write(*ledger.issued_steps(intent, certificate), *settled, *done)
        except Conflict:
            # Our own write after an unclear answer of the database, or the sweeper, which has revoked the serial.
            found = await self._ledger.of_issuance(intent.id)
            if found is None:
                raise _interrupted() from None
            return Issued(found.certificate)
        return Issued(certificate)

    async def _abandon(self, intent: ledger.Intent, rejection: Rejection | None) -> None:
        """Settle an intent that will not become a certificate. Where this cannot be written, the sweeper does the same."""
        now = self._clock.micros()
        settler, origin = self._settler(intent), intent.request.origin
        settled: Sequence[Step] = ()
        if settler and origin:
            if rejection is None:
                settled = settler.released(origin.id, now=now)
            else:
                settled = settler.failed(origin.id, rejection, now=now)
        not_after = to_micros(intent.plan.not_after)
        try:
            await self._database.write(
                ledger.abandoned_step(intent.id, now),
                release_step(intent.id),
                *precaution_steps(intent.plan.issuer, intent.serial_hex, not_after, now),
                self._audit(audit.Event.ISSUE_ABANDONED, intent, now, {"why": "signer"}),
                *settled,
            )
        except (Conflict, Unavailable):
            return

    def _settler(self, intent: ledger.Intent) -> Settler | None:
        origin = intent.request.origin
        return None if origin is None else self._settlers[origin.kind]

    def _audit(self, event: audit.Event, intent: ledger.Intent, now: Micros, detail: Mapping[str, object]) -> Step:
        return audit.record(
            event,
            record_id=self._new_id(),
            at=now,
            principal=str(intent.request.principal),
            subject=intent.subject,
            detail={"issuance": intent.id, **detail},
        )


def _summary(intent: ledger.Intent) -> dict[str, object]:
    plan, request = intent.plan, intent.request
    approved = {} if intent.approval is None else {"request": intent.approval.id, "approved_by": intent.approval.by}
    return {
        **approved,
        "profile": f"{plan.profile}@{plan.profile_version}",
        "names": intent.names,
        "key_sha256": request.csr.spki_sha256,
        "csr_sha256": request.csr.sha256,
        "channel": request.channel.value,
        "endpoint": request.endpoint,
        "source": request.principal.source_address,
    }


def digest(request: IssuanceRequest) -> str:
    """What an idempotency key stands for: who asks for what, with which key, on which profile."""
    content = [
        str(request.principal),
        request.channel.value,
        request.endpoint,
        request.profile,
        request.csr.sha256,
        [identifier.tag for identifier in request.identifiers],
        request.common_name,
        request.not_before,
        request.not_after,
    ]
    return hashlib.sha256(orjson.dumps(content)).hexdigest()


def _parse(request: IssuanceRequest, profile: Profile) -> Names:
    """1: the CSR was parsed and its proof of possession verified at the edge (pki.csr); here its key meets the rules.

    The list of compromised keys is looked at in the transaction of step 8, so that no key gets onto it in between.
    """
    keys.check_public_key(request.csr.public_key)
    return wanted_names(request, profile)


def _check_assembled(der: bytes, intent: ledger.Intent, issuer: Issuer) -> None:
    """The finished certificate, read anew: the linted bytes, under a signature of this issuer."""
    certificate = x509.load_der_x509_certificate(der)
    if certificate.tbs_certificate_bytes != intent.tbs or certificate.issuer != issuer.certificate.subject:
        raise AssertionError("the assembled certificate is not the prepared one")


def _of_no_use(why: str) -> Rejection:
    """The same request gets the same certificate, and never another one: a replay would, too."""
    return Rejection(
        Reason.CONFLICT,
        f"this request got its certificate before, and {why}",
        suggestions=["make a new request: with a new key, or under another transaction or idempotency key"],
    )


def _interrupted() -> Rejection:
    return Rejection(
        Reason.INTERRUPTED,
        "the server was interrupted while it signed; the serial it had taken is revoked",
        suggestions=["ask again"],
    )
