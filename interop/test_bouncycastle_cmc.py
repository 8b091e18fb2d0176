"""Full CMC (RFC 5272) with BouncyCastle at the other end: it writes the PKIData, reads the PKIResponse and verifies its signature."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from interop.bouncycastle import java, needs_bouncycastle
from interop.est import EstSite, agent
from interop.support import P256, RSA, make_csr, needs, pem_certificates, shell, verify

pytestmark = [*needs_bouncycastle(), needs("curl", "openssl", package="curl, openssl")]

LABEL = "cmc"
# RFC 5273 §3 and RFC 7030 §4.3: base64 over https, both ways.
POST = """
openssl base64 -in request.der | curl -sS --cacert $CA $LOGIN -H 'Content-Type: application/pkcs7-mime; smime-type=CMC-request' \\
    --data-binary @- -D headers -w '%{http_code}' -o body $EST_URL/fullcmc
openssl base64 -d -in body -out response.der
"""
NONCE = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: str
    lines: list[str]  # interop/java/Response.java

    def values(self, word: str) -> list[str]:
        return [line.partition(" ")[2] for line in self.lines if line.split()[0] == word]

    @property
    def verdicts(self) -> list[str]:
        """Each CMCStatusInfoV2: status, body parts and failInfo, without the text."""
        return [" ".join(line.split()[:3]) for line in self.values("status")]


class Cmc:
    def __init__(self, est: EstSite, classes: Path, home: Path) -> None:
        self.est = est
        self.home = home
        self._classes = classes

    def ask(self, *words: str | Path, secret: str = "", revocation_secret: str = "") -> Reply:
        self.write(*words, secret=secret, revocation_secret=revocation_secret)
        return self.send()

    def write(self, *words: str | Path, secret: str = "", revocation_secret: str = "") -> None:
        """`words` as PkiData.java has them."""
        secrets = {"CMC_SECRET": secret, "REVOCATION_SECRET": revocation_secret}
        environment = {name: value for name, value in secrets.items() if value}
        java(self._classes, "PkiData", self.home / "request.der", *words, home=self.home, env=environment)

    def send(self, login: str = "") -> Reply:
        names = {"CA": str(self.est.root), "EST_URL": self.est.url(LABEL), "LOGIN": login}
        status = int(shell(POST, home=self.home, env=names))
        read = java(self._classes, "Response", self.home / "response.der", "--out", self.home / "got.pem", home=self.home)
        return Reply(status, (self.home / "headers").read_text().lower(), read.stdout.decode().splitlines())

    def leaves(self, *names: str) -> dict[str, Path]:
        """What came for each of these names, a file each."""
        found = {}
        for number, certificate in enumerate(pem_certificates(self.home / "got.pem")):
            file = self.home / f"got-{number}.pem"
            file.write_text(certificate)
            subject = self.est.shows(file, home=self.home)["subject"].replace(" ", "").removeprefix("CN=")
            if subject in names:
                assert subject not in found
                found[subject] = file
        assert set(found) == set(names), self.home
        return found


@pytest.fixture
def cmc(est: EstSite, classes: Path, home: Path) -> Cmc:
    agent(est, home=home)
    return Cmc(est, classes, home)


def request(home: Path, stem: str, key: tuple[str, ...] = P256) -> str:
    """STEM.csr and STEM.key for a name of its own, which is returned."""
    name = f"cmc-{stem}.example.com"
    make_csr(home, stem, cn=name, names=[name], key=key)
    return name


def signed_by_us(reply: Reply) -> None:
    [signer] = reply.values("signer")
    assert signer.endswith(" valid")
    assert reply.values("content") == ["1.3.6.1.5.5.7.12.3"]  # id-cct-PKIResponse


@pytest.mark.parametrize("kind", ["tcr", "crm"])
@pytest.mark.parametrize("key", [P256, RSA], ids=["P-256", "RSA"])
def test_an_agent_enrols_for_somebody(cmc: Cmc, home: Path, kind: str, key: tuple[str, ...]) -> None:
    name = request(home, "device", key)
    reply = cmc.ask("--transaction", "4711", "--nonce", NONCE, f"--{kind}", "device", "--agent", "agent")
    assert (reply.status, reply.verdicts) == (200, ["success 3"])
    signed_by_us(reply)
    # RFC 5272 §6.6: the transaction is echoed, and the sender's nonce comes back as the recipient's.
    assert (reply.values("transactionId"), reply.values("recipientNonce")) == (["4711"], [NONCE])
    assert reply.values("senderNonce") != [NONCE]
    assert "content-type: application/pkcs7-mime; smime-type=cmc-response" in reply.headers
    verify(cmc.est.hold(cmc.leaves(name)[name], home=home), purpose="sslclient", names=[name])


def test_several_requests_in_one_message_get_a_certificate_each(cmc: Cmc, home: Path) -> None:
    names = [request(home, "one"), request(home, "two", RSA), request(home, "three")]
    reply = cmc.ask("--nonce", NONCE, "--tcr", "one", "--crm", "two", "--tcr", "three", "--agent", "agent")
    assert reply.status == 200
    signed_by_us(reply)
    for name, leaf in cmc.leaves(*names).items():
        verify(cmc.est.hold(leaf, home=home), purpose="sslclient", names=[name])


def test_without_controls_the_answer_is_a_simple_one(cmc: Cmc, home: Path) -> None:
    # RFC 5272 §4.1: "the Simple PKI Response ... when only certificates are returned"
    name = request(home, "device")
    reply = cmc.ask("--tcr", "device", "--agent", "agent")
    assert (reply.status, reply.values("signer"), reply.values("status")) == (200, [], [])
    verify(cmc.est.hold(cmc.leaves(name)[name], home=home), purpose="sslclient", names=[name])


def test_a_certificate_of_this_label_signs_its_own_renewal(cmc: Cmc, home: Path) -> None:
    name = request(home, "device")
    cmc.ask("--tcr", "device", "--agent", "agent")
    (home / "old.pem").write_bytes(cmc.leaves(name)[name].read_bytes())
    (home / "old.key").write_bytes((home / "device.key").read_bytes())
    request(home, "device")
    reply = cmc.ask("--transaction", "1", "--tcr", "device", "--agent", "old")
    assert (reply.status, reply.verdicts) == (200, ["success 2"])
    signed_by_us(reply)
    assert cmc.est.shows(cmc.leaves(name)[name], home=home) != cmc.est.shows(home / "old.pem", home=home)


def test_an_agent_that_is_none_gets_a_signed_refusal(cmc: Cmc, home: Path) -> None:
    name = request(home, "device")
    cmc.ask("--tcr", "device", "--agent", "agent")
    (home / "other.pem").write_bytes(cmc.leaves(name)[name].read_bytes())
    (home / "other.key").write_bytes((home / "device.key").read_bytes())
    make_csr(home, "stranger", cn="cmc-somebody-else", names=["somebody-else.example.com"])
    reply = cmc.ask("--transaction", "2", "--tcr", "stranger", "--agent", "other")
    assert reply.status in {400, 403}
    signed_by_us(reply)
    [verdict] = reply.values("status")
    assert verdict.startswith("failed "), verdict
    assert not reply.values("certificate") or "somebody-else" not in " ".join(reply.values("certificate"))


def test_an_unknown_control_is_refused_and_named(cmc: Cmc, home: Path) -> None:
    # RFC 5272 §6.1.3: "noSupport ... the requested operation is not supported"
    request(home, "device")
    reply = cmc.ask("--unknown", "1.3.6.1.4.1.32473.1", "--tcr", "device", "--agent", "agent")
    signed_by_us(reply)
    assert "certificate CN=cmc-device.example.com" not in "\n".join(reply.lines)
    assert any(verdict.split()[0] in {"noSupport", "failed"} for verdict in reply.verdicts), reply.lines


def test_an_agent_fetches_and_revokes_what_was_issued(cmc: Cmc, home: Path) -> None:
    name = request(home, "device")
    cmc.ask("--tcr", "device", "--agent", "agent")
    leaf = home / "target.pem"
    leaf.write_bytes(cmc.leaves(name)[name].read_bytes())
    fetched = cmc.ask("--getCert", leaf, "--agent", "agent")
    assert fetched.status == 200, fetched.lines
    assert pem_certificates(leaf)[0] in pem_certificates(home / "got.pem")
    revoked = cmc.ask("--transaction", "3", "--revoke", leaf, "--agent", "agent")
    signed_by_us(revoked)
    assert (revoked.status, revoked.verdicts) == (200, ["success 2"]), revoked.lines
    again = cmc.ask("--transaction", "4", "--revoke", leaf, "--agent", "agent")
    signed_by_us(again)


def test_a_key_that_cannot_sign_proves_itself_by_decrypting(cmc: Cmc, home: Path) -> None:
    # RFC 5272 §6.7: encryptedPOP, then decryptedPOP
    name = request(home, "device", RSA)
    asked = cmc.ask("--transaction", "5", "--nonce", NONCE, "--crm-silent", "device", "--agent", "agent")
    signed_by_us(asked)
    assert asked.verdicts[0].startswith("popRequired"), asked.lines
    (home / "challenge.der").write_bytes((home / "response.der").read_bytes())
    [nonce] = asked.values("senderNonce")
    # First, for the request keeps its body part: the others get those that are left.
    words = ["--pop", "challenge.der,device", "--transaction", "5", "--recipient", nonce, "--nonce", NONCE, "--agent", "agent"]
    answered = cmc.ask(*words)
    signed_by_us(answered)
    assert answered.status == 200, answered.lines
    verify(cmc.est.hold(cmc.leaves(name)[name], home=home), purpose="sslclient", names=[name])


@pytest.mark.parametrize("kind", ["tcr", "crm"])
@pytest.mark.parametrize("key", [P256, RSA], ids=["P-256", "RSA"])
def test_a_shared_secret_enrols_who_signs_with_the_new_key(cmc: Cmc, home: Path, kind: str, key: tuple[str, ...]) -> None:
    # RFC 5272 §6.2.1 identityProofV2, §6.3.1.1 popLinkWitnessV2 with popLinkRandom
    name = request(home, "device", key)
    who = f"router-{kind}-{key[0].partition(':')[0]}"
    secret = cmc.est.made("secret", "--identification", who, label=LABEL)
    reply = cmc.ask("--identification", who, "--transaction", "6", f"--{kind}", "device", "--by", "device", secret=secret)
    assert (reply.status, [verdict.split()[0] for verdict in reply.verdicts]) == (200, ["success"]), reply.lines
    signed_by_us(reply)
    verify(cmc.est.hold(cmc.leaves(name)[name], home=home), purpose="sslclient", names=[name])


def test_a_wrong_secret_is_refused_as_an_unknown_one_is(cmc: Cmc, home: Path) -> None:
    request(home, "device")
    secret = cmc.est.made("secret", "--identification", "router-right", label=LABEL)
    wrong = cmc.ask("--identification", "router-right", "--tcr", "device", "--by", "device", secret=secret + "x")
    unknown = cmc.ask("--identification", "router-nobody", "--tcr", "device", "--by", "device", secret=secret)
    for reply in (wrong, unknown):
        signed_by_us(reply)
        assert reply.status >= 400, reply.lines
    assert wrong.values("status") == unknown.values("status")
    assert "failInfo=7" in wrong.values("status")[0]  # badIdentity


def test_a_request_that_waits_is_asked_for_by_its_token(cmc: Cmc, home: Path) -> None:
    # RFC 5272 §6.1.1 pendInfo, §6.10 queryPending
    name = request(home, "device")
    secret = cmc.est.made("secret", "--identification", "patient", "--role", "waiting", label=LABEL)
    asked = cmc.ask("--identification", "patient", "--transaction", "7", "--tcr", "device", "--by", "device", secret=secret)
    signed_by_us(asked)
    [pending] = asked.values("status")
    assert pending.startswith("pending "), asked.lines
    [token] = re.findall(r"token=([0-9a-f]+)", pending)
    cmc.est.approve(name)
    # No request is in this message, so nobody could verify its key's signature: the proof of identity stands alone.
    answered = cmc.ask("--identification", "patient", "--transaction", "7", "--query", token, secret=secret)
    assert answered.status == 200, answered.lines
    verify(cmc.est.hold(cmc.leaves(name)[name], home=home), purpose="sslclient", names=[name])


OPENSSL = """
openssl cms -verify -noverify -inform der -in request.der -binary -out pkidata.der
openssl cms -sign -in pkidata.der -binary -nodetach -econtent_type 1.3.6.1.5.5.7.12.2 -signer agent.pem -inkey agent.key \
    -md sha256 -outform der -out request.der
