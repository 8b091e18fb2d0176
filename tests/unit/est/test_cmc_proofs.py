"""Proofs by secrets (RFC 5272 §6.2, §6.3.1, §6.7), computed a second time from the RFCs' sentences, and a challenge that `openssl` opens."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from est.cmc.codec import encode_pki_data, encode_request, parse_pki_data
from est.cmc.controls import write
from est.cmc.messages import CmcRefusal, CrmfRequest, FailInfo, Pkcs10Request, PkiData
from est.cmc.proofs import (
    challenge,
    identity_witness,
    link_of,
    link_witness,
    links,
    possession_proof,
    proves_identity,
    proves_possession,
)
from est.cmc.requests import is_possessed, read
from est.cmc.values import DecryptedPop, IdentityProofV2, PopLinkWitnessV2
from pki import der
from pki.cms.fields import null, octet_string, oid, sequence, tlv
from pki.cms.types import Digest
from pki.crmf import Possession, parse_crmf
from pki.csr import key_identifiers, parse_csr
from pki.reasons import Reason, Rejection
from tests.helpers import cmc as other
from tests.helpers.ca import make_csr
from tests.helpers.crmf import ED25519, KEY, RSA, PrivateKey, by_challenge, certificate_request, crmf
from tests.helpers.scep import END, START, openssl

SECRET = "correct horse battery staple"
REQUEST = Pkcs10Request(3, make_csr("a.example.com"))
SENT = parse_pki_data(encode_pki_data(PkiData((), (REQUEST,)))).request_sequence
DIGESTS = [Digest.SHA1, Digest.SHA256, Digest.SHA384, Digest.SHA512]


def hmac_by_rfc_2104(key: bytes, text: bytes, digest: str) -> bytes:
    """H(K XOR opad, H(K XOR ipad, text)), from the text of RFC 2104 §2."""
    block = hashlib.new(digest).block_size
    if len(key) > block:
        key = hashlib.new(digest, key).digest()
    key = key.ljust(block, b"\0")
    inner = hashlib.new(digest, bytes(octet ^ 0x36 for octet in key) + text).digest()
    return hashlib.new(digest, bytes(octet ^ 0x5C for octet in key) + inner).digest()


# ---------------------------------------------------------------- identity (§6.2)


@pytest.mark.parametrize("digest", DIGESTS)
@pytest.mark.parametrize("mac", DIGESTS)
def test_the_witness_is_a_mac_over_the_requests_by_a_hash_of_the_secret(digest: Digest, mac: Digest) -> None:
    """§6.2.1: "A MAC is then computed using the value produced in Step 1 as the message and the value from Step 2 as the key"."""
    key = hashlib.new(digest.value, SECRET.encode()).digest()
    right = hmac_by_rfc_2104(key, SENT, mac.value)
    assert identity_witness(SECRET, "", SENT, digest=digest, mac=mac) == right
    assert proves_identity(IdentityProofV2(digest, mac, right), SECRET, "", SENT)


def test_with_an_identification_secret_and_name_are_hashed_together() -> None:
    """§6.2.3: "the concatenation of the shared-secret and the UTF8 identity value (without the type and length bytes)"."""
    key = hashlib.sha256(SECRET.encode() + "gerät-1".encode()).digest()
    proof = IdentityProofV2(Digest.SHA256, Digest.SHA256, hmac_by_rfc_2104(key, SENT, "sha256"))
    assert proves_identity(proof, SECRET, "gerät-1", SENT)
    assert not proves_identity(proof, SECRET, "", SENT)
    assert not proves_identity(proof, SECRET, "gerät-2", SENT)


def test_a_witness_counts_for_this_secret_and_these_requests_only() -> None:
    proof = IdentityProofV2(
        Digest.SHA256, Digest.SHA256, identity_witness(SECRET, "", SENT, digest=Digest.SHA256, mac=Digest.SHA256)
    )
    assert not proves_identity(proof, SECRET + "!", "", SENT)
    assert not proves_identity(proof, SECRET, "", SENT[:-1] + bytes((SENT[-1] ^ 1,)))
    assert not proves_identity(IdentityProofV2(Digest.SHA256, Digest.SHA256, b""), SECRET, "", SENT)
    assert not proves_identity(IdentityProofV2(Digest.SHA512, Digest.SHA256, proof.witness), SECRET, "", SENT)


def test_a_known_answer() -> None:
    """Computed by the `openssl` command line: openssl dgst -sha256 -mac HMAC -macopt hexkey:$(printf secret | sha256sum)."""
    requests = bytes.fromhex("3000")
    key = hashlib.sha256(b"secret").hexdigest()
    printed = openssl("dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{key}", "-r", stdin=requests)
    assert (
        identity_witness("secret", "", requests, digest=Digest.SHA256, mac=Digest.SHA256).hex() == printed.split()[0].decode()
    )


# ---------------------------------------------------------------- linking (§6.3.1.1)

RANDOM = bytes(range(64))


def test_the_link_is_a_mac_over_the_random_value_by_a_hash_of_the_secret() -> None:
    """§6.3.1.1: "A MAC is then computed over the random value produced in Step 1, using the key computed in Step 2"."""
    right = hmac_by_rfc_2104(hashlib.sha512(SECRET.encode()).digest(), RANDOM, "sha256")
    assert link_witness(SECRET, RANDOM, digest=Digest.SHA512, mac=Digest.SHA256) == right
    witness = PopLinkWitnessV2(Digest.SHA512, Digest.SHA256, right)
    assert links(witness, SECRET, "", RANDOM)
    assert links(witness, SECRET, "device", RANDOM)
    assert not links(witness, SECRET, "", RANDOM[:-1])
    assert not links(witness, SECRET + "!", "", RANDOM)
    assert not links(PopLinkWitnessV2(Digest.SHA512, Digest.SHA256, b""), SECRET, "", RANDOM)


def test_clients_that_hash_the_identification_too_are_taken() -> None:
    key = hashlib.sha256(f"{SECRET}device".encode()).digest()
    witness = PopLinkWitnessV2(Digest.SHA256, Digest.SHA256, hmac_by_rfc_2104(key, RANDOM, "sha256"))
    assert links(witness, SECRET, "device", RANDOM)
    assert not links(witness, SECRET, "other", RANDOM)


def test_the_link_is_found_among_the_controls_of_a_crmf_request() -> None:
    """§6.3.1.1: in "the controls field of the CertRequest structure"."""
    witness = PopLinkWitnessV2(Digest.SHA256, Digest.SHA256, b"w" * 32)
    encoded = write(1, witness).values[0]
    assert link_of(parse_crmf(crmf(controls=(("1.3.6.1.5.5.7.7.33", encoded),))).csr) == witness
    assert link_of(parse_crmf(crmf()).csr) is None
    assert link_of(parse_csr(make_csr("a.example.com"))) is None


def test_the_link_is_found_among_the_attributes_of_a_pkcs10_request() -> None:
    """§6.3.1.1: in "the attributes field of the CertificationRequestInfo structure"."""
    witness = link_of(parse_csr(other.csr(KEY, "a.example.com", link=(SECRET.encode(), RANDOM))))
    assert witness is not None
    assert links(witness, SECRET, "", RANDOM)


def test_a_link_by_sha1_is_bad_alg() -> None:
    with pytest.raises(CmcRefusal, match="popLinkWitnessV2") as caught:
        link_of(parse_crmf(crmf(controls=(("1.3.6.1.5.5.7.7.23", octet_string(b"w")),))).csr)
    assert caught.value.fail_info is FailInfo.BAD_ALG


def test_a_link_that_is_none_is_a_bad_request() -> None:
    with pytest.raises(CmcRefusal) as caught:
        link_of(parse_crmf(crmf(controls=(("1.3.6.1.5.5.7.7.33", octet_string(b"w")),))).csr)
    assert caught.value.fail_info is FailInfo.BAD_REQUEST


# ---------------------------------------------------------------- possession (§6.7)

VALUE = bytes(range(100, 132))


def asking(key: PrivateKey, *, key_identifier: bytes | None = None) -> CrmfRequest:
    """A CRMF request for a key that signs nothing."""
    extensions = () if key_identifier is None else ((x509.SubjectKeyIdentifier(key_identifier), False),)
    return CrmfRequest(7, by_challenge(certificate_request(7, key=key, extensions=extensions)))


def opened(envelope: bytes, key: PrivateKey, key_identifier: bytes, folder: Path) -> bytes:
    """What `openssl cms` decrypts with that key, whose certificate has that identifier."""
    crt = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody")]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(START)
        .not_valid_after(END)
        .add_extension(x509.SubjectKeyIdentifier(key_identifier), critical=False)
        .sign(KEY, hashes.SHA256())
    )
    (folder / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "crt").write_bytes(crt.public_bytes(Encoding.PEM))
    return openssl(
        "cms", "-decrypt", "-inform", "der", "-binary", "-inkey", folder / "key", "-recip", folder / "crt", stdin=envelope
    )


@pytest.mark.parametrize("key", [RSA, KEY], ids=["rsa", "ec"])
@pytest.mark.parametrize("asked", [None, b"my own identifier"], ids=["by rule", "as asked for"])
def test_who_has_the_key_reads_the_value_and_nobody_else(key: PrivateKey, asked: bytes | None, tmp_path: Path) -> None:
    """§6.7: "If the certification request contains a Subject Key Identifier (SKI) extension, then the recipient identifier SHOULD be
    the SKI".
    """
    request = asking(key, key_identifier=asked)
    csr = parse_crmf(request.der).csr
    given = challenge(request, csr, VALUE, random_bytes=os.urandom)
    assert given.request == request
    assert given.witness == hashlib.sha256(VALUE).digest()
    assert VALUE not in given.envelope
    assert opened(given.envelope, key, asked or key_identifiers(csr)[0], tmp_path) == VALUE


def test_the_answer_is_a_mac_over_the_request_by_the_value() -> None:
    """§6.7: "The POP Proof Value is used as the secret value in the HMAC algorithm and the request is used as the data"."""
    request = asking(RSA)
    tagged = encode_request(request)
    assert tagged[0] == 0xA1
    right = hmac_by_rfc_2104(VALUE, tagged, "sha256")
    assert possession_proof(VALUE, request, mac=Digest.SHA256) == right
    assert proves_possession(DecryptedPop(7, Digest.SHA256, right), VALUE, request)
    assert not proves_possession(DecryptedPop(7, Digest.SHA256, right), VALUE[:-1], request)
    assert not proves_possession(DecryptedPop(7, Digest.SHA512, right), VALUE, request)
    assert not proves_possession(DecryptedPop(7, Digest.SHA256, right[:-1]), VALUE, request)
    assert not proves_possession(DecryptedPop(7, Digest.SHA256, right), VALUE, asking(RSA, key_identifier=b"x"))
    assert not proves_possession(DecryptedPop(7, Digest.SHA256, right), VALUE, REQUEST)


def test_of_a_long_value_the_first_64_octets_are_the_key() -> None:
    """§6.7: "If the POP Proof Value is greater than 64 bytes, only the first 64 bytes of the POP Proof Value is used as the secret"."""
    long = os.urandom(100)
    right = hmac_by_rfc_2104(long[:64], encode_request(REQUEST), "sha256")
    assert possession_proof(long, REQUEST, mac=Digest.SHA256) == right


def test_nothing_can_be_encrypted_to_a_key_that_only_signs() -> None:
    request = asking(ED25519)
    with pytest.raises(CmcRefusal) as caught:
        challenge(request, parse_crmf(request.der).csr, VALUE, random_bytes=os.urandom)
    assert caught.value.fail_info is FailInfo.POP_REQUIRED


def unsigned_csr(key: PrivateKey) -> bytes:
    """RFC 5272 Appendix C.1: a key that signs nothing asks by PKCS#10."""
    info, _, _ = der.children(der.whole(make_csr("a.example.com", key=key), der.SEQUENCE).content)
    value = octet_string(hashlib.sha1(info.raw).digest())
    return sequence(info.raw, sequence(oid("1.3.6.1.5.5.7.6.2"), null()), tlv(der.BIT_STRING, b"\0", value))


def test_a_pkcs10_request_that_says_it_is_not_signed_waits_for_its_challenge() -> None:
    """Appendix C.1: "If this signature type is on a certification request ... the POP mechanism defined in Section 6.7 MUST be used"."""
    request = Pkcs10Request(3, unsigned_csr(RSA))
    found = read(request)
    assert found.possession is Possession.TO_BE_PROVED
    assert not is_possessed(found, by_agent=True, vouched=())
    assert found.csr.common_name == parse_csr(make_csr("a.example.com", key=RSA)).common_name
    assert challenge(request, found.csr, VALUE, random_bytes=os.urandom).request == request


def test_everywhere_else_such_a_request_is_refused() -> None:
    with pytest.raises(Rejection) as caught:
        parse_csr(unsigned_csr(RSA))
    assert caught.value.reason is Reason.BAD_CSR
    assert read(Pkcs10Request(3, make_csr("a.example.com", key=RSA))).possession is Possession.PROVED
