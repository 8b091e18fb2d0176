"""For which names, for what and how long; and what nobody gets who is granted something."""

from __future__ import annotations

import datetime as dt
import re

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from tests.helpers import scep
from tests.helpers.front_doors import Door
from tests.helpers.wanted import (
    Wanted,
    email_name,
    extension,
    ip_name,
    rsa_key,
    upn_name,
    uri_name,
)
from tests.helpers.wire import Reply
from tests.protocol.matrix.cells import (
    Attempt,
    Cell,
    Granted,
    Impossible,
    Refused,
    Row,
    asking,
    everywhere,
    finalize_with,
    ordering,
)
from tests.protocol.matrix.site import Site


def naming(*names: str, because: str, acme: Cell | None = None) -> Row:
    """Names that policy does not grant, each as a dNSName beside one that it does. In ACME the order is refused already."""
    mixed = ("host.example.test", *names)
    return asking(Wanted(names=mixed), because, acme=acme or ordering(*mixed, because=because))


def not_granted(name: str) -> Row:
    return naming(name, because=f"does not grant {re.escape(name.lower())}")


def with_cn(text: str) -> Row:
    """Beside a SAN that is granted."""
    return asking(
        Wanted(common_name=text),
        f"does not grant {re.escape(text)}|{re.escape(ascii(text))}|no device name",
        acme=Refused(lambda site, door: site.doors.ask(door, Wanted(common_name=text)), "not one of the order's names|besides"),
    )


def address(site: Site, door: Door) -> Reply:
    if door is Door.ACME:
        return site.account.order("host.example.test", "127.0.0.1")
    return site.doors.ask(door, Wanted(more=(ip_name("127.0.0.1"),)))


NAMES: dict[str, Row] = {
    "another domain": not_granted("evil.test"),
    "another domain in capitals": not_granted("WWW.EVIL.TEST"),
    "the suffix without its dot": not_granted("evil-example.test"),
    "the suffix as a label's end": not_granted("evilexample.test"),
    "the suffix in the middle": not_granted("host.example.test.evil.test"),
    "the bare domain below the star": not_granted("example.test"),
    "a deeper label": not_granted("a.b.example.test"),
    "the top alone": not_granted("test"),
    "a homograph": not_granted("host.xn--exmple-cua.test"),
    "another domain's wildcard": naming(
        "*.evil.test",
        because=r"does not grant \*\.evil\.test",
        acme=ordering("*.evil.test", because="wildcard needs the challenge dns-01"),
    ),
    "a deeper wildcard": naming(
        "*.b.example.test",
        because=r"does not grant \*\.b\.example\.test",
        acme=ordering("*.b.example.test", because="wildcard needs the challenge dns-01"),
    ),
    "two stars": naming("*.*.example.test", because="wildcard is one"),
    "a star inside": naming("ho*st.example.test", because="letters, digits"),
    "a star alone": naming("*", because="wildcard is one"),
    "a trailing dot": naming("host.example.test.", because="dot at its end"),
    "an empty label": naming("host..example.test", because="empty label"),
    "an empty name": naming("", because="empty"),
    "an underscore": naming("_acme-challenge.example.test", because="letters, digits"),
    "a NUL": naming("evil.test\0.example.test", because="letters, digits"),
    "a line feed": naming("host.example.test\nevil.test", because="letters, digits|looks like"),
    "a space": naming("host.example.test evil.test", because="letters, digits"),
    "a name with other letters than ASCII": naming(
        "h\xf6st.example.test", because="not ASCII", acme=Impossible("U-labels are written so in JSON, and mean their A-label")
    ),
    "an address as a name": naming(
        "127.0.0.1", because="looks like an IP address", acme=Impossible("the client's type is ip then")
    ),
    "an address in hex as a name": naming("0x7f.1", because="looks like an IP address"),
    "an address": everywhere(address, "does not grant 127.0.0.1"),
    "an e-mail address": asking(Wanted(more=(email_name("root@example.test"),)), "rfc822Name"),
    "a URI": asking(Wanted(more=(uri_name("spiffe://example.test/root"),)), "uniformResourceIdentifier"),
    "a Windows user": asking(Wanted(more=(upn_name("administrator@example.test"),)), "otherName"),
    "a directory name": asking(Wanted(more=(scep.explicit(scep.seq(), 4),)), "directoryName"),
    "no name at all": asking(
        Wanted(names=()),
        "asks for no name",
        acme=Refused(lambda site, _: finalize_with(site, Wanted(names=())), "it lacks: host.example.test"),
    ),
    "another domain as common name": with_cn("evil.test"),
    "a word as common name": with_cn("administrator"),
    "an LDAP filter as common name": everywhere(
        lambda site, door: site.doors.ask(door, Wanted(common_name="*)(uid=*")),
        "does not grant|no device name",
        acme=Refused(lambda site, door: site.doors.ask(door, Wanted(common_name="*)(uid=*")), "not one of the order's names"),
        rest=Granted(Wanted(common_name="*)(uid=*"), lambda leaf: common_name_is(leaf, "host.example.test")),
    ),
    "101 names": asking(
        Wanted(names=tuple(f"h{number}.example.test" for number in range(101))),
        "101 names are too many",
        acme=ordering(*(f"h{number}.example.test" for number in range(101)), because="100"),
    ),
}


def common_name_is(leaf: x509.Certificate, text: str) -> None:
    assert leaf.subject.rfc4514_string() == f"CN={text}"


