"""What a worker that was taken over asks of the signer: a leaf with powers that no profile of ours can give."""

from __future__ import annotations

import ipaddress

import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from signer.api import SignerRefused
from signer.envelope import Limits
from tests.helpers.signing import authority, leaf

CA = authority()
LIMITS = Limits.of(CA.envelope())

_SID = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.311.25.2"), b"\x30\x00")
_NETSCAPE = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.16.840.1.113730.1.1"), b"\x03\x02\x00\x07")
_UPN = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x05admin")
_URL = x509.UniformResourceIdentifier("http://ca.test/x")


@pytest.mark.parametrize(
    "extension",
    [
        pytest.param(_SID, id="the security identifier that Active Directory maps an administrator by"),
        pytest.param(_NETSCAPE, id="Netscape's way to say CA"),
        pytest.param(x509.NameConstraints([x509.DNSName("example.com")], None), id="name constraints"),
        pytest.param(x509.PolicyConstraints(0, None), id="policy constraints"),
        pytest.param(x509.OCSPNoCheck(), id="no revocation check"),
        pytest.param(x509.IssuerAlternativeName([x509.DNSName("ca.test")]), id="another name of the issuer"),
    ],
)
def test_an_extension_that_no_profile_can_give_is_refused_though_it_is_not_critical(extension: x509.ExtensionType) -> None:
    with pytest.raises(SignerRefused, match="is none that a leaf may have"):
        LIMITS.check_certificate(leaf(CA, replace={"more": (extension, False)}))


@pytest.mark.parametrize(
    "name",
    [_UPN, _URL, x509.RFC822Name("admin@example.com"), x509.DirectoryName(CA.certificate.subject)],
    ids=["user principal name", "URI", "e-mail", "directory name"],
)
def test_a_name_of_a_kind_that_is_never_validated_is_refused(name: x509.GeneralName) -> None:
    names = x509.SubjectAlternativeName([x509.DNSName("www.example.com"), name])
    with pytest.raises(SignerRefused, match="subject alternative name"):
        LIMITS.check_certificate(leaf(CA, replace={"names": (names, True)}))


def test_all_that_our_profiles_can_give_passes() -> None:
    urls = x509.AuthorityInformationAccess([x509.AccessDescription(AuthorityInformationAccessOID.OCSP, _URL)])
    point = x509.DistributionPoint([_URL], relative_name=None, reasons=None, crl_issuer=None)
    names = [x509.DNSName("*.example.com"), x509.IPAddress(ipaddress.ip_address("192.0.2.1"))]
    more: dict[str, tuple[x509.ExtensionType, bool] | None] = {
        "names": (x509.SubjectAlternativeName(names), True),
        "subject key": (x509.SubjectKeyIdentifier(b"\1" * 20), False),
        "access": (urls, False),
        "lists": (x509.CRLDistributionPoints([point]), False),
        "staple": (x509.TLSFeature([x509.TLSFeatureType.status_request]), False),
    }
    LIMITS.check_certificate(leaf(CA, replace=more))
