"""onion-csr-01 (RFC 9799 §3.2): only the key that the name is, over the nonce of this very challenge."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from pki import der
from pki.identifiers import Identifier, parse_dns, parse_ip
from pki.strict import base64url
from tests.helpers.challenges import challenge
from tests.helpers.clock import FakeClock
from tests.helpers.onion import APPLICANT_SIGNING_NONCE, CA_SIGNING_NONCE, OnionService, attribute, octets
from validation.onion import MAX_CSR, ca_signing_nonce, onion_caa, onion_csr01
from validation.outcome import Failed, FailureKind, Outcome, Proved

TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
PROOF = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
NONCE = base64.b64decode(ca_signing_nonce(TOKEN))
SERVICE = OnionService()
OTHER = Ed25519PrivateKey.generate()
OURS = attribute(CA_SIGNING_NONCE, octets(NONCE))
THEIRS = attribute(APPLICANT_SIGNING_NONCE, octets(b"12345678"))


async def attempt(csr: bytes | str | None, identifier: Identifier | None = None, *, wildcard: bool = False) -> Outcome:
    text = base64url(csr) if isinstance(csr, bytes) else csr
    response = () if text is None else (("csr", text),)
    asked = challenge(identifier or parse_dns(SERVICE.name), PROOF, wildcard=wildcard, response=response)
    return await onion_csr01(asked, clock=FakeClock())


async def test_the_services_own_key_over_the_nonce_proves_control() -> None:
    outcome = await attempt(SERVICE.csr(NONCE))
    assert isinstance(outcome, Proved)
    assert (outcome.evidence.method, outcome.evidence.identifier) == ("onion-csr-01", SERVICE.name)


async def test_of_the_names_below_it_and_of_all_of_them_too() -> None:
    """RFC 9799 §3.2: that is what the method is for."""
    assert isinstance(await attempt(SERVICE.csr(NONCE), parse_dns(f"www.{SERVICE.name}")), Proved)
    assert isinstance(await attempt(SERVICE.csr(NONCE), wildcard=True), Proved)


async def test_further_attributes_and_another_order_do_no_harm() -> None:
    extension_request = attribute("1.2.840.113549.1.9.14", der.encode(der.SEQUENCE, b""))
    assert isinstance(await attempt(SERVICE.signed(extension_request, THEIRS, OURS)), Proved)


@pytest.mark.parametrize(
    ("csr", "words"),
    [
        pytest.param(None, 'no member "csr"', id="no csr"),
        pytest.param("", "can be read", id="empty"),
        pytest.param("====", "base64url", id="no base64url"),
        pytest.param(base64.b64encode(SERVICE.csr(NONCE)).decode() + "=", "base64url", id="padded"),
        pytest.param(b"\x30\x03\x02\x01", "can be read", id="cut"),
        pytest.param(SERVICE.csr(NONCE) + b"\0", "can be read", id="more behind it"),
        pytest.param(SERVICE.signed(OURS, THEIRS, attribute("1.2.3", octets(bytes(MAX_CSR)))), "larger than", id="too large"),
        pytest.param(OnionService().csr(NONCE), "not the key that the onion name", id="another service"),
        pytest.param(SERVICE.signed(OURS, THEIRS, shown=OTHER), "not the key that the onion name", id="holds another key"),
        pytest.param(SERVICE.signed(OURS, THEIRS, signer=OTHER), "signature of the csr", id="signed by another key"),
        pytest.param(SERVICE.signed(OURS, THEIRS, algorithm="1.2.840.10045.4.3.2"), "by Ed25519", id="another algorithm"),
        pytest.param(SERVICE.signed(THEIRS), "no attribute caSigningNonce", id="without our nonce"),
        pytest.param(SERVICE.csr(NONCE[:-1]), "not the nonce", id="cut nonce"),
        pytest.param(SERVICE.csr(ca_signing_nonce(TOKEN).encode()), "not its base64", id="nonce in base64"),
        pytest.param(SERVICE.csr(base64.b64decode(ca_signing_nonce(TOKEN + "x"))), "not the nonce", id="of another challenge"),
        pytest.param(SERVICE.csr(b""), "not the nonce", id="empty nonce"),
        pytest.param(SERVICE.signed(attribute(CA_SIGNING_NONCE), THEIRS), "can be read", id="no value"),
        pytest.param(
            SERVICE.signed(attribute(CA_SIGNING_NONCE, octets(NONCE), octets(NONCE)), THEIRS), "can be read", id="two values"
        ),
        pytest.param(
            SERVICE.signed(attribute(CA_SIGNING_NONCE, der.encode(der.UTF8_STRING, NONCE)), THEIRS),
            "can be read",
            id="as text",
        ),
        pytest.param(SERVICE.signed(OURS, OURS, THEIRS), "twice", id="our nonce twice"),
        pytest.param(SERVICE.signed(OURS), "no attribute applicantSigningNonce", id="without theirs"),
        pytest.param(SERVICE.csr(NONCE, applicant_nonce=b"1234567"), "fewer than 8", id="theirs too short"),
    ],
)
async def test_anything_less_or_more_does_not(csr: bytes | str | None, words: str) -> None:
    outcome = await attempt(csr)
    assert isinstance(outcome, Failed), outcome
    assert outcome.kind is FailureKind.RESPONSE
    assert outcome.problem == "incorrectResponse"
    assert words in outcome.detail
    assert SERVICE.name in outcome.detail


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
async def test_no_single_octet_of_the_right_answer_can_be_another(at: int, change: int) -> None:
    right = bytearray(SERVICE.csr(NONCE))
    right[at % len(right)] ^= change
    assert isinstance(await attempt(bytes(right)), Failed)


@given(st.binary(max_size=200))
async def test_any_octets_are_an_outcome(octets_: bytes) -> None:
    assert isinstance(await attempt(octets_), Failed)


@pytest.mark.parametrize("identifier", [parse_dns("example.com"), parse_ip("192.0.2.1"), parse_dns("onion.example.com")])
async def test_no_other_name_is_proved_so(identifier: Identifier) -> None:
    """RFC 9799 §3.2: MUST NOT."""
    with pytest.raises(ValueError, match="onion names only"):
        await attempt(SERVICE.csr(NONCE), identifier)


def test_the_nonce_is_the_same_octets_in_both_alphabets_of_base64() -> None:
    text = ca_signing_nonce(TOKEN)
    assert base64.b64decode(text, validate=True) == base64.urlsafe_b64decode(text)
    assert base64.b64encode(NONCE).decode() == text
    assert len(NONCE) >= 8
    assert ca_signing_nonce(TOKEN[:-1]) != text
    assert TOKEN not in text


def test_caa_of_an_onion_permits_nothing_unread() -> None:
    name = parse_dns(f"*.{SERVICE.name}")
    outcome = onion_caa(name, clock=FakeClock())
    assert outcome.evidence.name == str(name)
    assert "descriptor" in outcome.detail
