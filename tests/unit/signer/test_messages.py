"""Which signed attributes an issuer key signs: those of a CertRep, those of an announcement, exactly, and nothing that is near."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from pki.der import SEQUENCE, DerError, whole
from signer.api import Hash, KeyConfig, KeyUse, SignerRefused
from signer.configuration import ConfigurationError
from signer.envelope import Limits
from signer.keyring import KeyRing, open_keys
from signer.messages import check_announcement, check_cert_rep
from signer.software import KeyKind
from tests.helpers.scep import (
    CONTENT_TYPE,
    DATA,
    ENVELOPED_DATA,
    FAIL_INFO,
    FAIL_INFO_TEXT,
    MESSAGE_DIGEST,
    MESSAGE_TYPE,
    PKI_STATUS,
    RECIPIENT_NONCE,
    TRANSACTION_ID,
    attribute,
    octets,
    oid,
    printable,
    retag,
    seq,
    set_of,
)
from tests.helpers.signing import Authority, authority, leaf, write_key
from tests.helpers.signing_messages import announcement, answered, cert_rep, encode, signed

SIGNING_TIME = "1.2.840.113549.1.9.5"
CONTENT = {hashlib.sha256(b"content").digest()}


def test_a_cert_rep_of_every_status_passes_with_every_digest() -> None:
    for size, digest in ((32, "sha256"), (48, "sha384"), (64, "sha512")):
        for status in "023":
            check_cert_rep(cert_rep(status=status, digest=digest), digest_size=size)
        check_announcement(announcement(digest), digests={hashlib.new(digest, b"content").digest()})


def without(*identifiers: str, status: str = "0") -> bytes:
    return encode({each: value for each, value in answered(status).items() if each not in identifiers})


def changed(identifier: str, value: bytes, *, status: str = "0") -> bytes:
    return encode({**answered(status), identifier: value})


WRONG = [
    ("a certificate", leaf(authority())),
    ("a certificate under the tag of a set", retag(0x31, leaf(authority()))),
    ("nothing", b""),
    ("an empty set", set_of()),
    ("attributes in a sequence", retag(0x30, cert_rep())),
    ("something behind it", cert_rep() + b"\x05\x00"),
    ("attributes as they stand in a SignerInfo", retag(0xA0, cert_rep())),
    ("no message type", without(MESSAGE_TYPE)),
    ("a request's message type", changed(MESSAGE_TYPE, printable("19"))),
    ("a message type of another string type", changed(MESSAGE_TYPE, b"\x0c\x013")),
    ("an unknown status", changed(PKI_STATUS, printable("1"))),
    ("no status", without(PKI_STATUS)),
    ("no transactionID", without(TRANSACTION_ID)),
    ("no recipientNonce", without(RECIPIENT_NONCE)),
    ("a failure without failInfo", without(FAIL_INFO, status="2")),
    ("a failure without its text", without(FAIL_INFO_TEXT, status="2")),
    ("a success with failInfo", changed(FAIL_INFO, printable("2"))),
    ("another content type", changed(CONTENT_TYPE, oid(ENVELOPED_DATA))),
    ("no content type", without(CONTENT_TYPE)),
    ("no digest", without(MESSAGE_DIGEST)),
    ("a digest of another length", changed(MESSAGE_DIGEST, octets(bytes(20)))),
    ("an attribute more", changed(SIGNING_TIME, b"\x17\x0d260101000000Z")),
    ("one twice", set_of(*(attribute(each, value) for each, value in [*answered().items(), (CONTENT_TYPE, oid(DATA))]))),
    ("two values", set_of(attribute(CONTENT_TYPE, oid(DATA), oid(DATA)), attribute(MESSAGE_DIGEST, octets(bytes(32))))),
    ("no value", set_of(attribute(CONTENT_TYPE), attribute(MESSAGE_DIGEST, octets(bytes(32))))),
    ("an attribute that is none", set_of(seq(oid(CONTENT_TYPE)), attribute(MESSAGE_DIGEST, octets(bytes(32))))),
]


@pytest.mark.parametrize("attributes", [row[1] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_is_near_is_refused_at_both_doors(attributes: bytes) -> None:
    with pytest.raises(SignerRefused):
        check_cert_rep(attributes, digest_size=32)
    with pytest.raises(SignerRefused):
        check_announcement(attributes, digests=CONTENT)


def test_neither_passes_for_the_other_and_neither_is_a_sequence() -> None:
    with pytest.raises(SignerRefused, match="CertRep"):
        check_cert_rep(announcement(), digest_size=32)
    for status in "023":
        with pytest.raises(SignerRefused, match="announcement"):
            check_announcement(cert_rep(status=status), digests=CONTENT)
        with pytest.raises(DerError):
            whole(cert_rep(status=status), SEQUENCE)


def test_an_announcement_is_the_configured_one_by_the_keys_own_digest() -> None:
    other = hashlib.sha256(b"somebody else's CA").digest()
    for refused in (announcement("sha1"), *(encode({**signed(), MESSAGE_DIGEST: octets(digest)}) for digest in (b"", other))):
        with pytest.raises(SignerRefused, match="digest"):
            check_announcement(refused, digests=CONTENT)


@given(st.binary(max_size=120) | st.binary(max_size=120).map(lambda content: retag(0x31, seq(content))))
def test_any_octets_are_refused_and_nothing_else_happens(data: bytes) -> None:
    with suppress(SignerRefused):
        check_cert_rep(data, digest_size=32)
        raise AssertionError("random octets passed")
    with suppress(SignerRefused):
        check_announcement(data, digests=CONTENT)
        raise AssertionError("random octets passed")


# ---------------------------------------------------------------- who may speak


def silent(event: str, **fields: object) -> None:
    raise AssertionError(event)


async def ring(directory: Path, issuer: Authority, *, messages: bool, announcements: bool) -> KeyRing:
    envelope = replace(issuer.envelope(), messages=messages, announcements=frozenset({b"content"} if announcements else ()))
    source = write_key(directory, "ca", issuer.key)
    return await open_keys([KeyConfig(name="ca", use=KeyUse.ISSUER, source=source, envelope=envelope)], log=silent)


async def test_an_issuer_key_says_nothing_where_its_configuration_does_not_say_so(tmp_path: Path) -> None:
    keys = await ring(tmp_path, authority(KeyKind.RSA_2048), messages=False, announcements=False)
    with pytest.raises(SignerRefused, match="signs no messages"):
        await keys.ra_sign("ca", cert_rep(), Hash.SHA256)
    with pytest.raises(SignerRefused, match="announces no other CA"):
        await keys.sign_announcement("ca", announcement())
    await keys.close()


async def test_each_permission_is_its_own(tmp_path: Path) -> None:
    issuer = authority(KeyKind.RSA_2048)
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    speaks = await ring(tmp_path / "1", issuer, messages=True, announcements=False)
    assert await speaks.ra_sign("ca", cert_rep(), Hash.SHA256)
    with pytest.raises(SignerRefused, match="announces no other CA"):
        await speaks.sign_announcement("ca", announcement())
    announces = await ring(tmp_path / "2", issuer, messages=False, announcements=True)
    assert await announces.sign_announcement("ca", announcement())
    with pytest.raises(SignerRefused, match="signs no messages"):
        await announces.ra_sign("ca", cert_rep(), Hash.SHA256)
    await speaks.close()
    await announces.close()


@pytest.mark.parametrize(
    ("kind", "digest"), [(KeyKind.EC_P256, "sha256"), (KeyKind.EC_P384, "sha384"), (KeyKind.ED25519, "sha512")]
)
async def test_cas_of_every_kind_announce_and_only_rsa_speaks(tmp_path: Path, kind: KeyKind, digest: str) -> None:
    issuer = authority(kind)
    keys = await ring(tmp_path, issuer, messages=False, announcements=True)
    signature = await keys.sign_announcement("ca", announcement(digest))
    public_key = issuer.key.public_key()
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        public_key.verify(signature, announcement(digest))
    else:
        assert isinstance(public_key, ec.EllipticCurvePublicKey)
        hashing = Limits.of(issuer.envelope()).algorithm.hash
        assert hashing is not None
        public_key.verify(signature, announcement(digest), ec.ECDSA(hashing))
    await keys.close()
    with pytest.raises(ConfigurationError, match="ca: messages are encrypted to RSA keys only"):
        await ring(tmp_path, issuer, messages=True, announcements=False)
