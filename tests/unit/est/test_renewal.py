"""RFC 7030 §4.2.2: "The request Subject field and SubjectAltName extension MUST be identical to the corresponding fields in the
certificate being renewed/rekeyed." """

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from est.renewal import CHANGE_SUBJECT_NAME, Identity, WantedNames, identity, names_to_renew, refuse_change
from pki.csr import parse_csr, read_name_change
from pki.identifiers import parse_dns, parse_ip
from pki.reasons import Reason, Rejection
from policy.profiles import Profile
from tests.helpers.authorities import START, Authority, certify
from tests.helpers.est_world import alternative_names, general_names, make_request, renewal_csr, subject
from tests.helpers.profiles import device
from tests.helpers.scep import octets, retag, seq
from tests.helpers.wanted import ip_name

CA = Authority("CA")
KEEPS, CHANGES = device(), device(subject_change=True)


def name(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(kind, text) for kind, text in attributes])


def held(whose: x509.Name, *names: str) -> bytes:
    san = [(x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), False)] if names else []
    made = certify(whose, CA.key.public_key(), by=CA.signs, extensions=san)  # type: ignore[union-attr]  # it has one
    return made.public_bytes(Encoding.DER)


WHOLE = name((NameOID.ORGANIZATION_NAME, "Example"), (NameOID.COMMON_NAME, "device-1"))
HELD = held(WHOLE, "a.example", "b.example")


def renewed(certificate: bytes = HELD, profile: Profile = KEEPS, **changes: Any) -> WantedNames:
    return names_to_renew(parse_csr(renewal_csr(certificate, **changes)), certificate, profile)


def refusal(certificate: bytes = HELD, profile: Profile = KEEPS, **changes: Any) -> str:
    with pytest.raises(Rejection) as rejected:
        renewed(certificate, profile, **changes)
    assert rejected.value.reason is Reason.FORBIDDEN
    assert rejected.value.suggestions
    return rejected.value.detail


def test_the_same_names_are_what_is_asked_for() -> None:
    assert renewed() == WantedNames((parse_dns("a.example"), parse_dns("b.example")), "device-1")
    assert renewed(held(WHOLE)) == WantedNames((), "device-1")
    assert renewed(held(x509.Name([]), "a.example")) == WantedNames((parse_dns("a.example"),), None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"subject": subject("device-2")}, "its subject is CN='device-2', and the certificate's is O='Example', CN='device-1'"),
        ({"subject": subject("device-1")}, "its subject is CN='device-1'"),
        ({"subject": subject(None)}, "its subject is empty"),
        ({"subject": subject("DEVICE-1")}, "its subject is CN='DEVICE-1'"),
        ({"names": general_names("a.example", "b.example", "c.example")}, "its subjectAltName adds 'c.example'"),
        ({"names": general_names("a.example")}, "its subjectAltName lacks 'b.example'"),
        ({"names": general_names("a.example", "c.example")}, "adds 'c.example' and lacks 'b.example'"),
        ({"names": general_names("b.example", "a.example")}, "in another order or spelling"),
        ({"names": general_names("a.example", "b.example", "b.example")}, "in another order or spelling"),
        ({"names": general_names("A.example", "b.example")}, "adds 'A.example' and lacks 'a.example'"),
        ({"names": seq(ip_name("192.0.2.1"))}, "adds 192.0.2.1 and lacks 'a.example', 'b.example'"),
        ({"names": None}, "it has no subjectAltName, and the certificate has 'a.example', 'b.example'"),
        ({"names": general_names(*(f"{n}.example" for n in range(9)))}, "and 4 more"),
    ],
)
def test_other_names_are_refused_by_name(changes: dict[str, Any], says: str) -> None:
    assert says in refusal(**changes)


def test_a_name_where_the_certificate_has_none_is_refused() -> None:
    assert "and the certificate has none" in refusal(held(WHOLE), names=general_names("a.example"))
    assert "and the certificate has none" in refusal(held(WHOLE), names=seq())


@pytest.mark.parametrize("kind", [_ASN1Type.PrintableString, _ASN1Type.BMPString])
def test_the_same_text_in_another_string_type_is_another_name(kind: _ASN1Type) -> None:
    respelt = x509.Name([next(iter(WHOLE)), x509.NameAttribute(NameOID.COMMON_NAME, "device-1", kind)])
    assert "written in other string types" in refusal(subject=respelt.public_bytes())


def test_the_same_attributes_in_one_set_or_in_another_order_are_another_name() -> None:
    both = list(WHOLE)
    assert "or grouped otherwise" in refusal(subject=x509.Name([x509.RelativeDistinguishedName(both)]).public_bytes())
    assert "its subject is" in refusal(subject=x509.Name(both[::-1]).public_bytes())


