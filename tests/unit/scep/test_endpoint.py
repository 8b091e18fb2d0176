"""What an endpoint says of itself is what it does."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pki.cms.errors import CmsError
from pki.cms.types import Cipher, Digest
from scep.endpoint import Authority
from tests.helpers.scep import ScepCa, certificate, der_of, rsa_key, self_signed


def test_capabilities_hold_nothing_weak_and_nothing_that_is_not_there() -> None:
    assert ScepCa().endpoint().capabilities() == ("POSTPKIOperation", "SCEPStandard", "AES", "SHA-256", "SHA-384", "SHA-512")


def test_legacy_algorithms_are_named_only_where_they_are_taken() -> None:
    assert set(ScepCa().endpoint(legacy=["sha1", "des-ede3-cbc"]).capabilities()) >= {"SHA-1", "DES3"}
    assert not {"SHA-1", "DES3"} & set(ScepCa().endpoint(legacy=["md5", "des-cbc"]).capabilities())


@pytest.mark.parametrize("switch", ["", "sha1", "md5", "des-cbc", "des-ede3-cbc"])
def test_a_legacy_switch_opens_itself_and_nothing_else(switch: str) -> None:
    endpoint = ScepCa().endpoint(legacy=[switch] if switch else [])
    taken = {each.value for each in Digest if endpoint.takes_digest(each)} | {
        each.value for each in Cipher if endpoint.takes_cipher(each)
    }
    modern = {"sha256", "sha384", "sha512", "aes-128-cbc", "aes-192-cbc", "aes-256-cbc"}
    assert taken == modern | ({switch} if switch else set())
    assert endpoint.legacy_digests == {switch} & {"sha1", "md5"}


def test_an_unknown_switch_is_a_configuration_error() -> None:
    with pytest.raises(ValueError, match="rc4"):
        ScepCa().endpoint(legacy=["rc4"])


def test_an_endpoint_needs_a_ca_certificate_and_an_rsa_ra() -> None:
    endpoint = ScepCa().endpoint()
    with pytest.raises(ValueError, match="no CA certificate"):
        dataclasses.replace(endpoint, ca_certificates=())
    with pytest.raises(CmsError, match="RSA"):
        dataclasses.replace(endpoint, signing=Authority("ra", der_of(self_signed(ec.generate_private_key(ec.SECP256R1())))))


def test_the_root_is_shown_only_where_the_endpoint_says_so() -> None:
    ca = ScepCa()
    issuing = certificate("Issuing", rsa_key("device").public_key(), "Test CA", ca.key, usage="ca", ca=True)
    endpoint = dataclasses.replace(ca.endpoint(), ca_certificates=(der_of(issuing), der_of(ca.certificate)))
    assert endpoint.shown_certificates() == (endpoint.signing.certificate, der_of(issuing))
    with_root = dataclasses.replace(endpoint, include_root=True)
    assert with_root.shown_certificates() == (endpoint.signing.certificate, der_of(issuing), der_of(ca.certificate))


def test_an_issuing_ca_that_is_the_root_is_always_shown() -> None:
    ca = ScepCa()
    assert der_of(ca.certificate) in ca.endpoint().shown_certificates()
