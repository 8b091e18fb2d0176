"""curl and openssl: the simplest EST client there is, and the one in every manual."""

import re
from pathlib import Path

import pytest

from interop.est import EstSite, agent, idevid
from interop.support import P256, RSA, Held, Site, hold, make_csr, needs, openssl, shell, verify

pytestmark = needs("curl", "openssl", package="curl, openssl")

CACERTS = """
curl -sS --fail --cacert $CA $EST_URL/cacerts | openssl base64 -d | openssl pkcs7 -inform der -print_certs
"""
SIMPLEENROLL = """
openssl base64 -in device.der | curl -sS --fail --cacert $CA -u "$EST_USER:$EST_PASSWORD" -H 'Content-Type: application/pkcs10' \
    --data-binary @- $EST_URL/simpleenroll | openssl base64 -d | openssl pkcs7 -inform der -print_certs
"""


def est_environment(site: Site) -> dict[str, str]:
    return {
        "CA": str(site.root),
        "EST_URL": est_url(site),
        "EST_USER": site["EST_USER"],
        "EST_PASSWORD": site["EST_PASSWORD"],
    }


def est_url(site: Site) -> str:
    """CERTWRIGHT_EST_URL with the path that curl must be told and other clients add themselves."""
    return site["EST_URL"].rstrip("/").removesuffix("/.well-known/est") + "/.well-known/est"


def enrol(site: Site, home: Path) -> Held:
    leaf = home / "device.crt"
    leaf.write_bytes(shell(SIMPLEENROLL, home=home, env=est_environment(site)))
    return hold(site, leaf, home=home)


def test_cacerts_are_the_anchors_that_init_wrote(site: Site, home: Path) -> None:
    printed = home / "cacerts.pem"
    printed.write_bytes(shell(CACERTS, home=home, env=est_environment(site)))
    root = openssl("x509", "-in", site.root, home=home)
    assert root.strip() in printed.read_text()


@pytest.mark.parametrize("key", [P256, RSA], ids=["P-256", "RSA"])
def test_simpleenroll_with_a_password(site: Site, home: Path, key: tuple[str, ...]) -> None:
    name = site.name("curl-device")
    make_csr(home, "device", cn=name, names=[name], key=key)
    verify(enrol(site, home), purpose="sslclient", names=[name])


def test_cacerts_need_no_password_and_simpleenroll_answers_401_with_a_realm(site: Site, home: Path) -> None:
    make_csr(home, "device", cn=site.name("nobody"), names=[])
    script = """
    curl -sS --cacert $CA -o /dev/null -w '%{http_code}\\n' $EST_URL/cacerts
    openssl base64 -in device.der | curl -sS --cacert $CA -H 'Content-Type: application/pkcs10' --data-binary @- \
        -o /dev/null -D headers -w '%{http_code}\\n' $EST_URL/simpleenroll
    openssl base64 -in device.der | curl -sS --cacert $CA -u "$EST_USER:wrong" -H 'Content-Type: application/pkcs10' \
        --data-binary @- -o /dev/null -w '%{http_code}\\n' $EST_URL/simpleenroll
    """
    assert shell(script, home=home, env=est_environment(site)).split() == [b"200", b"401", b"401"]
    assert 'www-authenticate: basic realm="' in (home / "headers").read_text().lower()  # RFC 7030 §3.2.3


def test_a_request_sent_in_chunks_is_taken(site: Site, home: Path) -> None:
    name = site.name("chunked-device")
    make_csr(home, "device", cn=name, names=[name])
    chunked = SIMPLEENROLL.replace("-H ", "-H 'Transfer-Encoding: chunked' -H ", 1)
    leaf = home / "device.crt"
    leaf.write_bytes(shell(chunked, home=home, env=est_environment(site)))
    verify(hold(site, leaf, home=home), purpose="sslclient", names=[name])


def test_a_request_for_a_key_that_is_too_weak_is_refused_with_words(site: Site, home: Path) -> None:
    make_csr(home, "device", cn=site.name("weak"), names=[], key=("rsa:1024",))
    script = SIMPLEENROLL.partition("| openssl base64 -d")[0].replace("--fail", "-w '\\n%{http_code}'")
    said = shell(script, home=home, env=est_environment(site)).decode()
    assert said.rstrip().endswith("400")
    assert "1024" in said


# --- everything else, each at an endpoint of its own ----------------------------------------------------------------------

