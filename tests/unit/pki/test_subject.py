"""Subjects as people write them, and as requests hold them."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from pki.reasons import Reason, Rejection
from pki.subject import Subject, common_name, parse_subject, read_subject, subject_text

CN, ORG, UNSTRUCTURED = "2.5.4.3", "2.5.4.10", "1.2.840.113549.1.9.2"


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("CN=dev1,O=Proto", ((ORG, "Proto"), (CN, "dev1"))),
        ("O=Proto, CN=dev1", ((ORG, "Proto"), (CN, "dev1"))),
        (" cn = dev1 + o = Proto ", ((ORG, "Proto"), (CN, "dev1"))),
        ("2.5.4.3=dev1", ((CN, "dev1"),)),
        ("unstructuredName=r7.example.com", ((UNSTRUCTURED, "r7.example.com"),)),
        (r"CN=a\,b\+c\\d\ ", ((CN, "a,b+c\\d "),)),
        (r"CN=\#1 J\C3\B6rg=x", ((CN, "#1 Jörg=x"),)),
        ("CN=Jo\u0308rg", ((CN, "Jörg"),)),
        (
            "E=a@example.com,S=Ohio,G=Ann",
            tuple(sorted([("1.2.840.113549.1.9.1", "a@example.com"), ("2.5.4.8", "Ohio"), ("2.5.4.42", "Ann")])),
        ),
        ("", ()),
    ],
)
def test_a_subject_is_read_as_people_write_it(text: str, subject: Subject) -> None:
    assert parse_subject(text) == tuple(sorted(subject))
    assert parse_subject(subject_text(parse_subject(text))) == tuple(sorted(subject))


@pytest.mark.parametrize(
    "text",
    ["dev1", "/O=Proto/CN=dev1", "CN=", "CN=a,", ",CN=a", "CN=a;O=b", 'CN="a"', "CN=#0c0161", "X=1", r"CN=\ff", "CN=a\\", "CN=\x07",
     r"CN=\00", "CN=a=b+", "9.9=x", "CN=" + "a" * 1024],
)  # fmt: skip
def test_what_is_no_subject_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(Rejection) as refused:
        parse_subject(text)
    assert refused.value.reason is Reason.MALFORMED
    assert "CN=router7,O=Example" in refused.value.suggestions[0]


@pytest.mark.parametrize(
    "kind", [_ASN1Type.UTF8String, _ASN1Type.PrintableString, _ASN1Type.T61String, _ASN1Type.BMPString, _ASN1Type.IA5String]
)
def test_a_request_says_the_same_in_every_type_of_string(kind: _ASN1Type) -> None:
    name = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Proto"), x509.NameAttribute(NameOID.COMMON_NAME, "dev1", kind)]
    )
    assert read_subject(name.public_bytes()) == parse_subject("CN=dev1,O=Proto")
    assert read_subject(name.public_bytes()) != parse_subject("CN=Dev1,O=Proto")
    assert common_name(read_subject(name.public_bytes())) == "dev1"


def test_what_is_no_character_string_is_nothing_that_can_be_written() -> None:
    name = x509.Name([x509.NameAttribute(NameOID.X500_UNIQUE_IDENTIFIER, b"\0a", _ASN1Type.BitString)])
    ((kind, value),) = read_subject(name.public_bytes())
    assert (kind, value[0]) == ("2.5.4.45", "\0")
    assert common_name(read_subject(name.public_bytes())) is None


VALUES = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)


@given(st.lists(st.tuples(st.sampled_from(["CN", "o", "2.5.4.99"]), VALUES), max_size=4))
@settings(max_examples=100, deadline=None)
def test_what_is_written_is_read_again(attributes: list[tuple[str, str]]) -> None:
    try:
        subject = parse_subject(",".join(f"{kind}={value}" for kind, value in attributes))
    except Rejection:
        return
    assert parse_subject(subject_text(subject)) == subject


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_subject_or_refused(text: str) -> None:
    try:
        parse_subject(text)
    except Rejection as rejection:
        assert rejection.reason is Reason.MALFORMED