def test_text_that_no_terminal_should_see_is_escaped() -> None:
    assert "\x1b" not in refusal(subject=subject("\x1b[2J"))
    assert r"\x1b" in refusal(names=general_names("a.example", "b.example"), subject=subject("\x1b[2J"))


# ---------------------------------------------------------------------- ChangeSubjectName (RFC 6402 §2.8)


def changing(*parts: bytes) -> dict[str, Any]:
    return {"attributes": {CHANGE_SUBJECT_NAME: seq(*parts)}}


NEW_NAMES = general_names("new.example") or b""


def test_new_names_are_asked_for_by_attribute_where_the_profile_takes_it() -> None:
    new = parse_dns("new.example")
    assert renewed(profile=CHANGES, **changing(subject("device-2"), NEW_NAMES)) == WantedNames((new,), "device-2")
    assert renewed(profile=CHANGES, **changing(NEW_NAMES)) == WantedNames((new,), "device-1")
    unchanged = (parse_dns("a.example"), parse_dns("b.example"))
    assert renewed(profile=CHANGES, **changing(subject("device-2"))) == WantedNames(unchanged, "device-2")
    assert renewed(profile=CHANGES, **changing(subject(None))) == WantedNames(unchanged, None)
    assert renewed(profile=CHANGES) == WantedNames(unchanged, "device-1")


def test_a_common_name_that_repeats_an_alternative_name_goes_with_it() -> None:
    host = held(name((NameOID.COMMON_NAME, "a.example")), "a.example")
    assert renewed(host, CHANGES, **changing(NEW_NAMES)) == WantedNames((parse_dns("new.example"),), None)


def test_the_attribute_is_refused_where_the_profile_keeps_names() -> None:
    assert "profile device keeps the names" in refusal(**changing(subject("device-2")))


def test_the_request_itself_stays_for_the_old_names() -> None:
    """Else two readers would see two requests."""
    assert "its subject is CN='device-2'" in refusal(
        profile=CHANGES, subject=subject("device-2"), **changing(subject("device-2"))
    )


def test_an_agents_request_with_the_attribute_is_refused() -> None:
    plain, changed = parse_csr(renewal_csr(HELD)), parse_csr(renewal_csr(HELD, **changing(NEW_NAMES)))
    refuse_change(plain)
    with pytest.raises(Rejection, match="which certificate is renewed"):
        refuse_change(changed)


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (NEW_NAMES, NEW_NAMES),
        (NEW_NAMES, subject("device-2")),
        (subject("device-2"), subject("device-2")),
        (b"\x02\x01\x01",),
        (seq(b"\x02\x01\x01"),),
    ],
    ids=["nothing", "names twice", "wrong order", "subject twice", "an integer", "a sequence of integers"],
)
def test_an_attribute_that_is_none_is_a_bad_request(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(Rejection) as rejected:
        renewed(profile=CHANGES, **changing(*parts))
    assert rejected.value.reason in {Reason.BAD_CSR, Reason.UNSUPPORTED_IDENTIFIER}


def test_kinds_of_names_that_are_not_issued_are_refused_in_the_attribute_too() -> None:
    with pytest.raises(Rejection, match="rfc822Name"):
        renewed(profile=CHANGES, **changing(seq(retag(0x81, octets(b"a@b.example")))))


@given(st.binary(max_size=60))
def test_octets_of_any_kind_are_a_change_or_a_rejection(octets_: bytes) -> None:
    for values in (octets_, retag(0x31, octets(octets_)), retag(0x31, octets(seq(octets_)))):
        try:
            change = read_name_change(values)
        except Rejection:
            continue
        assert (change.subject, change.identifiers) != (None, None)


# ---------------------------------------------------------------------- the certificate's side


def test_an_identity_is_cut_out_octet_by_octet() -> None:
    certificate = x509.load_der_x509_certificate(HELD)
    assert identity(HELD) == Identity(WHOLE.public_bytes(), alternative_names(certificate))
    assert identity(CA.leaf("device-1", begin=START)) == Identity(subject("device-1"), None)


def test_addresses_are_names_too() -> None:
    san = x509.SubjectAlternativeName([x509.IPAddress(parse_ip("192.0.2.1").address), x509.DNSName("a.example")])
    made = CA.leaf("device-1", (san, True))
    assert renewed(made).identifiers == (parse_ip("192.0.2.1"), parse_dns("a.example"))
    request = make_request(subject=subject("device-1"), names=san.public_bytes())
    assert names_to_renew(parse_csr(request), made, KEEPS).common_name == "device-1"
