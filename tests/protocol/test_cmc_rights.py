"""Full CMC: who says it, what they ask for, and whether they may. Every sender by every kind of request by every control by every label.

What has to become of a message is worked out here from the tables of docs/est.md and the sentences of RFC 5272 and RFC 7030, in
`expected`: pure, and without a look at what the server does it with. Then the real pipeline is asked.
"""

from __future__ import annotations

import base64
import hashlib
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from asn1crypto import core
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from est.connection import Connections
from est.endpoint import Authentication, ClientCertificates, ProofLinking
from issuance.approvals import Verdict as Decision
from issuance.credentials import Credential, CredentialKind
from issuance.request import BasicPassword, SharedSecret
from pki.reasons import RevocationReason
from policy.principal import COMMAND_LINE, Principal, PrincipalKind
from storage.open import open_database
from tests.helpers import cmc
from tests.helpers.authorities import Authority, ec_key
from tests.helpers.clock import FakeClock
from tests.helpers.cmc import SignerOf, Unsigned, control, crm, pki_data, read_reply, signed, tcr
from tests.helpers.cmc_world import CA, MANUFACTURER, RA, ROLES, SECRET, CmcWorld, endpoint
from tests.helpers.est_world import Reply, make_request
from tests.helpers.scep import children, integer, octets, oid, retag, self_signed, seq

SUCCESS, FAILED, PENDING, POP_REQUIRED = 0, 2, 3, 6
BAD_MESSAGE_CHECK, BAD_REQUEST, BAD_CERT_ID, BAD_IDENTITY, NO_POP, POP_FAILED = 1, 2, 4, 7, 8, 9
HTTP = {BAD_MESSAGE_CHECK: 400, BAD_REQUEST: 400, BAD_CERT_ID: 400, BAD_IDENTITY: 403, NO_POP: 400, POP_FAILED: 400}
ISSUER = CA.certificate.subject.public_bytes()
STRANGERS = Authority("Strangers")
REQUEST, ACTION = 1, 5  # body parts
WHOLE = 0

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
OWN = "default"  # whose users, secrets and certificates those of `elsewhere` are


@dataclass(frozen=True)
class Sender:
    """`signs`: with whose key. `http`: whose credentials. `tls`: whose certificate is presented. Certificates: see `certificate_of`."""

    signs: str
    http: str = ""
    tls: str = ""

    def __str__(self) -> str:
        return ", ".join(part for part in (self.signs, self.http, self.tls and f"{self.tls} by TLS") if part)


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


@dataclass(frozen=True)
class Verdict:
    """`said`: body part -> (status, failInfo); nothing is said of what is not there."""

    http: int
    said: Mapping[int, tuple[int, int | None]] = field(default_factory=dict)
    certificates: int = 0
    revoked: frozenset[str] = frozenset()


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


def has_certificate(sender: Sender) -> bool:
    """Whether "mine" is a certificate of this label."""
    return "holder" in {sender.signs, sender.tls}


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


