"""SCEP in front of the real pipeline and its database, without HTTP; and what clients do after their first message.

site = ScepSite(database, clock)
held = await site.enrolled("router", "router.example.com")
answer = await site.ask(renewal(site.ca, held, rsa_key("router")))
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

from asn1crypto import cms as asn1_cms
from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding

from issuance.approval_requests import State
from issuance.approvals import Verdict
from issuance.crl import PublishedCrls
from issuance.lockout import Lockouts
from pki.clock import Clock
from pki.reasons import RevocationReason
from policy.principal import COMMAND_LINE
from policy.profiles import Profile
from policy.rules import Policy
from scep import message
from scep.authority import Desk, RegistrationAuthority
from scep.authorization import Authorizer, ChallengeWay, StaticWay
from scep.endpoint import Renewal, ScepEndpoint, Way
from scep.enrolment import Enrolments, Standing
from scep.holders import Holders
from scep.retrieval import Retrieval
from scep.transactions import Transactions
from storage.database import Database
from tests.helpers import scep as other
from tests.helpers.issuing import Issuing
from tests.helpers.profiles import device
from tests.helpers.scep import SECRET, Answer, Message, ScepCa, csr, enveloped, name, parse_answer, rsa_key, seq
from tests.helpers.scep_simulators import KnownChallenges, SoftwareSigner
from tests.helpers.scep_world import ADDRESS, Counts

ROLES = frozenset({"device"})
POLICY = Policy("devices", ROLES, frozenset({"device", "changing"}), ("*.example.com",), ("*",))
PROFILES = (device(), replace(device(subject_change=True), name="changing"))
NAMES = ("dev1.example.com",)


class Kept:
    """Challenges whose makers stay."""

    async def stands(self, challenge_id: str, *, endpoint: str) -> bool:
        return True


class ScepSite:
    """Endpoints `default` and `other` with one challenge password each."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        policies: Sequence[Policy] = (POLICY,),
        profiles: Sequence[Profile] = PROFILES,
        ways: Mapping[Way, ChallengeWay] = MappingProxyType({}),
        standing: Standing = Kept(),  # noqa: B008  # it has no state
    ) -> None:
        self.database = database
        self.clock = clock
        self.ca = ScepCa()
        self.issuing = Issuing(database, clock, policies=policies, profiles=profiles)
        self.challenges = KnownChallenges({("default", SECRET), ("other", SECRET)})
        self.signer = SoftwareSigner(self.ca.ra_key)
        self.counts = Counts()
        self.transactions = Transactions(database=database, clock=clock)
        self.holders = Holders(register=self.issuing.issuance, profiles=self.issuing.rules.profiles, clock=clock)
        self.enrolments = Enrolments(
            issuance=self.issuing.issuance,
            authorizer=Authorizer(
                ways={Way.STATIC: StaticWay(self.challenges), **ways},
                lockouts=Lockouts(database=database, clock=clock),
                observer=self.counts,
            ),
            holders=self.holders,
            transactions=self.transactions,
            informed={},
            observer=self.counts,
            standing=standing,
        )

    def endpoint(self, name: str = "default", **changes: Any) -> ScepEndpoint:
        issuing = self.issuing.ca.certificate.public_bytes(Encoding.DER)
        base = replace(self.ca.endpoint(name=name), ca_certificates=(issuing,), renewal=Renewal(ROLES))
        return replace(base, **changes)

    def authority(self, endpoint: ScepEndpoint | None = None) -> RegistrationAuthority:
        desk = Desk(
            enrolments=self.enrolments,
            holders=self.holders,
            retrieval=Retrieval(register=self.issuing.issuance, crls=PublishedCrls(self.database), clock=self.clock),
            signer=self.signer,
            observer=self.counts,
            random_bytes=os.urandom,
        )
        return RegistrationAuthority(endpoint or self.endpoint(), desk)

    async def ask(self, request: Message, endpoint: ScepEndpoint | None = None) -> Answer:
        received = message.parse(request.encode())
        return parse_answer(await self.authority(endpoint).answer(received, source_address=ADDRESS))

    async def certificate(self, request: Message, endpoint: ScepEndpoint | None = None) -> x509.Certificate:
        return the_certificate(await self.ask(request, endpoint), request)

    async def enrolled(self, label: str, *names: str, endpoint: ScepEndpoint | None = None) -> x509.Certificate:
        """Of `rsa_key(label)`, whose common name is its label."""
        key = rsa_key(label)
        content = enveloped(csr(key, common_name=label, sans=names), self.ca.ra)
        return await self.certificate(Message(key=key, content=content, transaction_id=f"first {label}"), endpoint)

    async def decide(self, verdict: Verdict = Verdict.APPROVE, comment: str = "") -> None:
        """About the one that waits."""
        (one,) = await self.issuing.approvals.newest(state=State.PENDING)
        await self.issuing.approvals.decide(one.id, verdict, approver=COMMAND_LINE, by="alice", comment=comment)

    async def revoke(self, certificate: x509.Certificate) -> None:
        await self.issuing.issuance.revoke(
            issuer="issuing",
            serial=f"{certificate.serial_number:x}",
            reason=RevocationReason.SUPERSEDED,
            principal=COMMAND_LINE,
        )

    async def certificates(self) -> int:
        return len(await self.issuing.rows("SELECT serial FROM certificate"))


