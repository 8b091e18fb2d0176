"""Full CMC: who says it, what they ask for, and whether they may. Every sender by every kind of request by every control by every label.

What has to become of a message is worked out here from the tables of docs/est.md and the sentences of RFC 5272 and RFC 7030, in
`expected`: pure, and without a look at what the server does it with. Then the real pipeline is asked.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from est.connection import Connections
from est.endpoint import Authentication, ClientCertificates, ProofLinking
from issuance.approvals import Verdict as Decision
from policy.principal import COMMAND_LINE
from storage.open import open_database
from tests.helpers import cmc
from tests.helpers.clock import FakeClock
from tests.helpers.cmc import pki_data, signed, tcr
from tests.helpers.cmc_stage import (
    ACTION,
    OWN,
    REQUEST,
    SUCCESS,
    Sender,
    Stage,
    Verdict,
    has_certificate,
    link_witness,
    name_of_dev1,
)
from tests.helpers.cmc_world import MANUFACTURER, ROLES, CmcWorld, endpoint
from tests.helpers.est_world import make_request

FAILED, PENDING, POP_REQUIRED = 2, 3, 6
BAD_MESSAGE_CHECK, BAD_REQUEST, BAD_CERT_ID, BAD_IDENTITY, NO_POP, POP_FAILED = 1, 2, 4, 7, 8, 9
HTTP = {BAD_MESSAGE_CHECK: 400, BAD_REQUEST: 400, BAD_CERT_ID: 400, BAD_IDENTITY: 403, NO_POP: 400, POP_FAILED: 400}
WHOLE = 0  # the body part

LABELS = {
    "default": endpoint(authenticate=frozenset({Authentication.BASIC, Authentication.BEARER, Authentication.CERTIFICATE})),
    "other": endpoint("other"),
    "gateways": endpoint(
        "gateways", client_certificates=ClientCertificates(anchors=(MANUFACTURER.der,), roles=ROLES, enroll=True)
    ),
    "waiting": endpoint(
        "waiting",
        require_approval=True,
        authenticate=frozenset({Authentication.BASIC, Authentication.BEARER, Authentication.CERTIFICATE}),
    ),
    "passwords": endpoint("passwords", authenticate=frozenset({Authentication.BASIC})),
    "closed": endpoint("closed", authenticate=frozenset({Authentication.CERTIFICATE})),
}


_CERTIFIED = ("agent", "holder", "holder elsewhere", "revoked holder", "expired holder", "device", "stranger", "strange agent")
_CARRIED = ("agent", "holder", "holder elsewhere", "revoked holder", "expired holder", "device", "stranger")
SENDERS = (
    *(Sender(one) for one in _CERTIFIED),
    *(Sender(one, http) for one in ("agent", "holder", "device", "stranger") for http in ("password", "wrong password")),
    *(
        Sender(one, tls=tls)
        for one in ("agent", "holder", "device", "stranger", "secret")
        for tls in ("agent", "revoked holder")
    ),
    Sender("holder", tls="device"),
    Sender("device", tls="holder"),
    Sender("secret"),
    Sender("silent secret"),
    Sender("secret", "wrong password"),
    Sender("nobody"),
    Sender("nobody", "password"),
    Sender("nobody", tls="agent"),
    *(Sender("own key", http) for http in ("", "password", "wrong password", "token")),
    *(Sender("own key", tls=tls) for tls in _CARRIED),
    Sender("own key", "password", "agent"),
    Sender("own key", "wrong password", "agent"),
)
KINDS = ("PKCS#10", "PKCS#10 unsigned", "CRMF", "CRMF raVerified", "CRMF keyEncipherment", "CRMF without popo", "")
TARGETS = ("mine", "somebody's", "elsewhere", "nobody's")
CONTROLS = (
    "",
    *(f"revoke {target}" for target in TARGETS),
    "revoke somebody's by a wrong secret",
    "revoke the secret's by it",
    *(f"get {target}" for target in TARGETS[1:]),
    *(f"confirm {target}" for target in TARGETS[1:]),
    "getCRL",
    "somebody's pendToken",
    "a wrong decryptedPOP",
    "lraPOPWitness",
    "somebody else's identityProofV2",
    "popLinkWitnessV2",
)


# ---------------------------------------------------------------------- what has to happen


def who(sender: Sender, label: str, claims: str) -> str | int | tuple[int, int]:
    """The row of docs/est.md's table that a message is: agent, holder, device, secret or transport. A number is an HTTP status
    without a PKIResponse, and a pair says with which failInfo all of it is refused.
    """
    takes_certificates = Authentication.CERTIFICATE in LABELS[label].authenticate
    if sender.signs in _CERTIFIED:
        if claims:
            return 400, BAD_REQUEST
        if sender.signs == "agent":
            return "agent"
        known = sender.signs in {"device", "holder"}
        if not (known and takes_certificates):
            return 403, BAD_IDENTITY
        return sender.signs
    if claims:
        return 403, BAD_IDENTITY
    if "secret" in sender.signs:
        return "secret" if label == OWN else (403, BAD_IDENTITY)
    if sender.signs == "nobody":
        return 400, BAD_MESSAGE_CHECK
    return _as_at_simpleenroll(sender, label)


def _as_at_simpleenroll(sender: Sender, label: str) -> str | int | tuple[int, int]:
    taken = LABELS[label].authenticate
    passwords = Authentication.BASIC in taken
    if sender.http:
        if not passwords:
            return 403, BAD_IDENTITY
        right = label == OWN and sender.http in {"password", "token"}
        return "transport" if right else 401
    if Authentication.CERTIFICATE in taken:
        if sender.tls in {"agent", "device"}:
            return "transport"
        if sender.tls == "holder" and LABELS[label].client_certificates.enroll:
            return "transport"
    return 401 if passwords else (403, BAD_IDENTITY)


def expected(sender: Sender, label: str, kind: str, wanted: str) -> Verdict:
    if wanted == "popLinkWitnessV2":  # RFC 5272 §6.3.1.1: it belongs into a request
        return _refused(ACTION, BAD_REQUEST)
    if not kind and wanted in {"a wrong decryptedPOP", "lraPOPWitness"}:  # there is no such request
        return _refused(ACTION, BAD_REQUEST)
    claims = wanted if wanted == "somebody else's identityProofV2" else ""
    by_secret = wanted in {"revoke somebody's by a wrong secret", "revoke the secret's by it"}
    if sender.signs == "nobody" and by_secret and not kind:  # §6.11: that needs nobody's signature
        return _revoked_by_secret(label, wanted, {})
    if claims and "secret" in sender.signs:  # a second one is for another reader
        return Verdict(400, {901: (FAILED, BAD_REQUEST), 951: (FAILED, BAD_REQUEST)})
    standing = who(sender, label, claims)
    if isinstance(standing, int):
        return Verdict(standing)
    if isinstance(standing, tuple):
        return Verdict(standing[0], {WHOLE: (FAILED, standing[1])})
    return _of_known(sender, standing, label, kind, wanted)


def _of_known(sender: Sender, standing: str, label: str, kind: str, wanted: str) -> Verdict:
    has_action = wanted.startswith(("revoke", "get", "confirm")) or wanted == "somebody's pendToken"
    if not kind and not has_action:
        return _refused(WHOLE, BAD_REQUEST)
    if wanted == "lraPOPWitness" and standing != "agent":
        return _refused(REQUEST, POP_FAILED)
    said: dict[int, tuple[int, int | None]] = {}
    left_out = {ACTION: (FAILED, BAD_REQUEST)} if has_action else {}
    made = 0
    if kind:
        unproved = kind in {"PKCS#10 unsigned", "CRMF keyEncipherment", "CRMF without popo"}
        if kind == "CRMF raVerified" and standing != "agent":
            return Verdict(400, {REQUEST: (FAILED, POP_FAILED), **left_out})
        if unproved and wanted == "a wrong decryptedPOP":
            return Verdict(400, {REQUEST: (FAILED, POP_FAILED)})
        if unproved and not (standing == "agent" and wanted == "lraPOPWitness"):
            return Verdict(200, {REQUEST: (POP_REQUIRED, None), **left_out})
        waits = LABELS[label].require_approval
        said[REQUEST] = (PENDING if waits else SUCCESS, None)
        made = 0 if waits else 1
    if not has_action:
        return _told(said, made)
    all_done = said.get(REQUEST, (SUCCESS, None))[0] == SUCCESS
    if wanted.startswith("revoke"):
        if not all_done:
            return _told({**said, ACTION: (FAILED, BAD_REQUEST)}, made)
        return _revoked(sender, standing, label, wanted, said, made)
    fails: Mapping[str, int] = {
        "get elsewhere": BAD_CERT_ID,
        "get nobody's": BAD_CERT_ID,
        "confirm elsewhere": BAD_CERT_ID,
        "confirm nobody's": BAD_CERT_ID,
        "somebody's pendToken": BAD_REQUEST,
    }
    found = fails.get(wanted)
    return _told({**said, ACTION: (SUCCESS, None) if found is None else (FAILED, found)}, made)


def _revoked(
    sender: Sender, standing: str, label: str, wanted: str, said: Mapping[int, tuple[int, int | None]], made: int
) -> Verdict:
    """§6.11, and docs/est.md: an agent, the holder's signature, or the secret that the certificate was issued on."""
    target = {"revoke somebody's by a wrong secret": "somebody's", "revoke the secret's by it": "the secret's"}.get(
        wanted, wanted.removeprefix("revoke ")
    )
    if standing != "agent" and target != wanted.removeprefix("revoke "):
        return _revoked_by_secret(label, wanted, said, made)
    exists_here = target in {"mine", "somebody's"} or (target == "the secret's" and label == OWN)
    if target == "mine" and not has_certificate(sender):
        exists_here = False
    if standing == "agent" and exists_here:
        return _told({**said, ACTION: (SUCCESS, None)}, made, revoked=target)
    if standing == "holder" and target == "mine":
        if made:
            return _told({**said, ACTION: (FAILED, BAD_REQUEST)}, made)
        return _told({ACTION: (SUCCESS, None)}, 0, revoked=target)
    return _told({**said, ACTION: (FAILED, BAD_CERT_ID)}, made)


