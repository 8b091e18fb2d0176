"""What /csrattrs says, read by the modules of RFC 8951 and RFC 9908 that their authors publish."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from pyasn1.codec.der import decoder, encoder
from pyasn1_alt_modules import rfc5280, rfc8951, rfc9908

from est.csrattrs import csr_attributes
from est.endpoint import CsrAttributes, EstEndpoint, ProofLinking
from pki.plan import KeyUsageBit
from policy import keys
from policy.profiles import CommonName, Profile
from tests.helpers.profiles import CLIENT_AUTH, SERVER_AUTH, device, profile

CHALLENGE_PASSWORD = "1.2.840.113549.1.9.7"  # an object identifier
EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
TEMPLATE = "1.2.840.113549.1.9.16.2.61"
EXTENSION_TEMPLATE = "1.2.840.113549.1.9.16.2.62"
RSA_ENCRYPTION = "1.2.840.113549.1.1.1"
COMMON_NAME = "2.5.4.3"
KEY_USAGE, SUBJECT_ALT_NAME, EXTENDED_KEY_USAGE = "2.5.29.15", "2.5.29.17", "2.5.29.37"
SIGNING = frozenset({KeyUsageBit.DIGITAL_SIGNATURE})
DECRYPTING = frozenset({KeyUsageBit.KEY_ENCIPHERMENT})


def asked(of: Profile, how: CsrAttributes = CsrAttributes.OIDS, linking: ProofLinking = ProofLinking.OFF) -> bytes | None:
    endpoint = EstEndpoint(label="default", profile=of.name, ca_certificates=(b"-",), csr_attributes=how, proof_linking=linking)
    return csr_attributes(endpoint, of)


def read(der: bytes | None, spec: Any) -> Any:
    """Nothing behind it, and the one encoding that DER has."""
    assert der is not None
    value, rest = decoder.decode(der, asn1Spec=spec)
    assert (rest, encoder.encode(value)) == (b"", der)
    return value


def oids(der: bytes | None) -> list[str]:
    return [str(one["oid"]) for one in read(der, rfc8951.CsrAttrs()) if one.getName() == "oid"]


def template(der: bytes | None) -> Any:
    [attribute] = [one["attribute"] for one in read(der, rfc8951.CsrAttrs()) if one.getName() == "attribute"]
    assert str(attribute["attrType"]) == TEMPLATE
    [value] = attribute["attrValues"]
    return read(bytes(value), rfc9908.CertificationRequestInfoTemplate())


def extensions(of: Any) -> dict[str, tuple[bool, bytes | None]]:
    """Those of the template's one attribute: whether it is critical, and its value if it has one."""
    [attribute] = of["attributes"]
    [value] = attribute["values"]
    kind = str(attribute["type"])
    parsed = read(bytes(value), rfc9908.ExtensionReqTemplate() if kind == EXTENSION_TEMPLATE else rfc5280.Extensions())
    found = {
        str(one["extnID"]): (bool(one["critical"]), bytes(one["extnValue"]) if one["extnValue"].isValue else None)
        for one in parsed
    }
    # "otherwise the id-ExtensionReq OID and the respective value of type ExtensionReq MUST be used" (§3.4)
    partial = any(value is None for _, value in found.values())
    assert kind == (EXTENSION_TEMPLATE if partial else EXTENSION_REQUEST)
    assert len(found) == len(parsed)
    return found


def test_none_is_none() -> None:
    assert asked(device(), CsrAttributes.NONE, ProofLinking.REQUIRED) is None


@pytest.mark.parametrize(
    ("of", "linking", "expected"),
    [
        (device(), ProofLinking.OFF, [COMMON_NAME]),
        (device(require_san=True), ProofLinking.OFF, [COMMON_NAME, SUBJECT_ALT_NAME]),
        (profile(), ProofLinking.OFF, [SUBJECT_ALT_NAME]),
        (profile(common_name=CommonName.NONE), ProofLinking.OFF, [SUBJECT_ALT_NAME]),
        # §3.5: whoever is told of challengePassword MUST link; where it is optional, nobody is told.
        (profile(), ProofLinking.OPTIONAL, [SUBJECT_ALT_NAME]),
        (profile(), ProofLinking.REQUIRED, [CHALLENGE_PASSWORD, SUBJECT_ALT_NAME]),
        (profile(key_usage=DECRYPTING), ProofLinking.OFF, [RSA_ENCRYPTION, SUBJECT_ALT_NAME]),
        (profile(key_usage=DECRYPTING | SIGNING), ProofLinking.OFF, [SUBJECT_ALT_NAME]),
    ],
)
def test_oids_name_what_has_to_be_in_a_request_and_no_more(of: Profile, linking: ProofLinking, expected: list[str]) -> None:
    der = asked(of, CsrAttributes.OIDS, linking)
    assert oids(der) == expected
    assert len(read(der, rfc8951.CsrAttrs())) == len(expected)  # plain OIDs only