# ---------------------------------------------------------------- later messages of a client


class Encrypted(Protocol):
    """Whom clients encrypt to."""

    ra: x509.Certificate


def renewal(
    ca: Encrypted,
    held: x509.Certificate,
    key: rsa.RSAPrivateKey,
    *,
    message_type: str = "17",
    request: bytes | None = None,
    common_name: str = "dev1",
    sans: Sequence[str] = NAMES,
    challenge: str | None = None,
    transaction_id: str = "TX-2",
) -> Message:
    """Signed with `held`, whose key `key` is. `request` is the CSR, of the same key and names unless given."""
    asked = csr(key, common_name=common_name, sans=sans, challenge=challenge) if request is None else request
    return Message(
        key=key, signer=held, content=enveloped(asked, ca.ra), message_type=message_type, transaction_id=transaction_id
    )


def poll(ca: Encrypted, first: Message, **changes: Any) -> Message:
    """CertPoll for a message that was answered PENDING; with an IssuerAndSubject as sscep sends it."""
    inside = seq(name("Test RA").public_bytes(), name("dev1").public_bytes())
    return replace(first, **{"content": enveloped(inside, ca.ra), "message_type": "20", "nonce": b"p" * 16, **changes})


def by_issuer_and_serial(
    ca: Encrypted, held: x509.Certificate, key: rsa.RSAPrivateKey, message_type: str, inside: bytes
) -> Message:
    """GetCert (21) or GetCRL (22) as sscep sends it."""
    content = enveloped(inside, ca.ra)
    return Message(key=key, signer=held, content=content, message_type=message_type, transaction_id="SSCEP transactionId")


# ---------------------------------------------------------------- what is in a SUCCESS


@dataclass(frozen=True, slots=True)
class Contents:
    certificates: tuple[x509.Certificate, ...]
    crls: tuple[x509.CertificateRevocationList, ...]


def opened(answer: Answer, request: Message) -> Contents:
    """Decrypted with the key that signed the request, which the answer has to be for; read with asn1crypto."""
    assert answer.status == "0", answer.text
    key = request.key
    assert isinstance(key, rsa.RSAPrivateKey)
    data = asn1_cms.ContentInfo.load(answer.content, strict=True)["content"]
    (recipient,) = data["recipient_infos"]
    assert recipient.chosen["rid"].chosen["serial_number"].native == request.certificate().serial_number
    secret = key.decrypt(recipient.chosen["encrypted_key"].native, padding.PKCS1v15())
    info = data["encrypted_content_info"]
    identifier = info["content_encryption_algorithm"]["algorithm"].dotted
    iv = info["content_encryption_algorithm"]["parameters"].native
    block = next(block for oid, _, block in other.CIPHERS.values() if oid == identifier)
    algorithm = algorithms.AES(secret) if block == 16 else TripleDES(secret * 3 if len(secret) == 8 else secret)
    context = Cipher(algorithm, modes.CBC(iv)).decryptor()
    padded = context.update(info["encrypted_content"].native) + context.finalize()
    inner = asn1_cms.ContentInfo.load(padded[: -padded[-1]], strict=True)["content"]
    certificates = inner["certificates"] if inner["certificates"].native else ()
    crls = inner["crls"] if inner["crls"].native else ()
    return Contents(
        tuple(x509.load_der_x509_certificate(each.chosen.dump()) for each in certificates),
        tuple(x509.load_der_x509_crl(each.chosen.dump()) for each in crls),
    )


def the_certificate(answer: Answer, request: Message) -> x509.Certificate:
    contents = opened(answer, request)
    assert contents.crls == ()
    (certificate,) = contents.certificates
    return certificate