# ---------------------------------------------------------------------- for what, and how long


def ahead(days: int) -> str:
    return (dt.datetime.now(dt.UTC) + dt.timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


ENDPOINTS_PROFILE = Impossible("the profile is the credential's or the endpoint's; a request cannot name one")
PROFILES_VALIDITY = Impossible("the validity is the profile's; a request cannot name one")


def with_members(**members: str) -> Attempt:
    return lambda site, door: site.doors.ask(door, Wanted(), None, **members)


def for_time(**days: int) -> Attempt:
    def attempt(site: Site, door: Door) -> Reply:
        rest = {"not_after": "notAfter", "not_before": "notBefore"}
        members = {rest[name] if door is Door.ACME else name: ahead(value) for name, value in days.items()}
        return site.doors.ask(door, Wanted(), None, **members)

    return attempt


TERMS: dict[str, Row] = {
    "a profile that is not granted": everywhere(
        with_members(profile="device"),
        "no policy grants profile device",
        acme=Refused(with_members(profile="short-lived"), "no policy grants profile short-lived"),
        est=ENDPOINTS_PROFILE,
        scep=ENDPOINTS_PROFILE,
    ),
    "a profile that the endpoint does not offer": everywhere(
        with_members(profile="device"),
        "invalidProfile",
        est=ENDPOINTS_PROFILE,
        scep=ENDPOINTS_PROFILE,
        rest=Impossible("REST has one endpoint, which offers them all"),
    ),
    "a profile that is not there": everywhere(
        with_members(profile="root-ca"), "root-ca", est=ENDPOINTS_PROFILE, scep=ENDPOINTS_PROFILE
    ),
    "an end beyond the profile's": everywhere(
        for_time(not_after=48),
        "allows at most 47 days",
        est=PROFILES_VALIDITY,
        scep=PROFILES_VALIDITY,
        rest_pem=PROFILES_VALIDITY,
    ),
    "a beginning in the past": everywhere(
        for_time(not_before=-2), "notBefore", est=PROFILES_VALIDITY, scep=PROFILES_VALIDITY, rest_pem=PROFILES_VALIDITY
    ),
    "an end before the beginning": everywhere(
        for_time(not_before=1, not_after=0),
        "validity",
        est=PROFILES_VALIDITY,
        scep=PROFILES_VALIDITY,
        rest_pem=PROFILES_VALIDITY,
    ),
}


# Whoever gets one of these from us becomes a CA, a CRL signer, an OCSP responder, or unrevokable.
PRIVILEGES = (
    extension("2.5.29.19", scep.seq(b"\x01\x01\xff"), critical=True),  # CA:TRUE
    extension("2.5.29.15", b"\x03\x02\x00\xff", critical=True),  # every key usage, keyCertSign and cRLSign among them
    extension(
        "2.5.29.37", scep.seq(*(scep.oid(f"{dotted}") for dotted in ("2.5.29.37.0", "1.3.6.1.5.5.7.3.9", "1.3.6.1.5.5.7.3.3")))
    ),
    extension("1.3.6.1.5.5.7.48.1.5", b"\x05\x00"),  # ocsp-nocheck
    extension("2.5.29.14", scep.octets(b"chosen by the client")),
    extension("2.5.29.31", scep.seq()),
    extension("2.5.29.30", scep.seq(), critical=True),
    extension("1.3.6.1.4.1.311.25.2", scep.seq(), critical=True),  # the security identifier of a Windows account
)
EXPECTED = {
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.AUTHORITY_INFORMATION_ACCESS,
    ExtensionOID.CRL_DISTRIBUTION_POINTS,
}


def plain_leaf(leaf: x509.Certificate) -> None:
    """Nothing of what the request asked for but its key and its granted name."""
    found = leaf.extensions
    assert {each.oid for each in found} <= EXPECTED
    assert not found.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = found.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    excess = (usage.key_cert_sign, usage.crl_sign, usage.content_commitment, usage.data_encipherment, usage.key_agreement)
    assert not any(excess)
    purposes = list(found.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert purposes in ([ExtendedKeyUsageOID.SERVER_AUTH], [ExtendedKeyUsageOID.CLIENT_AUTH])
    assert found.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest != b"chosen by the client"
    names = found.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("host.example.test")]
    assert leaf.subject.rfc4514_string() in {"", "CN=host.example.test"}


def of_the_subscriber(leaf: x509.Certificate) -> None:
    plain_leaf(leaf)
    assert leaf.public_key() == rsa_key("subscriber").public_key()


def of_a_new_key(leaf: x509.Certificate) -> None:
    plain_leaf(leaf)
    assert leaf.public_key() != rsa_key("subscriber").public_key()


def granting(wanted: Wanted) -> Row:
    return {door: Granted(wanted, of_a_new_key if door is Door.EST_KEYGEN else of_the_subscriber) for door in Door}


GRANTED: dict[str, Row] = {
    "what everybody may have": granting(Wanted()),
    "the granted name in capitals": granting(Wanted(names=("HOST.Example.Test",))),
    "CA:TRUE and every other privilege": granting(Wanted(extensions=PRIVILEGES)),
    "another organisation's subject": granting(
        Wanted(subject=(("2.5.4.6", "US"), ("2.5.4.10", "Evil, Inc."), ("2.5.4.11", "Domain Admins")))
    ),
}
