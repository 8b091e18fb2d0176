"""Key transport (RFC 5652 §6.2.1, RFC 4055 §4.1): what clients name is read or refused by name, and openssl's OAEP opens."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from hypothesis import given
from hypothesis import strategies as st

from pki.cms.errors import CmsError, CmsProblem
from pki.cms.transport import KeyTransport, read_transport
from pki.cms.types import Algorithm, read_algorithm
from pki.der import SEQUENCE, whole
from tests.helpers.scep import (
    HASH_OIDS,
    HASHES,
    NULL,
    enveloped,
    explicit,
    octets,
    oid,
    openssl,
    pem_of,
    retag,
    rsa_key,
    seq,
)
from tests.unit.cms.test_envelope import PLAIN, opened, recipient

RSA, OAEP, MGF1, P_SPECIFIED = (f"1.2.840.113549.1.1.{n}" for n in (1, 7, 8, 9))


def digest(name: str, parameters: bytes = NULL) -> bytes:
    return seq(oid(HASH_OIDS[name]), parameters)


def mask(name: str) -> bytes:
    return seq(oid(MGF1), digest(name))


def label(text: bytes) -> bytes:
    return seq(oid(P_SPECIFIED), octets(text))


def algorithm(identifier: str, *parameters: bytes) -> Algorithm:
    return read_algorithm(whole(seq(oid(identifier), *parameters), SEQUENCE))


GOOD = [
    ("PKCS #1", algorithm(RSA, NULL), "pkcs1"),
    ("PKCS #1 without parameters", algorithm(RSA), "pkcs1"),
    ("every default", algorithm(OAEP, seq()), "oaep-sha1"),
    ("no parameters at all", algorithm(OAEP), "oaep-sha1"),
    ("the defaults written out", algorithm(OAEP, seq(explicit(digest("sha1"), 0), explicit(mask("sha1"), 1))), "oaep-sha1"),
    ("an empty label", algorithm(OAEP, seq(explicit(label(b""), 2))), "oaep-sha1"),
    ("SHA-256", algorithm(OAEP, seq(explicit(digest("sha256"), 0), explicit(mask("sha256"), 1))), "oaep-sha256"),
    (
        "a digest without NULL",
        algorithm(OAEP, seq(explicit(digest("sha256", b""), 0), explicit(mask("sha256"), 1))),
        "oaep-sha256",
    ),
    ("the mask left at SHA-1", algorithm(OAEP, seq(explicit(digest("sha256"), 0))), "oaep-sha256-mgf1-sha1"),
    ("SHA-384", algorithm(OAEP, seq(explicit(digest("sha384"), 0), explicit(mask("sha384"), 1))), "oaep-sha384"),
    ("SHA-512", algorithm(OAEP, seq(explicit(digest("sha512"), 0), explicit(mask("sha512"), 1))), "oaep-sha512"),
]


def test_what_clients_name_is_read() -> None:
    assert {what: read_transport(found).value for what, found, _ in GOOD} == {what: value for what, _, value in GOOD}


BAD = [
    ("RSASSA-PSS", algorithm("1.2.840.113549.1.1.10", seq()), r"1\.1\.10 is not supported; use"),
    ("RSA-KEM", algorithm("1.2.840.113549.1.9.16.3.14"), r"16\.3\.14 is not supported; use"),
    ("MD5", algorithm(OAEP, seq(explicit(digest("md5"), 0), explicit(mask("md5"), 1))), "md5 and a mask by md5"),
    ("a mask by another digest", algorithm(OAEP, seq(explicit(mask("sha256"), 1))), "sha1 and a mask by sha256"),
    ("an unknown digest", algorithm(OAEP, seq(explicit(seq(oid("2.16.840.1.101.3.4.2.8"), NULL), 0))), r"4\.2\.8"),
    ("another mask generator", algorithm(OAEP, seq(explicit(seq(oid(RSA), digest("sha1")), 1))), "use MGF1"),
    ("a mask without a digest", algorithm(OAEP, seq(explicit(seq(oid(MGF1)), 1))), "cannot be read"),
    ("a label", algorithm(OAEP, seq(explicit(label(b"SCEP"), 2))), "leave pSourceAlgorithm out"),
    ("another source of a label", algorithm(OAEP, seq(explicit(seq(oid(RSA), octets(b"")), 2))), "leave pSourceAlgorithm out"),
    ("NULL for parameters", algorithm(OAEP, NULL), "cannot be read"),
    ("two parameters", algorithm(OAEP, seq(), seq()), "cannot be read"),
    ("fields in another order", algorithm(OAEP, seq(explicit(mask("sha256"), 1), explicit(digest("sha256"), 0))), "cannot be"),
    ("a fourth field", algorithm(OAEP, seq(explicit(digest("sha1"), 3))), "cannot be read"),
    ("a digest with parameters", algorithm(OAEP, seq(explicit(digest("sha256", octets(b"x")), 0))), "cannot be read"),
    ("no DER", Algorithm(oid(OAEP), b"\x30\x05\x01"), "cannot be read"),
]


@pytest.mark.parametrize(("found", "said"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_odd_parameters_are_an_algorithm_that_we_do_not_do(found: Algorithm, said: str) -> None:
    with pytest.raises(CmsError, match=said) as caught:
        read_transport(found)
    assert caught.value.problem is CmsProblem.ALGORITHM


@given(st.binary(max_size=80))
def test_parameters_of_any_octets_are_a_transport_or_an_algorithm_error(parameters: bytes) -> None:
    try:
        read_transport(Algorithm(oid(OAEP), parameters))
    except CmsError as error:
        assert error.problem is CmsProblem.ALGORITHM


@pytest.mark.parametrize("hashes", [*itertools.product(["sha1", "sha256", "sha384", "sha512"], ["the same", "sha1"])])
async def test_what_openssl_encrypts_with_oaep_is_read(tmp_path: Path, hashes: tuple[str, str]) -> None:
    content, masking = hashes
    to, pem = recipient(), tmp_path / "ra.pem"
    pem.write_bytes(pem_of(to))
    options = ["rsa_padding_mode:oaep", f"rsa_oaep_md:{content}"]
    options += [f"rsa_mgf1_md:{content if masking == 'the same' else masking}"]
    keyopt = [word for option in options for word in ("-keyopt", option)]
    data = openssl("cms", "-encrypt", "-aes-256-cbc", "-binary", "-outform", "der", "-recip", pem, *keyopt, stdin=PLAIN)
    assert await opened(data, to) == PLAIN


async def test_oaep_that_is_none_says_no_more_than_a_wrong_key(tmp_path: Path) -> None:
    """Each of them ends in the one text of everything that cannot be read."""
    to, public = recipient(), rsa_key("ra").public_key()
    parameters = retag(0x30, seq(explicit(digest("sha256"), 0), explicit(mask("sha256"), 1)))
    oaep = padding.OAEP(padding.MGF1(HASHES["sha256"]), HASHES["sha256"], None)
    ciphertexts = {
        "PKCS #1 inside": public.encrypt(bytes(16), padding.PKCS1v15()),
        "another label": public.encrypt(bytes(16), padding.OAEP(padding.MGF1(HASHES["sha256"]), HASHES["sha256"], b"x")),
        "another length": public.encrypt(bytes(24), oaep),
        "nothing inside": public.encrypt(b"", oaep),
        "no padding": b"\x01" * 256,
    }
    for what, encrypted_key in ciphertexts.items():
        with pytest.raises(CmsError) as caught:
            await opened(
                enveloped(PLAIN[:100], to, encrypted_key=encrypted_key, transport=OAEP, transport_parameters=parameters), to
            )
        assert caught.value.problem is CmsProblem.DECRYPT, what
        assert caught.value.detail == "the encrypted content cannot be read", what


def test_the_names_of_all_are_as_they_go_over_the_socket() -> None:
    assert len({transport.value for transport in KeyTransport}) == len(KeyTransport) == 8