class Stage:
    """One label with everybody in it. Certificates that a cell has revoked are made anew."""

    def __init__(self, world: CmcWorld, label: str) -> None:
        self.world, self.label = world, label
        self._certificates: dict[str, SignerOf] = {}
        self._token = b""

    async def open(self) -> None:
        world = self.world
        world.est.credentials.add_est_user(OWN, "alice", "password")
        world.est.credentials.est_tokens[OWN, "cwe_token"] = _token(OWN)
        await world.publisher.look("issuing")
        ask = signed(pki_data(requests=[tcr(1, cmc.csr(ec_key("waits")))]), world.agent("another agent"))
        waiting = await world.send(ask, label="waiting", status=202)
        self._token = waiting.about(1).token or b""

    async def certificate_of(self, whose: str) -> SignerOf:
        if whose not in self._certificates:
            self._certificates[whose] = await self._made(whose)
        return self._certificates[whose]

    async def _made(self, whose: str) -> SignerOf:
        world = self.world
        match whose:
            case "agent" | "registrar":
                return world.agent(whose)
            case "strange agent":
                return world.agent(by=STRANGERS)
            case "stranger":
                return _loaded(ec_key("device"), STRANGERS.idevid("device-1", key=ec_key("device")))
            case "device":
                return world.device()
            case "holder" | "somebody's" | "revoked holder" | "expired holder":
                found = await self._enrolled(self.label, "dev1" if "holder" in whose else "dev2")
            case "the secret's":
                found = await self._enrolled(OWN, "dev3", by_secret=True)
            case "holder elsewhere" | "elsewhere":
                found = await self._enrolled("other" if self.label == OWN else OWN, "dev1")
            case _:
                raise AssertionError(whose)
        if whose == "revoked holder":
            await world.est.revoke(found.named.public_bytes(Encoding.DER))
        return found

    async def _enrolled(self, label: str, common_name: str, *, by_secret: bool = False) -> SignerOf:
        kind = PrincipalKind.CMC_CLIENT if by_secret else PrincipalKind.EST_USER
        name = f"{label}/device-7" if by_secret else f"{label}/operator"
        made = await self.world.est.enrolled(
            label,
            common_name=common_name,
            principal=Principal(kind, name, ROLES),
            evidence=(SharedSecret(name) if by_secret else BasicPassword(name),),
        )
        return _loaded(ec_key("subscriber"), made)

    # ------------------------------------------------------------------ a message

    async def verdict(self, sender: Sender, kind: str, wanted: str) -> Verdict:
        key, secret = ec.generate_private_key(ec.SECP256R1()), "secret" in sender.signs
        requests = [self._request(kind, key, link=secret)] if kind else []
        controls = [] if wanted == "" else [await self._control(sender, wanted, requests)]
        if wanted == "somebody else's identityProofV2":
            controls.insert(0, control(950, cmc.IDENTIFICATION, cmc.text("device-8")) if not secret else b"")
        message = signed(pki_data([*controls, *self.claims(sender, requests)], requests), await self.signer(sender, key))
        if sender.tls:
            await self.certificate_of(sender.tls)
        before = await self.world.certificates()
        http, said = await self._sent(sender, message)
        made = await self.world.certificates() - before
        if not said and http == 200:  # a Simple PKI Response says that all of it was done
            parts = ([REQUEST] if kind else []) + ([ACTION] if wanted.startswith("get") else [])
            said = dict.fromkeys(parts, (SUCCESS, None))
        return Verdict(http, said, made, await self._revoked())

    async def known_to_all(self) -> None:
        """Whoever OWN knows is known here, too."""
        world, label = self.world, self.label
        world.est.credentials.add_est_user(label, "alice", "password")
        world.est.credentials.est_tokens[label, "cwe_token"] = _token(label)
        await world.sealed.set_cmc_secret(
            endpoint=label, identification="device-7", roles=ROLES, profile="", expires_at=None, secret=SECRET
        )

    async def asked(self, sender: Sender) -> tuple[int, bytes]:
        """The HTTP status for a request of this sender, and the pendToken."""
        key = ec.generate_private_key(ec.SECP256R1())
        requests = [self._request("PKCS#10", key, link="secret" in sender.signs)]
        reply = await self.posted(
            sender, signed(pki_data(self.claims(sender, requests), requests), await self.signer(sender, key))
        )
        token = read_reply(reply.text.encode(), by=RA).about(REQUEST).token
        assert token is not None
        return reply.status, token

    async def queried(self, sender: Sender, token: bytes) -> tuple[int, dict[int, tuple[int, int | None]]]:
        asked = control(ACTION, cmc.QUERY_PENDING, octets(token))
        key = ec.generate_private_key(ec.SECP256R1())
        return await self._sent(sender, signed(pki_data([asked, *self.claims(sender, [])]), await self.signer(sender, key)))

    def claims(self, sender: Sender, requests: list[bytes]) -> list[bytes]:
        if "secret" not in sender.signs:
            return []
        return [
            control(900, cmc.IDENTIFICATION, cmc.text("device-7")),
            control(901, cmc.IDENTITY_PROOF_V2, cmc.identity_proof(SECRET.encode(), "device-7", requests)),
            control(902, cmc.POP_LINK_RANDOM, octets(b"R" * 64)),
        ]

    async def signer(self, sender: Sender, key: ec.EllipticCurvePrivateKey) -> SignerOf | Unsigned:
        if sender.signs in {"nobody", "silent secret"}:
            return Unsigned()
        if sender.signs in {"own key", "secret"}:
            return SignerOf(key, self_signed(key))
        return await self.certificate_of(sender.signs)

    async def _sent(self, sender: Sender, message: bytes) -> tuple[int, dict[int, tuple[int, int | None]]]:
        reply = await self.posted(sender, message)
        if not reply.text:
            return reply.status, {}
        found = read_reply(reply.text.encode(), by=RA)
        return reply.status, {part: (each.status, each.fail_info) for each in found.said for part in each.body_parts}

    async def posted(self, sender: Sender, message: bytes) -> Reply:
        headers = {"Content-Type": "application/pkcs7-mime; smime-type=CMC-request"}
        if sender.tls:
            chain = (await self.certificate_of(sender.tls)).named.public_bytes(Encoding.DER)
            headers["X-Test-Chain"] = base64.b64encode(chain).decode()
        if sender.http:
            basic = base64.b64encode(f"alice:{sender.http}".encode()).decode()
            headers["Authorization"] = "Bearer cwe_token" if sender.http == "token" else f"Basic {basic}"
        return await self.world.est.post("fullcmc", base64.b64encode(message), headers, label=self.label)

    async def _revoked(self) -> frozenset[str]:
        found = set()
        for whose, one in list(self._certificates.items()):
            if whose not in {"holder", "somebody's", "elsewhere", "the secret's", "holder elsewhere", "expired holder"}:
                continue
            record = await self.world.est.issuing.issuance.certificate(f"{one.named.serial_number:x}")
            assert record is not None
            if record.revoked_at is not None:
                found.add("mine" if "holder" in whose else whose)
                del self._certificates[whose]
        return frozenset(found)

    def _request(self, kind: str, key: ec.EllipticCurvePrivateKey, *, link: bool) -> bytes:
        witness = (SECRET.encode(), b"R" * 64) if link else None
        match kind:
            case "PKCS#10":
                return tcr(REQUEST, cmc.csr(key, link=witness))
            case "PKCS#10 unsigned":
                info, _, _ = children(cmc.csr(key, link=witness))
                return tcr(REQUEST, seq(info, seq(oid(cmc.NO_SIGNATURE)), bytes(core.OctetBitString(b"none").dump())))
            case "CRMF":
                return crm(_crmf(key, link=link, sign=True))
            case "CRMF raVerified":
                return crm(_crmf(key, link=link, pop=cmc.RA_VERIFIED))
            case "CRMF keyEncipherment":
                return crm(_crmf(key, link=link, pop=cmc.CHALLENGE_RESPONSE))
            case "CRMF without popo":
                return crm(_crmf(key, link=link))
            case _:
                raise AssertionError(kind)

    async def _control(self, sender: Sender, wanted: str, requests: list[bytes]) -> bytes:
        verb, _, rest = wanted.partition(" ")
        if verb in {"revoke", "get", "confirm"}:
            return await self._about(sender, verb, rest)
        match wanted:
            case "getCRL":
                return control(ACTION, cmc.GET_CRL, seq(ISSUER))
            case "somebody's pendToken":
                return control(ACTION, cmc.QUERY_PENDING, octets(self._token))
            case "a wrong decryptedPOP":
                return control(ACTION, cmc.DECRYPTED_POP, seq(integer(REQUEST), seq(oid(cmc.HMAC_SHA256)), octets(b"x" * 32)))
            case "lraPOPWitness":
                return control(ACTION, cmc.LRA_POP_WITNESS, seq(integer(0), seq(integer(REQUEST))))
            case "somebody else's identityProofV2":
                return control(951, cmc.IDENTITY_PROOF_V2, cmc.identity_proof(SECRET.encode(), "device-8", requests))
            case "popLinkWitnessV2":
                return control(ACTION, cmc.POP_LINK_WITNESS_V2, _witness())
            case _:
                raise AssertionError(wanted)

    async def _about(self, sender: Sender, verb: str, rest: str) -> bytes:
        whose, _, secret = rest.partition(" by ")
        serial = 4711
        if whose == "mine" and has_certificate(sender):
            serial = (await self.certificate_of("holder")).named.serial_number
        elif whose not in {"mine", "nobody's"}:
            serial = (await self.certificate_of(whose)).named.serial_number
        match verb:
            case "revoke":
                said = {"": None, "it": SECRET.encode(), "a wrong secret": b"a wrong secret"}[secret]
                reason = int(RevocationReason.SUPERSEDED)
                return control(ACTION, cmc.REVOKE_REQUEST, cmc.revoke_request(ISSUER, serial, reason, secret=said))
            case "get":
                return control(ACTION, cmc.GET_CERT, cmc.get_cert(ISSUER, serial))
            case _:
                return control(ACTION, cmc.CONFIRM_CERT_ACCEPTANCE, seq(ISSUER, integer(serial)))


