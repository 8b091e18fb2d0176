"""curl and openssl: the simplest EST client there is, and the one in every manual."""

from pathlib import Path

import pytest

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
