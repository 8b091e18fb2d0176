"""Keys that are made here: of which kinds, how many at once, and what a request says on their encryption."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from est.keymaker import RSA_SIZES, KeyMaker, request_for
from est.keypackage import ToHeldKey, ToSharedKey, read_wish, seal_to_certificate, seal_to_shared_key
from est.wire import multipart_mixed
from pki.certificate import PublicKey
from pki.cms.ber import MAX_ELEMENTS
from pki.cms.fields import null, octet_string, oid, sequence
from pki.cms.keyencryption import oaep_parameters
from pki.cms.types import CIPHERS, Digest
from pki.csr import Csr, parse_csr, parse_unproved_csr
from pki.reasons import Reason, Rejection
from tests.helpers.keygen import (
    AES128_CBC,
    AES128_WRAP,
    AES256_CBC,
    AES256_GCM,
    AES256_WRAP,
    ASYMMETRIC_DECRYPT_KEY,
    DECRYPT_KEY,
    DES_EDE3_CBC,
    ECDH_SHA1,
    ECDH_SHA256,
    RSA_ENCRYPTION,
    RSAES_OAEP,
    SMIME_CAPABILITIES,
    PrivateKey,
    attribute,
    capabilities,
    holder_certificate,
    identifier_of,
    keygen_csr,
    spki_of,
    to_held_key,
    to_shared_key,
)


async def made_like(key: PublicKey) -> PrivateKey:
    return await KeyMaker().like(key)


# ---------------------------------------------------------------------- making


@pytest.mark.parametrize("bits", RSA_SIZES[:2])
async def test_rsa_keys_have_the_size_asked_for_and_an_ordinary_exponent(bits: int) -> None:
    key = await made_like(rsa.generate_private_key(65537, bits).public_key())
    assert isinstance(key, rsa.RSAPrivateKey)
    assert (key.key_size, key.public_key().public_numbers().e) == (bits, 65537)


async def test_more_rsa_keys_than_two_at_a_time_have_to_wait_and_the_others_do_not() -> None:
    maker, like = KeyMaker(), rsa.generate_private_key(65537, 3072).public_key()
    results = await asyncio.gather(*(maker.like(like) for _ in range(5)), return_exceptions=True)
    refused = [one for one in results if isinstance(one, Rejection)]
    assert (len(refused), len([one for one in results if isinstance(one, rsa.RSAPrivateKey)])) == (3, 2)
    assert {(one.reason, one.retry_after) for one in refused} == {(Reason.INTERRUPTED, 2)}
    # EC keys cost nothing, and places are given back.
    assert await maker.like(ec.generate_private_key(ec.SECP256R1()).public_key())
    assert await maker.like(like)


async def test_whoever_hangs_up_does_not_give_away_a_place_that_is_still_worked_at() -> None:
    maker, like = KeyMaker(at_once=1), rsa.generate_private_key(65537, 3072).public_key()
    impatient = asyncio.ensure_future(maker.like(like))
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(Rejection, match="as many RSA keys as it can"):
        await maker.like(like)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "P-521", "Ed25519", "RSA"],
)
def test_the_request_for_it_asks_for_the_same_and_is_proved_by_it(key: PrivateKey) -> None:
    asked = parse_unproved_csr(
        keygen_csr("a.example.com", "b.example.com", signature=b"", attributes=to_shared_key(b"k", AES256_WRAP))
    )
    ours = request_for(asked, key)
    assert (ours.subject, ours.identifiers, ours.common_name) == (asked.subject, asked.identifiers, asked.common_name)
    assert ours.spki == spki_of(key)
    assert x509.load_der_x509_csr(ours.der).is_signature_valid
    assert set(ours.attributes) == {"1.2.840.113549.1.9.14"}  # what was said to us alone stays here


def test_a_request_without_extensions_stays_one() -> None:
    ours = request_for(parse_unproved_csr(keygen_csr()), ec.generate_private_key(ec.SECP256R1()))
    assert (ours.attributes, ours.common_name) == ({}, "router-7")


def test_where_the_key_counts_a_signature_that_is_none_is_refused() -> None:
    csr = keygen_csr(signature=b"none")
    assert parse_unproved_csr(csr).common_name == "router-7"
    with pytest.raises(Rejection):
        parse_csr(csr)


# ---------------------------------------------------------------------- what is asked for

HELD = [
    holder_certificate(rsa.generate_private_key(65537, 2048)),
    holder_certificate(ec.generate_private_key(ec.SECP256R1())),
]
OIDS = [
    RSA_ENCRYPTION,
    RSAES_OAEP,
    ECDH_SHA256,
    ECDH_SHA1,
    AES128_WRAP,
    AES256_WRAP,
    AES128_CBC,
    AES256_CBC,
    AES256_GCM,
    DES_EDE3_CBC,
    "1.2.3.4",
]
PARAMETERS = [
    b"",
    null(),
    sequence(),
    sequence(oid(AES256_WRAP)),
    sequence(null()),
    oaep_parameters(Digest.SHA256),
    oaep_parameters(Digest.SHA512),
]


def offer(dotted: str, parameters: bytes) -> bytes:
    return sequence(oid(dotted), parameters)


def wish_of(*attributes: bytes) -> ToSharedKey | ToHeldKey | None:
    return read_wish(parse_unproved_csr(keygen_csr(attributes=attributes)))


def test_what_is_asked_for_is_read() -> None:
    shared, held = wish_of(*to_shared_key(b"k", AES256_WRAP)), wish_of(*to_held_key(b"h", RSA_ENCRYPTION))
    assert isinstance(shared, ToSharedKey)
    assert (shared.key_id, [offer.dotted for offer in shared.offers]) == (b"k", [AES256_WRAP])
    assert isinstance(held, ToHeldKey)
    assert (held.key_identifier, [offer.dotted for offer in held.offers]) == (b"h", [RSA_ENCRYPTION])
    assert wish_of() is None
    assert wish_of(capabilities(AES256_WRAP)) is None


def with_attributes(**values: bytes) -> Csr:
    names = {"shared": DECRYPT_KEY, "held": ASYMMETRIC_DECRYPT_KEY, "offers": SMIME_CAPABILITIES}
    base = parse_unproved_csr(keygen_csr())
    return type(base)(
        **{
            **{name: getattr(base, name) for name in base.__slots__},
            "attributes": {names[name]: value for name, value in values.items()},
        }
    )


@given(
    shared=st.none() | st.binary(max_size=40),
    held=st.none() | st.binary(max_size=40),
    offers=st.none() | st.binary(max_size=60),
)
def test_whatever_octets_are_there_it_is_a_wish_or_a_refusal_and_never_nothing(
    shared: bytes | None, held: bytes | None, offers: bytes | None
) -> None:
    values = {name: value for name, value in (("shared", shared), ("held", held), ("offers", offers)) if value is not None}
    try:
        wish = read_wish(with_attributes(**values))
    except Rejection as rejection:
        assert rejection.reason is Reason.BAD_CSR
        return
    # Whoever names a key, however badly, is never answered as if they had not.
    assert (wish is None) == (shared is None and held is None)


@given(junk=st.binary(max_size=200))
def test_certificates_that_are_none_are_nobodys(junk: bytes) -> None:
    wish = wish_of(*to_held_key(b"h", RSA_ENCRYPTION))
    assert isinstance(wish, ToHeldKey)
    with pytest.raises(Rejection, match="knows no key"):
        seal_to_certificate(wish, [junk])


def test_certificates_that_cannot_be_read_are_nobodys() -> None:
    # TLS, or a proxy that verifies nothing (nginx: optional_no_ca), has seen only that the client has the key.
    key = ec.generate_private_key(ec.SECP256R1())
    good = holder_certificate(key)
    name, now = good.subject, datetime.now(UTC)
    strange = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier(identifier_of(good)), critical=False)
        .add_extension(
            x509.UnrecognizedExtension(x509.OID_SUBJECT_ALTERNATIVE_NAME, b"\x30\x02\xa3\x00"), critical=False
        )  # x400Address
        .sign(key, hashes.SHA256())
    )
    future = good.public_bytes(Encoding.DER).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x04", 1)  # version 5
    wish = wish_of(*to_held_key(identifier_of(good), offer(ECDH_SHA256, sequence(oid(AES256_WRAP)))))
    assert isinstance(wish, ToHeldKey)
    assert seal_to_certificate(wish, [good.public_bytes(Encoding.DER)])
    for certificate in (strange.public_bytes(Encoding.DER), future):
        with pytest.raises(Rejection, match="knows no key"):
            seal_to_certificate(wish, [certificate])


def test_a_certificate_of_thousands_of_extensions_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    good = holder_certificate(key)
    now = datetime.now(UTC)
    extensions: list[x509.Extension[x509.ExtensionType]] = [
        x509.Extension(one, False, x509.UnrecognizedExtension(one, b""))
        for one in map(x509.ObjectIdentifier, (f"1.2.{arc}" for arc in range(MAX_ELEMENTS)))
    ]
    builder = x509.CertificateBuilder(
        good.subject,
        good.subject,
        key.public_key(),
        1,
        now,
        now + timedelta(days=1),
        [good.extensions.get_extension_for_class(x509.SubjectKeyIdentifier), *extensions],
    )
    crowded = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    wish = wish_of(*to_held_key(identifier_of(good), offer(ECDH_SHA256, sequence(oid(AES256_WRAP)))))
    assert isinstance(wish, ToHeldKey)
    with pytest.raises(Rejection, match="more in it than is read"):
        seal_to_certificate(wish, [crowded])


@given(offers=st.lists(st.builds(offer, st.sampled_from(OIDS), st.sampled_from(PARAMETERS)), max_size=5))
def test_whatever_is_offered_there_is_a_way_that_was_offered_or_a_refusal(offers: list[bytes]) -> None:
    for certificate in HELD:
        wish = wish_of(*to_held_key(identifier_of(certificate), *offers))
        assert isinstance(wish, ToHeldKey)
        try:
            seal = seal_to_certificate(wish, [certificate.public_bytes(Encoding.DER)])
        except Rejection as rejection:
            assert rejection.reason is Reason.BAD_CSR
            continue
        info = seal.recipient_info(bytes(seal.cipher.key_length))
        offered = {one.oid for one in wish.offers}
        assert any(each in info for each in offered), "by an algorithm that the client named"
        named = {cipher for identifier, cipher in CIPHERS.items() if identifier in offered}
        assert seal.cipher in named or not named


SHA512_OAEP = "0609608648016503040203"  # the digest's identifier, in hexadecimal
MGF1_OID = "06092a864886f70d010108"


@pytest.mark.parametrize(
    "parameters",
    [
        f"302f a00f300d{SHA512_OAEP}0500 a11c301a{MGF1_OID}300d{SHA512_OAEP}0500",
        f"302b a00d300b{SHA512_OAEP} a11a3018{MGF1_OID}300b{SHA512_OAEP}",
        f"302b 300d{SHA512_OAEP}0500 301a{MGF1_OID}300d{SHA512_OAEP}0500",
    ],
    ids=["as DER has it", "without NULL", "without tags"],
)
def test_oaep_is_known_in_the_spellings_that_there_are(parameters: str) -> None:
    # RFC 4055 §2.1 has both forms of a digest without parameters accepted; RFC 3560 §5 prints the capabilities without [0] and [1].
    wish = wish_of(*to_held_key(identifier_of(HELD[0]), sequence(oid(RSAES_OAEP), bytes.fromhex(parameters))))
    assert isinstance(wish, ToHeldKey)
    info = seal_to_certificate(wish, [HELD[0].public_bytes(Encoding.DER)]).recipient_info(bytes(32))
    assert sequence(oid(RSAES_OAEP), oaep_parameters(Digest.SHA512)) in info


def test_a_certificate_whose_key_nobody_here_can_use_is_refused() -> None:
    key = ed448.Ed448PrivateKey.generate()
    name = x509.Name([])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier(b"h"), critical=False)
        .sign(key, None)
    )
    wish = wish_of(*to_held_key(b"h", RSA_ENCRYPTION))
    assert isinstance(wish, ToHeldKey)
    with pytest.raises(Rejection, match=r"of a kind that is not served|neither RSA, nor EC"):
        seal_to_certificate(wish, [certificate.public_bytes(Encoding.DER)])


def test_a_seal_shows_no_key() -> None:
    wish = wish_of(*to_shared_key(b"k", AES256_WRAP))
    assert isinstance(wish, ToSharedKey)
    key = bytes(range(32))
    shown = repr(seal_to_shared_key(wish, key))
    assert key.hex() not in shown
    assert repr(key) not in shown


def test_an_attribute_without_a_value_is_no_wish_to_be_left_alone() -> None:
    with pytest.raises(Rejection, match="cannot be read"):
        wish_of(attribute(DECRYPT_KEY), capabilities(AES256_WRAP))
    with pytest.raises(Rejection, match="both"):
        wish_of(attribute(DECRYPT_KEY), attribute(ASYMMETRIC_DECRYPT_KEY, octet_string(b"x")), capabilities(AES256_WRAP))


# ---------------------------------------------------------------------- the wire


def test_parts_are_written_as_mime_has_them() -> None:
    body = multipart_mixed([("a/b", b"x" * 60), ("c/d", b"y")], boundary="B", wrapped=True)
    assert body == (
        b"--B\r\nContent-Type: a/b\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        b"eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4\r\neHh4\r\n"
        b"--B\r\nContent-Type: c/d\r\nContent-Transfer-Encoding: base64\r\n\r\neQ==\r\n--B--\r\n"
    )
