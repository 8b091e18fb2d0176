"""Everybody who may come to a label by CMC, and what they may send: for tables of who may do what.

stage = Stage(world, "default")
await stage.open()
found = await stage.verdict(Sender("own key", tls="agent"), "PKCS#10", "revoke somebody's")
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from asn1crypto import core
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from issuance.credentials import Credential, CredentialKind
from issuance.request import BasicPassword, SharedSecret
from pki.reasons import RevocationReason
from policy.principal import Principal, PrincipalKind
from tests.helpers import cmc
from tests.helpers.authorities import Authority, ec_key
from tests.helpers.cmc import SignerOf, Unsigned, control, crm, pki_data, read_reply, signed, tcr
from tests.helpers.cmc_world import CA, RA, ROLES, SECRET, CmcWorld
from tests.helpers.est_world import Reply
from tests.helpers.scep import children, integer, octets, oid, retag, self_signed, seq

REQUEST, ACTION = 1, 5  # body parts
SUCCESS = 0
OWN = "default"  # the label that everybody with a password, a token or a secret belongs to
ISSUER = CA.certificate.subject.public_bytes()
STRANGERS = Authority("Strangers")


@dataclass(frozen=True)
class Sender:
    """`signs`: with whose key. `http`: whose credentials. `tls`: whose certificate is presented. Certificates: see `certificate_of`."""

    signs: str
    http: str = ""
    tls: str = ""

    def __str__(self) -> str:
        return ", ".join(part for part in (self.signs, self.http, self.tls and f"{self.tls} by TLS") if part)


@dataclass(frozen=True)
class Verdict:
    """`said`: body part -> (status, failInfo); nothing is said of what is not there."""

    http: int
    said: Mapping[int, tuple[int, int | None]] = field(default_factory=dict)
    certificates: int = 0
    revoked: frozenset[str] = frozenset()


def has_certificate(sender: Sender) -> bool:
    """Whether "mine" is a certificate of this label."""
    return "holder" in {sender.signs, sender.tls}


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
                return control(ACTION, cmc.POP_LINK_WITNESS_V2, link_witness())
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


def link_witness() -> bytes:
    return cmc.mac_proof(hashlib.sha256(SECRET.encode()).digest(), b"R" * 64)


def _crmf(key: ec.EllipticCurvePrivateKey, *, link: bool, pop: bytes = b"", sign: bool = False) -> bytes:
    subject, public = retag(0xA5, seq(name_of_dev1())), retag(0xA6, cmc.spki(key))
    controls = seq(seq(oid(cmc.POP_LINK_WITNESS_V2), link_witness())) if link else b""
    request = seq(integer(REQUEST), seq(subject, public), *([controls] if controls else []))
    if sign:
        proof = bytes(core.OctetBitString(cmc.signature(key, request)).dump())
        pop = retag(0xA1, seq(seq(oid(cmc.ECDSA["sha256"])), proof))
    return seq(request, *([pop] if pop else []))


def name_of_dev1() -> bytes:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dev1")]).public_bytes()
