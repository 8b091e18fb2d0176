"""Whose certificates a SCEP client is shown, and that what it does with them works: CAs of every kind of key, with a registration
authority in one certificate or two, in a file or in a token, or none; and the CA that follows (RFC 8894 §4.2, §4.7).

`openssl` is the judge of every signature, and decrypts every answer.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from asn1crypto import cms as asn1_cms
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import pkcs7

from pki.cms.transport import KeyTransport
from tests.helpers.scep import (
    HASH_OIDS,
    NULL,
    Message,
    csr,
    enveloped,
    explicit,
    key_pem,
    oid,
    opened_certificates,
    openssl,
    parse_answer,
    retag,
    rsa_key,
    seq,
)
from tests.helpers.scep_cas import CHALLENGE, ScepCas
from tests.helpers.server import Server
from tests.helpers.softhsm import SoftHsm

SINGLE, SEVERAL, NEXT = (f"application/x-x509-{kind}-cert" for kind in ("ca", "ca-ra", "next-ca"))


@dataclass(frozen=True, slots=True)
class Site:
    server: Server
    cas: ScepCas

    def get(self, endpoint: str, operation: str) -> tuple[int, str, bytes]:
        url = f"{self.server.http_url}/scep/{endpoint}?operation={operation}"
        try:
            with urllib.request.urlopen(url, timeout=20) as reply:
                return reply.status, reply.headers["Content-Type"], reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read()

    def post(self, endpoint: str, message: bytes) -> bytes:
        url = f"{self.server.http_url}/scep/{endpoint}?operation=PKIOperation"
        with urllib.request.urlopen(urllib.request.Request(url, data=message), timeout=20) as reply:
            return bytes(reply.read())

    def shown(self, endpoint: str) -> list[x509.Certificate]:
        status, content_type, body = self.get(endpoint, "GetCACert")
        assert status == 200
        if content_type == SINGLE:
            return [x509.load_der_x509_certificate(body)]
        assert content_type == SEVERAL
        return pkcs7.load_der_pkcs7_certificates(body)

    def named(self, *names: str) -> set[x509.Certificate]:
        return {self.cas.made[name].certificate for name in names}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("scep-cas") / "certwright"
    token = SoftHsm.create(directory.parent / "hsm")
    cas = ScepCas(directory, token)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in token.environment.items():
            patch.setenv(name, value)
        with Server(directory=directory, edit=cas.edit) as server:
            cas.set_challenges(server)
            yield Site(server, cas)


def bits(certificate: x509.Certificate) -> set[str]:
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    return {bit for bit in ("digital_signature", "key_encipherment", "key_cert_sign") if getattr(usage, bit)}


def to_encrypt_to(shown: list[x509.Certificate]) -> x509.Certificate:
    """As clients choose: by key usage alone, which has to leave one only."""
    (found,) = (one for one in shown if "key_encipherment" in bits(one))
    return found


ENROLLING = ["default", "own", "own-chain", "curve", "edwards", "split", "hsm"]


def test_each_endpoint_shows_its_own_in_the_form_of_their_number(site: Site) -> None:
    """§4.2.1.1: the CA alone is a certificate as it is; §4.2.1.2: with anybody else, a certs-only message."""
    assert site.get("own", "GetCACert")[1] == SINGLE
    shown = {endpoint: set(site.shown(endpoint)) for endpoint in ENROLLING}
    assert shown["own"] == site.named("own")
    assert shown["own-chain"] == site.named("own", "root")
    assert shown["curve"] == site.named("curve-ra", "curve", "root")
    assert shown["edwards"] == site.named("edwards-ra", "edwards")
    assert shown["split"] == site.named("signs", "opens", "devices", "root")
    assert shown["hsm"] == site.named("hsm", "devices", "root")


def test_no_ca_beside_a_registration_authority_looks_as_if_one_could_encrypt_to_it(site: Site) -> None:
    for endpoint in ENROLLING:
        chosen = to_encrypt_to(site.shown(endpoint))
        assert ("key_cert_sign" in bits(chosen)) is endpoint.startswith("own"), endpoint


@pytest.mark.parametrize("endpoint", [each for each in ENROLLING if each != "default"])
def test_a_client_that_goes_by_what_it_is_shown_gets_its_certificate(site: Site, tmp_path: Path, endpoint: str) -> None:
    shown = site.shown(endpoint)
    device = rsa_key("device")
    request = Message(
        key=device,
        content=enveloped(csr(device, challenge=CHALLENGE, common_name=endpoint), to_encrypt_to(shown), cipher="aes-256-cbc"),
        transaction_id=f"TX-{endpoint}",
    )
    reply = site.post(endpoint, request.encode())
    chain = tmp_path / "chain.pem"
    chain.write_bytes(b"".join(site.cas.made[ca].pem for ca in ("root", "devices", "own", "curve", "edwards")))
    verify = ("cms", "-verify", "-inform", "der", "-CAfile", chain, "-purpose", "any", "-binary")
    answer = parse_answer(reply, openssl(*verify, stdin=reply))
    assert (answer.status, answer.fail_info) == ("0", None), answer.text
    signer = x509.load_der_x509_certificate(answer.bag[0])
    assert signer in shown
    assert "digital_signature" in bits(signer)
    (certificate,) = opened_certificates(answer, request, tmp_path)
    issuer = site.cas.made[{"own-chain": "own", "split": "devices", "hsm": "devices"}.get(endpoint, endpoint)].certificate
    certificate.verify_directly_issued_by(issuer)
    assert certificate.public_key() == device.public_key()


@pytest.mark.skipif(shutil.which("pki") is None, reason="strongswan-pki is not installed")
@pytest.mark.parametrize("endpoint", ["own", "curve", "edwards", "split"])
def test_strongswan_goes_by_what_it_is_given_too(site: Site, tmp_path: Path, endpoint: str) -> None:
    """A client of others, with each kind of CA: it verifies the chain of what it gets, and the signer that it was told."""
    signer, opener = {"own": ("own", "own"), "split": ("signs", "opens")}.get(endpoint, (f"{endpoint}-ra",) * 2)
    above = [site.cas.made["devices" if endpoint == "split" else endpoint].pem, site.cas.made["root"].pem]
    files = {"sig": site.cas.made[signer].pem, "enc": site.cas.made[opener].pem, "ca": above[0], "root": above[1]}
    for name, pem in {**files, "key": key_pem(rsa_key("swan"))}.items():
        (tmp_path / f"{name}.pem").write_bytes(pem)
    asked = ["--dn", f"O=Proto, CN=swan-{endpoint}", "--san", "swan.example.com", "--password", CHALLENGE, "--cipher", "aes"]
    trusted = ["--cacert-enc", "enc.pem", "--cacert-sig", "sig.pem", "--cacert", "ca.pem", "--cacert", "root.pem"]
    url = f"{site.server.http_url}/scep/{endpoint}"
    command = ["pki", "--scep", "--url", url, "--in", "key.pem", *asked, *trusted, "--digest", "sha256", "--outform", "pem"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr.decode()
    certificate = x509.load_pem_x509_certificate(done.stdout)
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(above[0]))


def test_a_ca_that_is_its_own_authority_signs_its_refusals_too(site: Site, tmp_path: Path) -> None:
    device, own = rsa_key("device"), site.cas.made["own"]
    refused = {
        "1": enveloped(b"no request", own.certificate),
        "2": enveloped(csr(device, challenge="another"), own.certificate),
        "0": enveloped(csr(device), own.certificate, cipher="des-ede3-cbc"),
    }
    anchor = tmp_path / "ca.pem"
    anchor.write_bytes(own.pem)
    verify = ("cms", "-verify", "-inform", "der", "-CAfile", anchor, "-partial_chain", "-purpose", "any", "-binary")
    for fail_info, content in refused.items():
        for digest in ("sha256", "sha512"):
            reply = site.post("own", Message(key=device, content=content, digest=digest).encode())
            answer = parse_answer(reply, openssl(*verify, stdin=reply))
            assert (answer.status, answer.fail_info, answer.digest) == ("2", fail_info, digest)


def test_what_is_encrypted_to_the_authority_that_only_signs_is_not_read(site: Site) -> None:
    device = rsa_key("device")
    to = site.cas.made["signs"].certificate
    request = Message(key=device, content=enveloped(csr(device, challenge=CHALLENGE), to), transaction_id="TX-signs")
    answer = parse_answer(site.post("split", request.encode()))
    assert (answer.status, answer.fail_info) == ("2", "1")
    assert answer.text is not None
    assert "encrypted to another certificate" in answer.text


@pytest.mark.parametrize(
    ("endpoint", "transport"),
    [
        ("split", KeyTransport.OAEP_SHA256),
        ("own", KeyTransport.OAEP_SHA512_MASK_SHA1),
        ("hsm", KeyTransport.OAEP_SHA1),
        ("hsm", KeyTransport.OAEP_SHA256),  # which SoftHSM2 2.6.1 does not do: it decrypts raw
    ],
    ids=lambda given: getattr(given, "value", given),
)
def test_oaep_is_read_with_a_key_in_a_file_and_in_a_token(site: Site, endpoint: str, transport: KeyTransport) -> None:
    device = rsa_key("device")
    content = enveloped(
        csr(device, challenge=CHALLENGE, common_name=f"oaep-{endpoint}"),
        to_encrypt_to(site.shown(endpoint)),
        transport="1.2.840.113549.1.1.7",
        transport_parameters=oaep_parameters(transport),
        scheme=transport.padding,
    )
    request = Message(key=device, content=content, transaction_id=f"TX-{transport.value}")
    answer = parse_answer(site.post(endpoint, request.encode()))
    assert answer.status == "0", answer.text


def oaep_parameters(transport: KeyTransport) -> bytes:
    assert transport.oaep is not None
    hashing, mask = (seq(oid(HASH_OIDS[digest.value]), NULL) for digest in transport.oaep)
    return seq(explicit(hashing, 0), explicit(seq(oid("1.2.840.113549.1.1.8"), mask), 1))


# ---------------------------------------------------------------- the CA that follows


def test_only_an_endpoint_whose_ca_has_a_successor_says_so(site: Site) -> None:
    for endpoint in ENROLLING:
        announces = endpoint in {"own", "own-chain", "curve", "edwards"}
        capabilities = site.get(endpoint, "GetCACaps")[2].decode().splitlines()
        assert ("GetNextCACert" in capabilities) is announces, endpoint
        assert (site.get(endpoint, "GetNextCACert")[0] == 200) is announces, endpoint
    status, content_type, body = site.get("split", "GetNextCACert")
    assert (status, content_type, body) == (404, "text/plain; charset=utf-8", b"there is no next CA certificate yet\n")


@pytest.mark.parametrize("endpoint", ["own", "curve", "edwards"])
def test_the_ca_that_follows_is_signed_by_the_ca_that_is(site: Site, tmp_path: Path, endpoint: str) -> None:
    """§4.7.1: "signed by the current CA signing key", whatever kind of key that is."""
    status, content_type, body = site.get(endpoint, "GetNextCACert")
    assert (status, content_type) == (200, NEXT)
    info = asn1_cms.ContentInfo.load(body, strict=True)["content"]
    if endpoint == "edwards":  # OpenSSL 3.0 verifies no Ed25519 in CMS
        content = verified_by_hand(info, site.cas.made[endpoint].certificate)
    else:
        signer = tmp_path / "ca.pem"
        signer.write_bytes(site.cas.made[endpoint].pem)
        # -partial_chain: the client trusts the CA that it got by GetCACert, not what is above it.
        verify = ("cms", "-verify", "-inform", "der", "-CAfile", signer, "-partial_chain", "-purpose", "any", "-binary")
        content = openssl(*verify, stdin=body)
    following = pkcs7.load_der_pkcs7_certificates(content)
    assert set(following) == site.named("next", "root", *(["next-ra"] if endpoint == "curve" else []))
    assert info["encap_content_info"]["content_type"].native == "data"
    assert [each.chosen.dump() for each in info["certificates"]] == [site.cas.made[endpoint].der]
    attributes = {each["type"].dotted for each in info["signer_infos"][0]["signed_attrs"]}
    assert attributes == {"1.2.840.113549.1.9.3", "1.2.840.113549.1.9.4"}


def verified_by_hand(data: asn1_cms.SignedData, signer: x509.Certificate) -> bytes:
    """RFC 8419 §3.1: SHA-512 over the content, Ed25519 over the attributes."""
    (info,) = data["signer_infos"]
    assert info["digest_algorithm"]["algorithm"].native == "sha512"
    assert info["signature_algorithm"]["algorithm"].native == "ed25519"
    public_key = signer.public_key()
    assert isinstance(public_key, ed25519.Ed25519PublicKey)
    public_key.verify(info["signature"].native, retag(0x31, info["signed_attrs"].dump()))
    content = bytes(data["encap_content_info"]["content"].native)
    digest = next(each["values"][0].native for each in info["signed_attrs"] if each["type"].native == "message_digest")
    assert digest == hashlib.sha512(content).digest()
    return content


def test_readers_of_pkcs7_get_at_the_ca_that_follows_too(site: Site, tmp_path: Path) -> None:
    """`openssl smime` is from before CMS, as the clients are that know of GetNextCACert."""
    signer = tmp_path / "ca.pem"
    signer.write_bytes(site.cas.made["own"].pem)
    verify = ("smime", "-verify", "-inform", "der", "-CAfile", signer, "-partial_chain", "-purpose", "any", "-binary")
    content = openssl(*verify, stdin=site.get("own", "GetNextCACert")[2])
    assert site.cas.made["next"].certificate in pkcs7.load_der_pkcs7_certificates(content)


def test_it_is_signed_once_however_often_it_is_asked_for(site: Site) -> None:
    """ECDSA signatures differ each time."""
    assert len({site.get("curve", "GetNextCACert")[2] for _ in range(5)}) == 1


def test_a_changed_announcement_does_not_verify(site: Site, tmp_path: Path) -> None:
    body = site.get("own", "GetNextCACert")[2]
    signer = tmp_path / "ca.pem"
    signer.write_bytes(site.cas.made["own"].pem)
    at = body.index(b"The CA that follows")
    changed = body[:at] + b"Tha CA" + body[at + 6 :]
    verify = [
        "openssl",
        "cms",
        "-verify",
        "-inform",
        "der",
        "-CAfile",
        str(signer),
        "-partial_chain",
        "-purpose",
        "any",
        "-binary",
    ]
    assert subprocess.run(verify, input=changed, capture_output=True, check=False, timeout=20).returncode != 0