def _revoked_by_secret(label: str, wanted: str, said: Mapping[int, tuple[int, int | None]], made: int = 0) -> Verdict:
    if wanted == "revoke the secret's by it" and label == OWN:
        return _told({**said, ACTION: (SUCCESS, None)}, made, revoked="the secret's")
    return _told({**said, ACTION: (FAILED, BAD_IDENTITY)}, made)


def _refused(body_part: int, fail_info: int) -> Verdict:
    return Verdict(HTTP[fail_info], {body_part: (FAILED, fail_info)})


def _told(said: Mapping[int, tuple[int, int | None]], made: int, *, revoked: str = "") -> Verdict:
    """docs/est.md: 200 when anything was done, 202 when it waits, an error when nothing came of it."""
    statuses = {status for status, _ in said.values()}
    if SUCCESS in statuses:
        http = 200
    elif PENDING in statuses:
        http = 202
    else:
        http = next(HTTP[fail_info] for _, fail_info in said.values() if fail_info is not None)
    return Verdict(http, said, made, frozenset({revoked} if revoked else ()))


# ---------------------------------------------------------------------- what happens


@pytest.fixture
async def world(tmp_path: Path, clock: FakeClock) -> AsyncIterator[CmcWorld]:
    database = await open_database(f"sqlite://{tmp_path}/certwright.db", migrate=True)
    async with CmcWorld(database, clock, endpoints=LABELS.values()) as world:
        yield world
    await database.close()


