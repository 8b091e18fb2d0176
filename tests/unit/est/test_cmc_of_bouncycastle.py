"""BouncyCastle's PKIData, read by us: tests/fixtures/cmc/README.md says how it was made."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import cms, core

from est.cmc.codec import encode_pki_data, parse_pki_data
from est.cmc.messages import CrmfRequest, OtherRequest, Pkcs10Request
from est.cmc.proofs import identity_witness
from pki.cms.types import Digest
from pki.csr import parse_csr

FIXTURES = Path(__file__).parents[2] / "fixtures" / "cmc"
SAID = json.loads((FIXTURES / "messages.json").read_text())
ID_CMC = "1.3.6.1.5.5.7.7."
SECRET = b"a secret of the fixture"


def content(name: str) -> bytes:
    encapsulated = cms.ContentInfo.load((FIXTURES / f"{name}.der").read_bytes())["content"]["encap_content_info"]
    assert encapsulated["content_type"].dotted == "1.3.6.1.5.5.7.12.2"  # id-cct-PKIData
    octets: bytes = encapsulated["content"].untag().contents
    return octets


def controls(name: str) -> dict[str, Any]:
    return {
        control.type.removeprefix(ID_CMC): core.load(control.values[0]) for control in parse_pki_data(content(name)).controls
    }


@pytest.mark.parametrize("name", sorted(SAID))
def test_controls_and_requests_are_what_was_said(name: str) -> None:
    data = parse_pki_data(content(name))
    assert [control.type.removeprefix(ID_CMC) for control in data.controls] == SAID[name]["controls"]
    kinds = {Pkcs10Request: "tcr", CrmfRequest: "crm", OtherRequest: "orm"}
    assert [kinds[type(request)] for request in data.requests] == [said.split()[0] for said in SAID[name]["requests"]]
    parts = [part.body_part for part in (*data.controls, *data.requests)]
    assert sorted(parts) == list(range(1, len(parts) + 1))


@pytest.mark.parametrize("name", sorted(SAID))
def test_we_write_what_we_read_octet_by_octet(name: str) -> None:
    assert encode_pki_data(parse_pki_data(content(name))) == content(name)


@pytest.mark.parametrize("name", sorted(SAID))
def test_every_pkcs10_inside_is_a_request_for_its_name(name: str) -> None:
    for request, said in zip(parse_pki_data(content(name)).requests, SAID[name]["requests"], strict=True):
        if isinstance(request, Pkcs10Request):
            assert parse_csr(request.der).common_name == f"{said.split()[1]}.example.com"


@pytest.mark.parametrize("name", ["secret-tcr", "secret-crm"])
def test_identity_is_proven_over_the_requests_as_they_were_sent(name: str) -> None:
    # RFC 5272 §6.2.1: "The PKIData reqSequence field (encoded exactly as it appears in the Full PKI Request including the sequence
    # type and length) is the value to be validated"; §6.2.3: the identification is hashed with the secret
    data = parse_pki_data(content(name))
    witness = controls(name)["34"][2].native
    assert hmac.digest(hashlib.sha256(SECRET + b"fixture").digest(), data.request_sequence, "sha256") == witness
    assert (
        identity_witness(SECRET.decode(), "fixture", data.request_sequence, digest=Digest.SHA256, mac=Digest.SHA256) == witness
    )
    assert len(controls(name)["22"].native) >= 64  # §6.3.1.1: "at least 512 bits"