def _token(label: str) -> Credential:
    return Credential(f"{label}/t1", CredentialKind.EST_TOKEN, label, ROLES, "")


def _loaded(key: cmc.Key, der: bytes) -> SignerOf:
    return SignerOf(key, x509.load_der_x509_certificate(der))


def _witness() -> bytes:
    return cmc.mac_proof(hashlib.sha256(SECRET.encode()).digest(), b"R" * 64)


def _crmf(key: ec.EllipticCurvePrivateKey, *, link: bool, pop: bytes = b"", sign: bool = False) -> bytes:
    subject, public = retag(0xA5, seq(cmc_name())), retag(0xA6, cmc.spki(key))
    controls = seq(seq(oid(cmc.POP_LINK_WITNESS_V2), _witness())) if link else b""
    request = seq(integer(REQUEST), seq(subject, public), *([controls] if controls else []))
    if sign:
        proof = bytes(core.OctetBitString(cmc.signature(key, request)).dump())
        pop = retag(0xA1, seq(seq(oid(cmc.ECDSA["sha256"])), proof))
    return seq(request, *([pop] if pop else []))


def cmc_name() -> bytes:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dev1")]).public_bytes()


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
                link = {cmc.POP_LINK_WITNESS_V2: _witness()} if signs == "secret" else {}
                attributes = {**(challenge if octets_of_it else {}), **link}
                requests = [tcr(REQUEST, make_request(subject=cmc_name(), names=None, key=key, attributes=attributes))]
                sender = Sender(signs, http)
                data = pki_data(stage.claims(sender, requests), requests)
                status = await stage.posted(sender, signed(data, await stage.signer(sender, key)))
                refused = {"required": {"wrong", "none"}, "optional": {"wrong"}, "off": set()}[label]
                by_other_means = signs == "agent" or (signs == "secret" and binding == "none")
                right = 400 if binding in refused and not by_other_means else 200
                assert status.status == right, (signs, binding, status.text)
    await database.close()