def cells(label: str) -> Iterator[tuple[str, str]]:
    """How possession is shown is nothing that labels differ in."""
    for kind in KINDS if label == OWN else ("PKCS#10", ""):
        for wanted in CONTROLS:
            yield kind, wanted


@pytest.mark.parametrize("sender", SENDERS, ids=str)
async def test_everybody_gets_what_is_theirs_and_nothing_else(world: CmcWorld, clock: FakeClock, sender: Sender) -> None:
    stages = {label: Stage(world, label) for label in LABELS}
    if "expired holder" in {sender.signs, sender.tls}:
        for stage in stages.values():
            await stage.certificate_of("expired holder")
        clock.advance(timedelta(days=200))
    wrong = []
    for label, stage in stages.items():
        await stage.open()
        for kind, wanted in cells(label):
            right, found = expected(sender, label, kind, wanted), await stage.verdict(sender, kind, wanted)
            if found != right:
                wrong.append(
                    f"{label}: {kind or 'no request'} + {wanted or 'no control'}:\n    found {found}\n    right {right}"
                )
    assert not wrong, f"{len(wrong)} cells\n" + "\n".join(wrong)


# ---------------------------------------------------------------------- what waits for an approval


WAITING = (
    Sender("agent"),
    Sender("registrar"),
    Sender("holder"),
    Sender("device"),
    Sender("secret"),
    Sender("silent secret"),
    Sender("own key", "password"),
    Sender("own key", "token"),
    Sender("own key", tls="device"),
)
SAME = ({"secret", "silent secret"}, {"device", "own key, device by TLS"})  # one requester, by two ways