# What openssl and curl are told by any manual; $LOGIN is how the client proves who it is.
ENROL = """
openssl base64 -in $STEM.der | curl -sS --fail-with-body --cacert $CA $LOGIN -H 'Content-Type: application/pkcs10' \
    --data-binary @- $EST_URL/$OPERATION | openssl base64 -d | openssl pkcs7 -inform der -print_certs
"""
STATUS = """
openssl base64 -in $STEM.der | curl -sS --cacert $CA $LOGIN -H 'Content-Type: application/pkcs10' \
    --data-binary @- -o said -D headers -w '%{http_code}' $EST_URL/$OPERATION
"""


def ask(
    est: EstSite,
    home: Path,
    login: str,
    *,
    label: str,
    stem: str = "device",
    operation: str = "simpleenroll",
    script: str = ENROL,
) -> bytes:
    names = {"CA": str(est.root), "EST_URL": est.url(label), "LOGIN": login, "STEM": stem, "OPERATION": operation}
    return shell(script, home=home, env=names)


def leaf_of(home: Path, printed: bytes, stem: str = "device") -> Path:
    leaf = home / f"{stem}.crt"
    leaf.write_bytes(printed)
    return leaf


def status(
    est: EstSite, home: Path, login: str, *, label: str, stem: str = "device", operation: str = "simpleenroll"
) -> tuple[int, str]:
    """And what was said."""
    code = ask(est, home, login, label=label, stem=stem, operation=operation, script=STATUS)
    said = home / "said"
    return int(code), said.read_text() if said.exists() else ""


def basic(est: EstSite, label: str) -> str:
    return f"-u {label}:{est.password(label)}"


def test_a_certificate_renews_itself_and_brings_a_new_key(est: EstSite, home: Path) -> None:
    name = "curl-renews.example.com"
    make_csr(home, "device", cn=name, names=[name])
    leaf = leaf_of(home, ask(est, home, basic(est, "default"), label="default"))
    make_csr(home, "next", cn=name, names=[name], key=RSA)
    printed = ask(est, home, f"--cert {leaf} --key device.key", label="default", stem="next", operation="simplereenroll")
    renewed = est.hold(leaf_of(home, printed, "next"), home=home)
    verify(renewed, purpose="sslclient", names=[name])
    assert est.shows(renewed.leaf, home=home)["serial"] != est.shows(leaf, home=home)["serial"]


def test_a_renewal_for_another_name_is_refused_with_words(est: EstSite, home: Path) -> None:
    # RFC 7030 §4.2.2: "The request Subject field and SubjectAltName extension MUST be identical to the corresponding fields"
    name = "curl-stays.example.com"
    make_csr(home, "device", cn=name, names=[name])
    leaf = leaf_of(home, ask(est, home, basic(est, "default"), label="default"))
    make_csr(home, "other", cn="somebody-else.example.com", names=["somebody-else.example.com"])
    code, said = status(est, home, f"--cert {leaf} --key device.key", label="default", stem="other", operation="simplereenroll")
    assert (400 <= code < 500, "somebody-else.example.com" in said or "subject" in said.lower()) == (True, True), (code, said)


def test_without_a_certificate_nothing_is_renewed(est: EstSite, home: Path) -> None:
    make_csr(home, "device", cn="curl-nothing", names=[])
    code, said = status(est, home, basic(est, "default"), label="default", operation="simplereenroll")
    assert (code, "TLS handshake" in said) == (403, True), said


def test_what_a_manufacturer_certified_enrols_by_its_certificate(est: EstSite, home: Path) -> None:
    make_csr(home, "device", cn="serial-4711", names=[])
    certificate, key = idevid(est, "serial-4711", home=home)
    leaf = leaf_of(home, ask(est, home, f"--cert {certificate} --key {key}", label="idevid"))
    verify(est.hold(leaf, home=home), purpose="sslclient")
    code, said = status(est, home, f"--cert {certificate} --key {key}", label="idevid", operation="simplereenroll")
    assert code == 403, said  # an IDevID enrols, and is never renewed here


def test_a_certificate_of_one_label_opens_no_other(est: EstSite, home: Path) -> None:
    make_csr(home, "device", cn="curl-default", names=[])
    leaf = leaf_of(home, ask(est, home, basic(est, "default"), label="default"))
    code, said = status(est, home, f"--cert {leaf} --key device.key", label="idevid")
    assert code == 403, said
    code, said = status(est, home, f"--cert {leaf} --key device.key", label="bootstrap", operation="simplereenroll")
    assert code == 403, said