def test_the_template_comes_after_what_older_clients_read() -> None:
    # RFC 9908 §4: servers MAY send both; older clients ignore the template.
    der = asked(profile(), CsrAttributes.TEMPLATE, ProofLinking.REQUIRED)
    assert oids(der) == [CHALLENGE_PASSWORD, SUBJECT_ALT_NAME]
    assert [one.getName() for one in read(der, rfc8951.CsrAttrs())] == ["oid", "oid", "attribute"]


def test_a_template_has_the_profiles_subject_with_values_and_the_common_name_to_be_filled_in() -> None:
    der = asked(device(subject=(("C", "DE"), ("O", "Example Örg"))), CsrAttributes.TEMPLATE)
    rdns = [list(rdn) for rdn in template(der)["subject"]["rdnSequence"]]
    assert [[str(one["type"]) for one in rdn] for rdn in rdns] == [["2.5.4.6"], ["2.5.4.10"], [COMMON_NAME]]
    values = [bytes(rdn[0]["value"]) if rdn[0]["value"].isValue else None for rdn in rdns]
    # RFC 5280 §4.1.2.4 and appendix A: a country is a PrintableString
    assert values == [b"\x13\x02DE", b"\x0c\x0c" + "Example Örg".encode(), None]


def test_a_template_without_a_wish_about_the_subject_or_the_key_is_silent_about_them() -> None:
    # RFC 9908 §3.4, of the subject: "otherwise it MUST be absent"; of the key: "MUST be absent if the server places no requirements"
    made = template(asked(profile(), CsrAttributes.TEMPLATE))
    assert int(made["version"]) == 0
    assert not made["subject"].isValue
    assert not made["subjectPKInfo"].isValue


def test_a_template_asks_for_rsa_where_nothing_else_can_do_what_the_profile_wants() -> None:
    made = template(asked(profile(key_usage=DECRYPTING), CsrAttributes.TEMPLATE))
    algorithm = made["subjectPKInfo"]["algorithm"]
    assert (str(algorithm["algorithm"]), bytes(algorithm["parameters"])) == (RSA_ENCRYPTION, b"\x05\x00")
    assert not made["subjectPKInfo"]["subjectPublicKey"].isValue  # no size is asked for


def test_a_templates_extensions_are_those_of_the_certificate() -> None:
    made = extensions(template(asked(profile(extended_key_usage=(SERVER_AUTH, CLIENT_AUTH)), CsrAttributes.TEMPLATE)))
    assert made == {
        KEY_USAGE: (True, b"\x03\x02\x07\x80"),
        EXTENDED_KEY_USAGE: (False, usages(SERVER_AUTH, CLIENT_AUTH)),
        SUBJECT_ALT_NAME: (False, None),  # for the client to fill in
    }


def test_a_key_usage_that_depends_on_the_key_is_for_the_client_to_fill_in() -> None:
    made = extensions(template(asked(device(key_usage=SIGNING | DECRYPTING), CsrAttributes.TEMPLATE)))
    assert made == {KEY_USAGE: (True, None), EXTENDED_KEY_USAGE: (False, usages(CLIENT_AUTH))}


def test_extensions_that_are_all_known_are_an_ordinary_extension_request() -> None:
    made = extensions(template(asked(device(key_usage=SIGNING), CsrAttributes.TEMPLATE)))
    assert made == {KEY_USAGE: (True, b"\x03\x02\x07\x80"), EXTENDED_KEY_USAGE: (False, usages(CLIENT_AUTH))}


def usages(*oids_: str) -> bytes:
    return x509.ExtendedKeyUsage([x509.ObjectIdentifier(one) for one in oids_]).public_bytes()


@given(
    how=st.sampled_from([CsrAttributes.OIDS, CsrAttributes.TEMPLATE]),
    linking=st.sampled_from(list(ProofLinking)),
    of=st.builds(
        profile,
        common_name=st.sampled_from(list(CommonName)),
        require_san=st.booleans(),
        key_usage=st.frozensets(st.sampled_from(list(KeyUsageBit)), min_size=1),
        subject=st.lists(
            st.tuples(st.sampled_from(["O", "OU", "L"]), st.text(st.characters(codec="utf-8"), min_size=1, max_size=64)),
            max_size=3,
        ).map(tuple),
    ),
)
def test_whatever_a_profile_says_the_list_is_strict_der(how: CsrAttributes, linking: ProofLinking, of: Profile) -> None:
    der = asked(of, how, linking)
    assert set(oids(der)) <= {CHALLENGE_PASSWORD, RSA_ENCRYPTION, COMMON_NAME, SUBJECT_ALT_NAME}
    if how is CsrAttributes.TEMPLATE:
        made = template(der)
        extensions(made)
        wants = of.subject or of.common_name is CommonName.DEVICE
        assert made["subject"].isValue == bool(wants)


def test_usage_of_any_is_what_every_kind_of_key_gets() -> None:
    for wanted, of_any in (
        (SIGNING, SIGNING),
        (DECRYPTING, DECRYPTING),  # RSA only
        (SIGNING | DECRYPTING, None),
        (frozenset({KeyUsageBit.DIGITAL_SIGNATURE, KeyUsageBit.KEY_AGREEMENT}), SIGNING),  # nobody gets the second
    ):
        assert keys.usage_of_any(wanted) == of_any