async def test_a_pend_token_is_its_requesters_at_its_label_and_every_other_one_learns_nothing(world: CmcWorld) -> None:
    """RFC 5272 §6.13; docs/est.md: queryPending "by who asked". Every requester's token is tried by every other one, at both labels."""
    stages = {label: Stage(world, label) for label in ("default", "waiting")}
    for stage in stages.values():
        await stage.known_to_all()
        await stage.certificate_of("holder")
    before, tokens = await world.certificates(), {}
    for sender in WAITING:
        http, tokens[str(sender)] = await stages["waiting"].asked(sender)
        assert http == 202, str(sender)
    for request in await world.est.issuing.approvals.newest():
        await world.est.issuing.approvals.decide(request.id, Decision.APPROVE, approver=COMMAND_LINE)
    for asked, token in tokens.items():
        for label, stage in stages.items():
            for sender in WAITING:
                mine = label == "waiting" and any({asked, str(sender)} <= same for same in ({asked}, *SAME))
                if mine:
                    continue
                assert await stage.queried(sender, token) == (400, {ACTION: (FAILED, BAD_REQUEST)}), (asked, str(sender), label)
    assert await world.certificates() == before
    for sender in WAITING:
        assert await stages["waiting"].queried(sender, tokens[str(sender)]) == (200, {ACTION: (SUCCESS, None)}), str(sender)
    assert await world.certificates() == before + len(WAITING)


# ---------------------------------------------------------------------- what has to be linked to the TLS connection


class _Binding:
    """`tls-exporter` of every connection."""

    def channel_binding(self, tls: ssl.SSLObject) -> bytes | None:
        return b"the binding of this connection"


LINKED = {
    "required": endpoint("required", proof_linking=ProofLinking.REQUIRED),
    "optional": endpoint("optional", proof_linking=ProofLinking.OPTIONAL),
    "off": endpoint("off", proof_linking=ProofLinking.OFF),
}
BINDINGS = {"right": b"the binding of this connection", "wrong": b"the binding of another one", "none": b""}


@pytest.mark.parametrize("label", LINKED)
async def test_a_request_is_linked_to_tls_whoever_signs_the_message_around_it(
    tmp_path: Path, clock: FakeClock, label: str
) -> None:
    """RFC 7030 §3.5: tls-unique information that is included "MUST" be verified; an agent's was (§3.7). §6.3 of RFC 5272 links by the
    shared secret instead.
    """
    database = await open_database(f"sqlite://{tmp_path}/certwright.db", migrate=True)
    async with CmcWorld(database, clock, endpoints=LINKED.values(), connections=Connections(_Binding())) as world:
        stage = Stage(world, label)
        await stage.known_to_all()
        for signs, http in (("agent", ""), ("secret", ""), ("holder", ""), ("device", ""), ("own key", "password")):
            for binding, octets_of_it in BINDINGS.items():
                key = ec.generate_private_key(ec.SECP256R1())
                challenge = {"1.2.840.113549.1.9.7": cmc.text(base64.b64encode(octets_of_it).decode())}
                link = {cmc.POP_LINK_WITNESS_V2: link_witness()} if signs == "secret" else {}
                attributes = {**(challenge if octets_of_it else {}), **link}
                requests = [tcr(REQUEST, make_request(subject=name_of_dev1(), names=None, key=key, attributes=attributes))]
                sender = Sender(signs, http)
                data = pki_data(stage.claims(sender, requests), requests)
                status = await stage.posted(sender, signed(data, await stage.signer(sender, key)))
                refused = {"required": {"wrong", "none"}, "optional": {"wrong"}, "off": set()}[label]
                by_other_means = signs == "agent" or (signs == "secret" and binding == "none")
                right = 400 if binding in refused and not by_other_means else 200
                assert status.status == right, (signs, binding, status.text)
    await database.close()
