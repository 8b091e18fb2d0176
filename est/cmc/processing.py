"""What a PKIData asks for is done (RFC 5272 §3.2.1): certificates first, then what concerns those that exist, revocations last.

Law of this file: everything is checked before anything is done. What is refused for its form or for a missing proof refuses all
of the message; what policy refuses is refused by itself, and nothing is revoked then, for a client that changes its key would be
left without any. A request that comes again in the same transaction gets the same certificate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import assert_never

from est.cmc import proofs
from est.cmc.asked import Asked, NotSupported
from est.cmc.authorization import Authority, Standing
from est.cmc.failinfo import Later, from_rejection
from est.cmc.messages import CmcRefusal, FailInfo, PendInfo, Status, StatusInfo
from est.cmc.possession import Possessions
from est.cmc.repository import Repository
from est.cmc.requests import Read, is_possessed, read
from est.cmc.values import ConfirmCertAcceptance, EncryptedPop, GetCert, GetCrl, QueryPending, RevokeRequest
from est.cmc.waiting import Tokens, Waiting
from est.enroll import Enroller
from est.exchange import Exchange
from est.linking import check_linking
from est.renewal import WantedNames
from issuance.request import Issued, Pending, Rejected
from pki.clock import Clock
from pki.cms.types import Digest
from pki.reasons import Rejection

_WEAK = frozenset({Digest.MD5, Digest.SHA1})


@dataclass(slots=True)
class Report:
    """What there is to say, and what goes into the bag (DER)."""

    statuses: list[StatusInfo] = field(default_factory=list)
    certificates: list[bytes] = field(default_factory=list, repr=False)
    crls: list[bytes] = field(default_factory=list, repr=False)
    challenges: list[EncryptedPop] = field(default_factory=list, repr=False)
    retry_after: int | None = None  # seconds
    http: int | None = None  # the status, where it is not the failInfo's

    def say(self, status: Status, *body_parts: int, text: str = "", pend_info: PendInfo | None = None) -> None:
        self.statuses.append(StatusInfo(status, body_parts, text, pend_info=pend_info))

    def refuse(self, refusal: CmcRefusal, *body_parts: int) -> None:
        if isinstance(refusal, NotSupported):
            self.say(Status.NO_SUPPORT, *body_parts, text=refusal.text)
        else:
            self.statuses.append(StatusInfo(Status.FAILED, body_parts, refusal.text, refusal.fail_info))
        if isinstance(refusal, Later):
            self.http = refusal.status
            self.later(refusal.retry_after)

    def later(self, seconds: int | None) -> None:
        if seconds is not None:
            self.retry_after = max(seconds, self.retry_after or 0)

    @property
    def all_done(self) -> bool:
        return all(each.status is Status.SUCCESS for each in self.statuses)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A request that has passed every check that comes before the pipeline's own."""

    found: Read
    names: WantedNames | None
    idempotency_key: str


@dataclass(slots=True)
class _Turn:
    """One message while it is worked on. `waiting` are requests that somebody has to approve, by the body part they stand for."""

    exchange: Exchange
    asked: Asked
    requests: Sequence[Read] = field(repr=False)
    authority: Authority
    report: Report = field(default_factory=Report)
    waiting: list[tuple[int, Waiting]] = field(default_factory=list, repr=False)

    @property
    def label(self) -> str:
        return self.exchange.endpoint.label

    @property
    def principal(self) -> str:
        return str(self.authority.caller.principal)


