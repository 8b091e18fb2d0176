"""Every octet of a message can be wrong: a value or a CmsError, nothing else. Mutations of real messages reach deeper than noise."""

from __future__ import annotations

import contextlib
import functools

from asn1crypto import cms as asn1_cms
from hypothesis import given, settings
from hypothesis import strategies as st

from pki import der
from pki.cms.ber import normalise
from pki.cms.envelope import parse_enveloped
from pki.cms.errors import CmsError, CmsProblem
from pki.cms.signed import parse_signed, verify
from pki.cms.transport import read_transport
from pki.cms.types import read_certificate
from pki.der import DerError
from scep.message import has_key, parse
from signer.api import SignerRefused
from signer.messages import check_announcement, check_cert_rep
from tests.helpers.mutations import mutations
from tests.helpers.scep import (
    HASH_OIDS,
    NULL,
    Message,
    ScepCa,
    csr,
    der_of,
    enveloped,
    explicit,
    octets,
    oid,
    pkcs_req,
    rsa_key,
    self_signed,
    seq,
)
from tests.helpers.signing_messages import cert_rep

OAEP, MGF1, P_SPECIFIED = (f"1.2.840.113549.1.1.{last}" for last in (7, 8, 9))


def whole_oaep() -> bytes:
    """RSAES-OAEP-params with every field."""
    digest = seq(oid(HASH_OIDS["sha256"]), NULL)
    return seq(explicit(digest, 0), explicit(seq(oid(MGF1), digest), 1), explicit(seq(oid(P_SPECIFIED), octets(b"")), 2))


@functools.cache
def seeds() -> tuple[bytes, ...]:
    ca = ScepCa()
    pss = Message(content=b"x", pss=True)
    return (
        pkcs_req(ca).encode(),
        pss.encode(),
        enveloped(b"content", ca.ra),
        enveloped(b"content", ca.ra, transport=OAEP, transport_parameters=whole_oaep()),
        cert_rep(status="2"),
        der_of(ca.certificate),
        csr(rsa_key("device")),
    )


def everything(data: bytes) -> None:
    signer = read_certificate(der_of(self_signed(rsa_key("device"))))
    with contextlib.suppress(CmsError):
        assert normalise(normalise(data)) == normalise(data)
    with contextlib.suppress(CmsError):
        verify(parse_signed(data))
    with contextlib.suppress(CmsError):
        parse(data)
    with contextlib.suppress(CmsError):
        for recipient in parse_enveloped(data).recipients:
            read_transport(recipient.key_algorithm)
    with contextlib.suppress(SignerRefused):
        check_cert_rep(data, digest_size=32)
    with contextlib.suppress(SignerRefused):
        check_announcement(data, digests={bytes(32)})
    with contextlib.suppress(CmsError):
        read_certificate(data).rsa_key()
    has_key(data, signer)


@settings(max_examples=400, deadline=None)
@given(mutations(seeds))
def test_a_mutated_message_is_a_value_or_a_cms_error(data: bytes) -> None:
    everything(data)


def judged(data: bytes) -> bytes | CmsProblem:
    try:
        return normalise(data)
    except CmsError as error:
        return error.problem


def loosened(data: bytes) -> bytes:
    """The same element, its length in more octets than needed: nothing in it may be taken as it is unless all of it may."""
    element, end = der.read(data)
    return bytes((element.tag, 0x84)) + len(element.content).to_bytes(4, "big") + element.content + data[end:]


@settings(max_examples=400, deadline=None)
@given(mutations(seeds) | st.lists(st.sampled_from(b"0001$\xa0\x80\x04\x06\x02"), min_size=2, max_size=14).map(bytes))
def test_what_is_normal_already_is_judged_like_every_other_spelling(data: bytes) -> None:
    with contextlib.suppress(DerError):
        assert judged(loosened(data)) == judged(data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_a_value_or_a_cms_error(data: bytes) -> None:
    everything(data)


@settings(max_examples=150, deadline=None)
@given(mutations(seeds))
def test_what_verifies_is_what_another_parser_reads(data: bytes) -> None:
    """Signature wrapping: if `verify` accepts it, then asn1crypto sees the same content, signer and transaction."""
    try:
        signed = parse_signed(data)
        verify(signed)
    except CmsError:
        return
    other = asn1_cms.ContentInfo.load(normalise(data))["content"]
    (info,) = other["signer_infos"]
    assert other["encap_content_info"]["content"].native == signed.content
    assert info["signature"].native == signed.info.signature
    assert len(info["signed_attrs"]) == len(signed.attributes)
