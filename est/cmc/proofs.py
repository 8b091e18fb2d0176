"""Proofs of identity and of possession by secrets (RFC 5272 §6.2, §6.3.1, §6.7). Pure; every comparison is in constant time.

Which digests are good enough is the caller's decision: SHA-1 is computed like any other.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from est.cmc.codec import encode_request
from est.cmc.controls import read_pop_link_witness
from est.cmc.messages import CertRequest, CmcRefusal, FailInfo
from est.cmc.values import DecryptedPop, EncryptedPop, IdentityProofV2, PopLinkWitnessV2
from pki import der
from pki.cms.envelope import enveloped
from pki.cms.keyencryption import VERSION, by_agreement, by_rsa
from pki.cms.types import DATA, Cipher, Digest
from pki.csr import Csr, key_identifiers

_HMAC_KEY = 64  # octets of it that are used as a key (§6.7)

_WITNESS = "1.3.6.1.5.5.7.7.23"
_WITNESS_V2 = "1.3.6.1.5.5.7.7.33"


def identity_witness(secret: str, identification: str, request_sequence: bytes, *, digest: Digest, mac: Digest) -> bytes:
    """§6.2.1: HMAC over the reqSequence as it was sent, with a digest of the secret as its key. Where there is an identification control
    (§6.2.3), what is digested is the secret and the identification together; "" is none.
    """
    key = digest.of(secret.encode() + identification.encode())
    return hmac.digest(key, request_sequence, mac.value)


def proves_identity(proof: IdentityProofV2, secret: str, identification: str, request_sequence: bytes) -> bool:
    right = identity_witness(secret, identification, request_sequence, digest=proof.digest, mac=proof.mac)
    return hmac.compare_digest(right, proof.witness)


def link_witness(secret: str, random: bytes, *, digest: Digest, mac: Digest) -> bytes:
    """§6.3.1.1: HMAC over popLinkRandom, with a digest of the secret as its key."""
    return hmac.digest(digest.of(secret.encode()), random, mac.value)


def links(witness: PopLinkWitnessV2, secret: str, identification: str, random: bytes) -> bool:
    """§6.3.1.1 makes the key of the secret alone; clients that send an identification (§6.2.3) make it of both together."""
    made = [link_witness(one, random, digest=witness.digest, mac=witness.mac) for one in (secret, secret + identification)]
    return True in [hmac.compare_digest(one, witness.witness) for one in made]


def link_of(csr: Csr) -> PopLinkWitnessV2 | None:
    """The witness that a request was signed with, as PKCS#10's attribute or CRMF's control; None where there is none.

    Raises CmcRefusal: BAD_REQUEST, and BAD_ALG for the one of SHA-1 (§6.3.1.2).
    """
    if _WITNESS in csr.attributes:
        raise CmcRefusal(FailInfo.BAD_ALG, "popLinkWitness uses SHA-1; send popLinkWitnessV2 with SHA-256")
    values = csr.attributes.get(_WITNESS_V2)
    if values is None:
        return None
    found = list(der.children(der.whole(values, der.SET).content))
    if len(found) != 1:
        raise CmcRefusal(FailInfo.BAD_REQUEST, "popLinkWitnessV2 must have one value")
    return read_pop_link_witness(found[0].raw)


def challenge(request: CertRequest, csr: Csr, value: bytes, *, random_bytes: Callable[[int], bytes]) -> EncryptedPop:
    """§6.7: `value`, the POP Proof Value, which only who has the request's key can read. `csr` is `request`, read.

    Raises CmcRefusal: POP_REQUIRED for a key of a kind that nothing can be encrypted to, BAD_ALG for one that does not work.
    """
    # Any one of them: the request's own where it asks for one, as §6.7 wants it.
    identifier = key_identifiers(csr)[0]
    key = csr.public_key
    if isinstance(key, rsa.RSAPublicKey):
        recipient = by_rsa(key, key_identifier=identifier, oaep=None)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        recipient = by_agreement(key, key_identifier=identifier, digest=Digest.SHA256, wrap=32)
    else:
        raise CmcRefusal(FailInfo.POP_REQUIRED, "nothing can be encrypted to its key; sign the request with it")
    try:
        envelope = enveloped(value, DATA, recipient, version=VERSION, cipher=Cipher.AES_256_CBC, random_bytes=random_bytes)
    except ValueError as error:  # nobody has looked at the key yet, and not all that can be read are keys
        raise CmcRefusal(FailInfo.BAD_ALG, "nothing can be encrypted to its key: it is none that works") from error
    return EncryptedPop(
        request=request,
        envelope=envelope,
        mac=Digest.SHA256,
        digest=Digest.SHA256,
        witness=Digest.SHA256.of(value),
    )


def possession_proof(value: bytes, request: CertRequest, *, mac: Digest) -> bytes:
    """ThePOP (§6.7): HMAC over the request (TaggedRequest, DER: the field of encryptedPOP), with the POP Proof Value as its key."""
    return hmac.digest(value[:_HMAC_KEY], encode_request(request), mac.value)


def proves_possession(answer: DecryptedPop, value: bytes, request: CertRequest) -> bool:
    return hmac.compare_digest(possession_proof(value, request, mac=answer.mac), answer.proof)