class Processor:
    def __init__(
        self, *, enroller: Enroller, repository: Repository, possessions: Possessions, tokens: Tokens, clock: Clock
    ) -> None:
        self._enroller = enroller
        self._repository = repository
        self._possessions = possessions
        self._tokens = tokens
        self._clock = clock

    async def perform(
        self, exchange: Exchange, asked: Asked, requests: Sequence[Read], authority: Authority, *, digest: bytes
    ) -> Report:
        """`requests` are those of `asked`, read; `digest` is of all that the sender signed. Raises CmcRefusal for what refuses the whole message, Unavailable."""
        if not asked.requests and not asked.actions and not asked.says_only:
            raise CmcRefusal(FailInfo.BAD_REQUEST, "the message asks for nothing")
        if asked.vouched and not authority.is_agent:
            text = "only a registration authority may say by lraPOPWitness that somebody has a key"
            raise CmcRefusal(FailInfo.POP_FAILED, text, body_parts=tuple(sorted(asked.vouched)))
        turn = _Turn(exchange, asked, requests, authority)
        wanted = self._check(turn, digest)
        if wanted is None:
            return turn.report
        await self._enrol(turn, wanted)
        for body_part, action in asked.actions:
            if not isinstance(action, RevokeRequest):
                await self._act(turn, body_part, action)
        await self._revoke(exchange, asked, authority, turn.report)
        if asked.says_only:
            turn.report.say(Status.SUCCESS)
        return turn.report

    async def revoke_by_secret(self, exchange: Exchange, asked: Asked) -> Report:
        """§6.11: whoever has lost the key signs nothing, and is known by the shared secret in the request. Raises Unavailable."""
        report = Report()
        await self._revoke(exchange, asked, None, report)
        return report

    # ------------------------------------------------------------------ before anything is done

    def _check(self, turn: _Turn, digest: bytes) -> Sequence[_Wanted] | None:
        """All requests, or None when nothing may be done; then the report says why."""
        report, wanted = turn.report, []
        unproved: list[int] = []
        refused: list[int] = []
        for found in turn.requests:
            try:
                names = self._judge(turn, found)
                if not self._proved(turn, found):
                    report.challenges.append(self._possessions.challenge(found, (turn.label, turn.principal)))
                    unproved.append(found.body_part)
                wanted.append(_Wanted(found, names, _idempotency_key(turn, found, digest)))
            except CmcRefusal as refusal:
                refused.append(found.body_part)
                report.refuse(refusal, found.body_part)
        if refused:
            report.challenges.clear()
        elif unproved:
            report.say(Status.POP_REQUIRED, *unproved, text="decrypt the value, and send the request again with decryptedPOP")
        else:
            return wanted
        _leave_out(turn, refused or unproved)
        return None

    def _judge(self, turn: _Turn, found: Read) -> WantedNames | None:
        """May this sender ask for this? The names, where they are not simply the request's. Raises CmcRefusal."""
        endpoint, caller, standing = turn.exchange.endpoint, turn.authority.caller, turn.authority.standing
        try:
            # The shared secret is a link of its own (§6.3); that to TLS is verified where it is there (RFC 7030 §3.5).
            if standing is not Standing.SECRET or found.csr.challenge_password is not None:
                check_linking(found.csr, endpoint, turn.exchange.connection, caller)
            match standing:
                case Standing.AGENT | Standing.PREVIOUS:
                    return self._enroller.names_to_renew(endpoint, caller, found.csr)
                case Standing.SECRET:
                    _check_link(turn.asked, turn.authority.secret, found)
                    return None
                case Standing.DEVICE | Standing.TRANSPORT:
                    return None
                case _:
                    assert_never(standing)
        except Rejection as rejection:
            raise from_rejection(rejection, body_parts=(found.body_part,)) from rejection

    def _proved(self, turn: _Turn, found: Read) -> bool:
        """Raises CmcRefusal."""
        if is_possessed(found, by_agent=turn.authority.is_agent, vouched=turn.asked.vouched):
            return True
        answer = turn.asked.answers.get(found.body_part)
        if answer is None:
            return False
        self._possessions.check(found, answer, (turn.label, turn.principal))
        return True

    # ------------------------------------------------------------------ certificates

    async def _enrol(self, turn: _Turn, wanted: Sequence[_Wanted]) -> None:
        """One token for all of a message that wait, and `partial` where others do not (§6.1.3)."""
        for one in wanted:
            await self._submit(turn, one, one.found.body_part)
        if not turn.waiting:
            return
        token = self._tokens.seal(tuple(one for _, one in turn.waiting), label=turn.label, principal=turn.principal)
        pend_info = PendInfo(token, self._clock.micros() // 1_000_000 + (turn.report.retry_after or 0))
        turn.report.say(Status.PENDING, *(part for part, _ in turn.waiting), pend_info=pend_info)
        if len(turn.waiting) < len(wanted):
            turn.report.say(Status.PARTIAL, text="some of it waits for an approval", pend_info=pend_info)

    async def _submit(self, turn: _Turn, one: _Wanted, body_part: int) -> None:
        """An outage ends the whole message (Unavailable): who sends it again gets what was issued before, and the rest."""
        report = turn.report
        outcome = await self._enroller.submit(
            turn.exchange.endpoint,
            turn.authority.caller,
            one.found.csr,
            names=one.names,
            idempotency_key=one.idempotency_key,
        )
        match outcome:
            case Issued(certificate):
                report.certificates.append(certificate.der)
                report.say(Status.SUCCESS, body_part)
            case Pending(_, seconds):
                turn.waiting.append((body_part, Waiting(one.found.request, one.idempotency_key)))
                report.later(seconds)
            case Rejected(rejection):
                report.refuse(from_rejection(rejection), body_part)
            case _:
                assert_never(outcome)

    async def _query(self, turn: _Turn, body_part: int, token: bytes) -> None:
        """§6.13: what waits is asked for again, by the one who asked for it. While nothing changes, pendInfo is left out."""
        kept = self._tokens.open(token, label=turn.label, principal=turn.principal)
        before = len(turn.waiting)
        for one in kept:
            found = read(one.request)
            names = None
            if turn.authority.standing in {Standing.AGENT, Standing.PREVIOUS}:
                names = self._enroller.names_to_renew(turn.exchange.endpoint, turn.authority.caller, found.csr)
            await self._submit(turn, _Wanted(found, names, one.idempotency_key), body_part)
        if still := len(turn.waiting) - before:
            turn.report.say(Status.PARTIAL if still < len(kept) else Status.PENDING, body_part)

    # ------------------------------------------------------------------ what concerns those that exist

    async def _act(self, turn: _Turn, body_part: int, action: QueryPending | GetCert | GetCrl | ConfirmCertAcceptance) -> None:
        report, endpoint = turn.report, turn.exchange.endpoint
        try:
            match action:
                case QueryPending():
                    await self._query(turn, body_part, action.octets)
                    return
                case GetCert():
                    report.certificates.append(await self._repository.certificate(endpoint, action))
                case GetCrl():
                    report.crls.append(await self._repository.crl(endpoint, action))
                case ConfirmCertAcceptance():
                    await self._repository.certificate(endpoint, action)
                case _:
                    assert_never(action)
            report.say(Status.SUCCESS, body_part)
        except Rejection as rejection:
            report.refuse(from_rejection(rejection), body_part)
        except CmcRefusal as refusal:
            report.refuse(refusal, body_part)

    async def _revoke(self, exchange: Exchange, asked: Asked, authority: Authority | None, report: Report) -> None:
        all_done = report.all_done
        for body_part, action in asked.actions:
            if not isinstance(action, RevokeRequest):
                continue
            if not all_done:
                text = "nothing is revoked, for not all that the message asks for could be done"
                report.refuse(CmcRefusal(FailInfo.BAD_REQUEST, text), body_part)
                continue
            if report.certificates and _is_signers_own(authority, action):
                text = "the certificate that signs is revoked by a message of its own, once what this one gave has arrived"
                report.refuse(CmcRefusal(FailInfo.BAD_REQUEST, text), body_part)
                continue
            try:
                await self._repository.revoke(exchange, action, authority)
                report.say(Status.SUCCESS, body_part)
            except CmcRefusal as refusal:
                report.refuse(refusal, body_part)


def _leave_out(turn: _Turn, blamed: Sequence[int]) -> None:
    """§6.7: "Servers SHOULD reject all certification requests contained within a PKIData if any required POP is missing"."""
    parts = [*(found.body_part for found in turn.requests), *(part for part, _ in turn.asked.actions)]
    if others := [part for part in parts if part not in blamed]:
        turn.report.refuse(CmcRefusal(FailInfo.BAD_REQUEST, "not done, because of another part of the message"), *others)


def _is_signers_own(authority: Authority | None, wanted: RevokeRequest) -> bool:
    """Without it the message could not be sent again: whoever misses its response would lose the successor, too."""
    held = None if authority is None else authority.signed_with
    return held is not None and bool(held.issuer) and held.serial == f"{wanted.serial:x}"


def _check_link(asked: Asked, secret: str, found: Read) -> None:
    """§6.3.1.1: "servers MUST verify that each certification request contains a copy". Else a request of somebody else could be
    put under the secret. Raises CmcRefusal.
    """
    parts = (found.body_part,)
    try:
        witness = proofs.link_of(found.csr)
    except CmcRefusal as refusal:
        raise CmcRefusal(refusal.fail_info, refusal.text, body_parts=parts) from refusal
    if witness is None or asked.link is None:
        text = "with a shared secret, the message needs popLinkRandom, and every certification request its popLinkWitnessV2"
        raise CmcRefusal(FailInfo.POP_REQUIRED, text, body_parts=parts)
    if {witness.digest, witness.mac} & _WEAK:
        raise CmcRefusal(FailInfo.BAD_ALG, "popLinkWitnessV2 has to use SHA-256 or better", body_parts=parts)
    identification = "" if asked.identification is None else asked.identification.name
    if not proofs.links(witness, secret, identification, asked.link.octets):
        text = "popLinkWitnessV2 is not made with the shared secret and popLinkRandom of this message"
        raise CmcRefusal(FailInfo.POP_FAILED, text, body_parts=parts)


def _idempotency_key(turn: _Turn, found: Read, digest: bytes) -> str:
    """What makes two requests one: the same sender, the same request, the same transaction.

    A shared secret vouches for the requests and not for the controls, so there no transaction that somebody could change
    makes another one of it. Without a transaction identifier it is the whole message that must be the same.
    """
    if turn.authority.standing is Standing.SECRET:
        transaction = "secret"
    elif turn.asked.transaction is not None:
        transaction = f"transaction {turn.asked.transaction.number}"
    else:
        transaction = f"message {digest.hex()}"
    content = f"{turn.principal}\n{found.csr.sha256}\n{transaction}"
    return f"cmc/{turn.label}/{hashlib.sha256(content.encode()).hexdigest()}"