"""
JUDGE = """
curl -sS --fail --cacert $CA $EST_URL/cacerts | openssl base64 -d | openssl pkcs7 -inform der -print_certs -out cacerts.pem
openssl cms -verify -inform der -in response.der -CAfile cacerts.pem -purpose any -binary -out pkiresponse.der
openssl cms -cmsout -print -noout -inform der -in response.der
"""


def test_openssl_signs_the_request_and_verifies_the_response(cmc: Cmc, home: Path) -> None:
    name = request(home, "device")
    cmc.write("--transaction", "8", "--tcr", "device", "--agent", "agent")
    shell(OPENSSL, home=home)
    reply = cmc.send()
    assert (reply.status, reply.verdicts) == (200, ["success 2"]), reply.lines
    printed = shell(JUDGE, home=home, env={"CA": str(cmc.est.root), "EST_URL": cmc.est.url(LABEL)}).decode()
    assert "eContentType: id-cct-PKIResponse" in printed
    verify(cmc.est.hold(cmc.leaves(name)[name], home=home), purpose="sslclient", names=[name])


def test_a_key_that_signs_for_itself_needs_a_password_over_http(cmc: Cmc, home: Path) -> None:
    # RFC 7030 §4.3.1: "the EST server ... authenticate the client" by the message, else as in simpleenroll
    name = request(home, "device")
    cmc.write("--transaction", "9", "--tcr", "device", "--by", "device")
    names = {"CA": str(cmc.est.root), "EST_URL": cmc.est.url(LABEL), "LOGIN": ""}
    assert shell(POST, home=home, env=names) == b"401"
    reply = cmc.send(f"-u {LABEL}:{cmc.est.password(LABEL)}")
    assert (reply.status, reply.verdicts) == (200, ["success 2"]), reply.lines
    assert cmc.leaves(name)


def test_who_has_the_secret_revokes_what_was_issued_on_it(cmc: Cmc, home: Path) -> None:
    # RFC 5272 §6.11: "sharedSecret"
    name = request(home, "device")
    secret = cmc.est.made("secret", "--identification", "revoker", label=LABEL)
    cmc.ask("--identification", "revoker", "--tcr", "device", "--by", "device", secret=secret)
    leaf = cmc.leaves(name)[name]
    guessed = cmc.ask("--transaction", "10", "--revoke-by-secret", leaf, revocation_secret=f"{secret}x")
    signed_by_us(guessed)
    assert guessed.verdicts[0].startswith("failed"), guessed.lines
    right = cmc.ask("--transaction", "11", "--revoke-by-secret", leaf, revocation_secret=secret)
    signed_by_us(right)
    assert (right.status, right.verdicts) == (200, ["success 2"]), right.lines


def test_an_agent_gets_the_newest_crl(cmc: Cmc, home: Path) -> None:
    name = request(home, "device")
    cmc.ask("--tcr", "device", "--agent", "agent")
    reply = cmc.ask("--getCRL", cmc.leaves(name)[name], "--agent", "agent")
    assert (reply.status, reply.values("crls")) == (200, ["1"]), reply.lines


def test_one_request_that_policy_refuses_does_not_cost_the_others(cmc: Cmc, home: Path) -> None:
    name = request(home, "device")
    make_csr(home, "weak", cn="weak", names=["weak.example.com"], key=("rsa:1024",))
    reply = cmc.ask("--transaction", "12", "--tcr", "weak", "--tcr", "device", "--agent", "agent")
    signed_by_us(reply)
    assert [verdict.split()[:2] for verdict in sorted(reply.verdicts)] == [["failed", "2"], ["success", "3"]], reply.lines
    assert set(cmc.leaves(name)) == {name}