def test_azures_way_a_bootstrap_certificate_enrols_the_next_one(est: EstSite, home: Path) -> None:
    make_csr(home, "est-id", cn="edge-device", names=[])
    bootstrap = leaf_of(home, ask(est, home, basic(est, "bootstrap"), label="bootstrap", stem="est-id"), "est-id")
    make_csr(home, "device-ca", cn="edge-device-ca", names=["edge.example.com"])
    printed = ask(est, home, f"--cert {bootstrap} --key est-id.key", label="bootstrap", stem="device-ca")
    verify(est.hold(leaf_of(home, printed, "device-ca"), home=home), purpose="sslclient", names=["edge.example.com"])


def test_a_registration_authority_enrols_for_others(est: EstSite, home: Path) -> None:
    # RFC 7030 §3.7: "the EST server can use the id-kp-cmcRA extended key usage"
    certificate, key = agent(est, home=home)
    make_csr(home, "device", cn="behind-the-counter", names=["counter.example.com"])
    printed = ask(est, home, f"--cert {certificate} --key {key}", label="cmc")
    verify(est.hold(leaf_of(home, printed), home=home), purpose="sslclient", names=["counter.example.com"])


def test_a_request_waits_for_an_approval_and_comes_back(est: EstSite, home: Path) -> None:
    make_csr(home, "device", cn="curl-waits", names=[])
    code, said = status(est, home, basic(est, "approved"), label="approved")
    headers = (home / "headers").read_text().lower()
    assert (code, said) == (202, "")
    assert re.search(r"^retry-after: \d+\r?$", headers, re.MULTILINE), headers
    assert status(est, home, basic(est, "approved"), label="approved") == (202, "")
    est.approve("curl-waits")
    leaf = leaf_of(home, ask(est, home, basic(est, "approved"), label="approved"))
    assert est.shows(leaf, home=home)["subject"].replace(" ", "") == "CN=curl-waits"


def test_a_request_that_is_denied_is_told_why(est: EstSite, home: Path) -> None:
    make_csr(home, "device", cn="curl-denied", names=[])
    assert status(est, home, basic(est, "approved"), label="approved")[0] == 202
    est.deny("curl-denied", "not one of ours")
    code, said = status(est, home, basic(est, "approved"), label="approved")
    assert (code, "not one of ours" in said) == (403, True), said


@pytest.mark.parametrize("label", ["digest", "tokens"])
def test_nothing_but_what_a_label_takes_opens_it(est: EstSite, home: Path, label: str) -> None:
    make_csr(home, "device", cn="curl-basic", names=[])
    code, said = status(est, home, "-u device:nothing", label=label)
    assert (code, said) == (401, "")
    assert "www-authenticate: basic" not in (home / "headers").read_text().lower()


ATTRIBUTES = "curl -sS --fail --cacert $CA $EST_URL/csrattrs | openssl base64 -d | openssl asn1parse -inform der"


def test_openssl_reads_the_attributes_that_a_label_asks_for(est: EstSite, home: Path) -> None:
    listed = {
        label: shell(ATTRIBUTES, home=home, env={"CA": str(est.root), "EST_URL": est.url(label)}).decode()
        for label in ("oids", "template")
    }
    assert listed["oids"].startswith("    0:d=0")
    assert "OBJECT" in listed["oids"]
    assert "1.2.840.113549.1.9.16.2.61" in listed["template"]  # RFC 9908 §3.4: id-aa-certificationRequestInfoTemplate


def test_a_label_without_attributes_says_204(est: EstSite, home: Path) -> None:
    script = "curl -sS --cacert $CA -w '%{http_code}' $EST_URL/csrattrs"
    assert shell(script, home=home, env={"CA": str(est.root), "EST_URL": est.url()}) == b"204"


def test_digest_enrols(est: EstSite, home: Path) -> None:
    make_csr(home, "device", cn="curl-digest", names=["digest.example.com"])
    login = f"--digest -u digest:{est.password('digest')}"
    leaf = leaf_of(home, ask(est, home, login, label="digest"))
    verify(est.hold(leaf, home=home), purpose="sslclient", names=["digest.example.com"])
    assert status(est, home, "--digest -u digest:wrong", label="digest") == (401, "")


def test_a_token_enrols(est: EstSite, home: Path) -> None:
    make_csr(home, "device", cn="curl-token", names=["token.example.com"])
    token = est.made("token", "--role", "device", label="tokens")
    (home / "token").write_text(f"Authorization: Bearer {token}\n")  # not on the command line, where others may read it
    leaf = leaf_of(home, ask(est, home, "-H @token", label="tokens"))
    verify(est.hold(leaf, home=home), purpose="sslclient", names=["token.example.com"])
    (home / "token").write_text(f"Authorization: Bearer {token[:-1]}\n")
    assert status(est, home, "-H @token", label="tokens") == (401, "")
