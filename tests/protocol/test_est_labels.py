"""What opens one label opens no other: every credential at every operation, at its own label and at its twin's.

The lesson is CVE-2025-44005's: what one provisioner vouches for reached another. The two labels are alike in everything (profile, CA, names of
users, rules), so that nothing but the label keeps them apart. Each cell is tried at home first: a refusal of what never works proves nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from est.digest import Nonces
from est.endpoint import Agents, Authentication, ClientCertificates, EstEndpoint, RegistrationKey
from est.secrets import DigestLogin
from issuance.cmc_secrets import CmcSecrets
from issuance.credentials import Credentials
from issuance.crl import PublishedCrls
from issuance.digests import Digests
from issuance.lockout import Lockouts
from issuance.sealed import SealedSecrets
from pki.sealing import Sealer
from policy.rules import Policy
from storage.database import Database
from tests.helpers import cmc
from tests.helpers.authorities import CMC_RA, Authority, ec_key, purposes
from tests.helpers.clock import FakeClock
from tests.helpers.cmc import SignerOf, csr, pki_data, signed, tcr
from tests.helpers.cmc_world import CA, RA, RA_KEY
from tests.helpers.est import TestSigner
from tests.helpers.est_world import EstWorld, Reply, alternative_names, make_request, renewal_csr
from tests.helpers.keygen import AES256_WRAP, keygen_csr, to_shared_key
from tests.helpers.profiles import device
from tests.helpers.scep import integer, octets

LABELS = ("a", "b")
USER, REALM, IDENTIFICATION, KEY_ID = "printer-7", "estrealm", "router-7", b"line-7"
ROLES = frozenset({"device"})
EVERYTHING = Policy("everything", ROLES, frozenset({"device"}), ("*.example.com",), ("*",))
SEALING_KEY = b"s" * 32
MAKERS = {label: Authority(f"Maker {label}") for label in LABELS}
OFFICES = {label: Authority(f"Office {label}") for label in LABELS}


def endpoint(label: str) -> EstEndpoint:
    return EstEndpoint(
        label,
        "device",
        (CA.certificate.public_bytes(Encoding.DER),),
        issuer="issuing",
        authenticate=frozenset(Authentication),
        realm=REALM,
        client_certificates=ClientCertificates(anchors=(MAKERS[label].der,), roles=ROLES, enroll=True),
        agents=Agents((OFFICES[label].der,), ROLES),
        server_keygen=True,
        full_cmc=True,
        registration_key=RegistrationKey("ra/est", RA.public_bytes(Encoding.DER)),
    )


class Twins:
    """Two labels, and what opens each: by label."""

    def __init__(self, database: Database, clock: FakeClock) -> None:
        lockouts = Lockouts(database=database, clock=clock)
        self.sealed = SealedSecrets(database=database, clock=clock, sealer=Sealer([SEALING_KEY]))
        self.credentials = Credentials(database=database, clock=clock, lockouts=lockouts)
        self.digests = Digests(database=database, clock=clock, sealed=self.sealed, lockouts=lockouts)
        self.tokens: dict[str, str] = {}
        self.own: dict[str, bytes] = {}
        self.world = EstWorld(
            database,
            clock,
            endpoints=[endpoint(label) for label in LABELS],
            ca=CA,
            policies=[EVERYTHING],
            profiles=[device(server_keygen=True)],
            serving={
                "credentials": self.credentials,
                "digest": DigestLogin(self.digests, Nonces([SEALING_KEY]), clock),
                "keys": self.sealed,
                "crls": PublishedCrls(database),
                "cmc_secrets": CmcSecrets(database=database, clock=clock, sealed=self.sealed, lockouts=lockouts),
                "signer": TestSigner(RA_KEY),
            },
        )

    async def provision(self) -> None:
        for label in LABELS:
            password = self.password(label)
            digest = self.digests.step(endpoint=label, user=USER, realm=REALM, password=password)
            await self.credentials.set_est_user(
                endpoint=label, user=USER, password=password, roles=ROLES, profile="", digest=digest
            )
            self.tokens[label] = await self.credentials.create_est_token(
                endpoint=label, roles=ROLES, profile="", expires_at=None
            )
            await self.sealed.set_cmc_secret(
                endpoint=label,
                identification=IDENTIFICATION,
                roles=ROLES,
                profile="",
                expires_at=None,
                secret=self.password(label),
            )
            await self.sealed.set_key(endpoint=label, key_id=KEY_ID + label.encode(), expires_at=None, key=bytes(32))
            self.own[label] = await self.world.enrolled(
                label, common_name="dev1", principal=replace(self.world.issuing.request().principal, roles=ROLES)
            )

    def password(self, label: str) -> str:
        return f"the password of {label}, long enough"

    def agent(self, of: str) -> bytes:
        return OFFICES[of].leaf("clerk", purposes(CMC_RA))

    async def post(self, operation: str, body: bytes, label: str, **headers: str) -> Reply:
        kind = "application/pkcs7-mime; smime-type=CMC-request" if operation == "fullcmc" else "application/pkcs10"
        return await self.world.post(operation, base64.b64encode(body), {"Content-Type": kind, **headers}, label=label)

    async def intents(self) -> int:
        [row] = await self.world.issuing.rows("SELECT count(*) AS n FROM issuance")
        return int(row["n"])


@pytest.fixture
async def twins(database: Database, clock: FakeClock) -> AsyncIterator[Twins]:
    twins = Twins(database, clock)
    async with twins.world:
        await twins.provision()
        yield twins


# ---------------------------------------------------------------------- whose credential, at which label

Headers = Callable[[Twins, str, str, str], Awaitable[dict[str, str]]]  # operation, whose it is, where it is shown


async def _basic(twins: Twins, operation: str, of: str, at: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{USER}:{twins.password(of)}".encode()).decode()}


async def _token(twins: Twins, operation: str, of: str, at: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {twins.tokens[of]}"}


async def _digest(twins: Twins, operation: str, of: str, at: str) -> dict[str, str]:
    """With a challenge of the label where it is shown."""
    challenge = (await twins.post("simpleenroll", b"", at)).headers["WWW-Authenticate"]
    nonce, uri = re.findall('nonce="([^"]*)"', challenge)[0], f"/.well-known/est/{at}/{operation}"
    secret, asked = _md5(f"{USER}:{REALM}:{twins.password(of)}"), _md5(f"POST:{uri}")
    response = _md5(f"{secret}:{nonce}:00000001:c:auth:{asked}")
    return {
        "Authorization": f'Digest username="{USER}", realm="{REALM}", nonce="{nonce}", uri="{uri}", cnonce="c", '
        f'nc=00000001, qop=auth, response="{response}"'
    }


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _chain(*certificates: bytes) -> dict[str, str]:
    return {"X-Test-Chain": ",".join(base64.b64encode(one).decode() for one in certificates)}


async def _own_certificate(twins: Twins, operation: str, of: str, at: str) -> dict[str, str]:
    return _chain(twins.own[of])


async def _device(twins: Twins, operation: str, of: str, at: str) -> dict[str, str]:
    return _chain(MAKERS[of].idevid())


async def _agent(twins: Twins, operation: str, of: str, at: str) -> dict[str, str]:
    return _chain(twins.agent(of))


def _message(number: int) -> bytes:
    """Signed with the key of its own request: HTTP or TLS says who sends it."""
    key = ec_key("cmc subscriber")
    return signed(pki_data([cmc.control(2, cmc.TRANSACTION_ID, integer(number))], [tcr(1, csr(key))]), SignerOf(key))


def _body(twins: Twins, operation: str, of: str, number: int) -> bytes:
    match operation:
        case "fullcmc":
            return _message(number)
        case "serverkeygen":
            return keygen_csr(common_name="dev1")
        case _:
            return renewal_csr(twins.own[of])


BY_TRANSPORT: Mapping[str, tuple[Headers, tuple[str, ...]]] = {
    "a password": (_basic, ("simpleenroll", "serverkeygen", "fullcmc")),
    "a Digest answer": (_digest, ("simpleenroll", "serverkeygen", "fullcmc")),
    "a token": (_token, ("simpleenroll", "serverkeygen", "fullcmc")),
    "a certificate of the label": (_own_certificate, ("simpleenroll", "simplereenroll", "serverkeygen", "fullcmc")),
    "a manufacturer's certificate": (_device, ("simpleenroll", "serverkeygen", "fullcmc")),
    "an agent's certificate": (_agent, ("simpleenroll", "simplereenroll", "serverkeygen", "fullcmc")),
}


@pytest.mark.parametrize(
    ("what", "operation"),
    [
        pytest.param(what, operation, id=f"{what} at {operation}")
        for what, (_, operations) in BY_TRANSPORT.items()
        for operation in operations
    ],
)
async def test_what_opens_one_label_opens_no_operation_of_its_twin(twins: Twins, what: str, operation: str) -> None:
    headers, _ = BY_TRANSPORT[what]
    for number, (of, at) in enumerate(((of, at) for of in LABELS for at in LABELS), 1):
        before = await twins.intents()
        reply = await twins.post(operation, _body(twins, operation, of, number), at, **await headers(twins, operation, of, at))
        if of == at:
            assert reply.status == 200, reply.text
            assert await twins.intents() == before + 1
        else:
            assert reply.status in {401, 403}, reply.text
            assert await twins.intents() == before
            assert not (reply.status == 401 and reply.text), "a 401 has no body"


# ---------------------------------------------------------------------- messages that carry their own proof

Message = Callable[[Twins, str], bytes]  # whose it is


def _signed_by_holder(twins: Twins, of: str) -> bytes:
    held = x509.load_der_x509_certificate(twins.own[of])
    request = make_request(subject=held.subject.public_bytes(), names=alternative_names(held), key=ec_key("cmc subscriber"))
    return signed(pki_data(requests=[tcr(1, request)]), SignerOf(ec_key("subscriber"), held))


def _signed_by_device(twins: Twins, of: str) -> bytes:
    certificate = x509.load_der_x509_certificate(MAKERS[of].idevid())
    return signed(pki_data(requests=[tcr(1, csr(ec_key("cmc subscriber")))]), SignerOf(ec_key("leaf"), certificate))


def _signed_by_agent(twins: Twins, of: str) -> bytes:
    return signed(pki_data(requests=[tcr(1, csr(ec_key("cmc subscriber")))]), _clerk(twins, of))


def _clerk(twins: Twins, of: str) -> SignerOf:
    return SignerOf(ec_key("leaf"), x509.load_der_x509_certificate(twins.agent(of)))


def _by_shared_secret(twins: Twins, of: str) -> bytes:
    key, random, secret = ec_key("cmc subscriber"), b"R" * 64, twins.password(of).encode()
    requests = [tcr(1, csr(key, link=(secret, random)))]
    controls = [
        cmc.control(901, cmc.IDENTIFICATION, cmc.text(IDENTIFICATION)),
        cmc.control(902, cmc.IDENTITY_PROOF_V2, cmc.identity_proof(secret, IDENTIFICATION, requests)),
        cmc.control(903, cmc.POP_LINK_RANDOM, octets(random)),
    ]
    return signed(pki_data(controls, requests), SignerOf(key))


@pytest.mark.parametrize("message", [_signed_by_holder, _signed_by_device, _signed_by_agent, _by_shared_secret])
async def test_a_message_that_proves_itself_to_one_label_proves_nothing_to_its_twin(twins: Twins, message: Message) -> None:
    for of in LABELS:
        [twin] = set(LABELS) - {of}
        for at in (twin, of):
            before = await twins.intents()
            reply = await twins.post("fullcmc", message(twins, of), at)
            assert (reply.status, await twins.intents()) == ((200, before + 1) if of == at else (403, before)), reply.text


async def test_an_agent_of_one_label_neither_fetches_nor_revokes_what_its_twin_has_issued(twins: Twins) -> None:
    """Same CA, same issuer name: only the ledger knows which label it was."""
    for of in LABELS:
        [other] = set(LABELS) - {of}
        theirs = x509.load_der_x509_certificate(twins.own[other])
        issuer, serial = theirs.issuer.public_bytes(), theirs.serial_number
        for kind, value in (
            (cmc.GET_CERT, cmc.get_cert(issuer, serial)),
            (cmc.REVOKE_REQUEST, cmc.revoke_request(issuer, serial)),
        ):
            reply = await twins.post("fullcmc", signed(pki_data([cmc.control(5, kind, value)]), _clerk(twins, of)), of)
            assert reply.status == 400
            assert cmc.read_reply(reply.text.encode(), by=RA).about(5).fail_info == 4  # badCertId
    assert await twins.world.issuing.rows("SELECT serial FROM revocation") == []


async def test_the_shared_secret_of_one_label_revokes_nothing_at_its_twin(twins: Twins) -> None:
    """§6.11, unsigned: the secret is all that speaks for it."""
    reply = await twins.post("fullcmc", _by_shared_secret(twins, "a"), "a")
    made = cmc.read_reply(reply.text.encode()).certificate_of(ec_key("cmc subscriber"))
    secret = twins.password("a").encode()
    value = cmc.revoke_request(made.issuer.public_bytes(), made.serial_number, secret=secret)
    message = signed(pki_data([cmc.control(5, cmc.REVOKE_REQUEST, value)]), cmc.Unsigned())
    assert (await twins.post("fullcmc", message, "b")).status >= 400
    assert await twins.world.issuing.rows("SELECT serial FROM revocation") == []
    assert (await twins.post("fullcmc", message, "a")).status == 200


async def test_a_nonce_of_one_label_counts_nothing_at_its_twin(twins: Twins) -> None:
    transaction, fresh = cmc.control(2, cmc.TRANSACTION_ID, integer(77)), cmc.control(4, cmc.SENDER_NONCE, octets(b"n" * 16))
    first = signed(pki_data([transaction, fresh], [tcr(1, csr(ec_key("cmc subscriber")))]), _clerk(twins, "a"))
    [nonce] = cmc.read_reply((await twins.post("fullcmc", first, "a")).text.encode(), by=RA).controls[cmc.SENDER_NONCE]
    echoed = [transaction, fresh, cmc.control(3, cmc.RECIPIENT_NONCE, nonce)]
    for at, status in (("b", 400), ("a", 200)):
        message = signed(pki_data(echoed, [tcr(1, csr(ec_key("another subscriber")))]), _clerk(twins, at))
        assert (await twins.post("fullcmc", message, at)).status == status


@pytest.mark.parametrize("at", LABELS)
async def test_a_key_is_encrypted_to_the_labels_own_keys_only(twins: Twins, at: str) -> None:
    for of in LABELS:
        before = await twins.intents()
        body = keygen_csr(common_name="dev1", attributes=to_shared_key(KEY_ID + of.encode(), AES256_WRAP))
        reply = await twins.post("serverkeygen", body, at, **await _basic(twins, "serverkeygen", at, at))
        assert reply.status == (200 if of == at else 400), reply.text
        assert await twins.intents() == before + (of == at)


def test_the_table_has_every_way_to_be_somebody() -> None:
    """Whoever adds one to Authentication or to the roles of certificates comes here."""
    assert {each.value for each in Authentication} == {"basic", "digest", "bearer", "certificate"}
    assert set(BY_TRANSPORT) >= {"a password", "a Digest answer", "a token"}
    covered: Any = {operation for _, operations in BY_TRANSPORT.values() for operation in operations}
    assert covered == {"simpleenroll", "simplereenroll", "serverkeygen", "fullcmc"}
