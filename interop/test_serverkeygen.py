"""Keys made by the server (RFC 7030 §4.4): fetched by curl and by BouncyCastle, read with openssl and with Python's mail parser."""

from __future__ import annotations

import base64
from email import message_from_bytes
from pathlib import Path

import pytest
from asn1crypto import cms

from interop.bouncycastle import java, needs_bouncycastle
from interop.est import EstSite
from interop.support import P256, RSA, make_csr, needs, openssl, run, shell, verify

pytestmark = needs("curl", "openssl", package="curl, openssl")

LABEL = "keys"
FETCH = """
openssl base64 -in $STEM.der | curl -sS --fail --cacert $CA $LOGIN -H 'Content-Type: application/pkcs10' --data-binary @- \\
    -D headers -o body $EST_URL/serverkeygen
"""
CACERTS = """
curl -sS --fail --cacert $CA $EST_URL/cacerts | openssl base64 -d | openssl pkcs7 -inform der -print_certs -out cacerts.pem
"""
NAME = "made-for.example.com"


def fetched(est: EstSite, home: Path, login: str, stem: str = "device") -> list[tuple[str, bytes]]:
    """The parts: media type, and what their base64 says."""
    names = {"CA": str(est.root), "EST_URL": est.url(LABEL), "LOGIN": login, "STEM": stem}
    shell(FETCH, home=home, env=names)
    head = (home / "headers").read_text().splitlines()
    [content_type] = [line for line in head if line.lower().startswith("content-type:")]
    message = message_from_bytes(content_type.encode() + b"\r\n\r\n" + (home / "body").read_bytes())
    assert message.get_content_type() == "multipart/mixed"
    found = []
    for part in message.walk():
        if not part.is_multipart():
            assert part["Content-Transfer-Encoding"] == "base64"
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            found.append((str(part["Content-Type"]), content))
    return found


def basic(est: EstSite) -> str:
    return f"-u {LABEL}:{est.password(LABEL)}"


def certificate_of(home: Path, part: tuple[str, bytes], stem: str = "made") -> Path:
    kind, der = part
    assert kind == "application/pkcs7-mime; smime-type=certs-only"
    leaf = home / f"{stem}.crt"
    leaf.write_text(openssl("pkcs7", "-inform", "der", "-print_certs", home=home, stdin=der))
    return leaf


def content_info(signed_data: bytes) -> bytes:
    return bytes(cms.ContentInfo({"content_type": "signed_data", "content": cms.SignedData.load(signed_data)}).dump())


def belongs(home: Path, key: Path, leaf: Path) -> bool:
    public = openssl("pkey", "-in", key, "-pubout", home=home)
    return public == openssl("x509", "-in", leaf, "-noout", "-pubkey", home=home)


@pytest.mark.parametrize("key", [P256, RSA], ids=["P-256", "RSA"])
def test_curl_gets_a_key_and_its_certificate_and_never_the_same_again(est: EstSite, home: Path, key: tuple[str, ...]) -> None:
    make_csr(home, "device", cn=NAME, names=[NAME], key=key)
    seen = []
    for _ in range(2):
        (kind, pkcs8), certs = fetched(est, home, basic(est))
        assert kind == "application/pkcs8"
        leaf, made = certificate_of(home, certs), home / "made.key"
        made.write_text(openssl("pkey", "-inform", "der", home=home, stdin=pkcs8))
        assert belongs(home, made, leaf)
        assert not belongs(home, home / "device.key", leaf)
        verify(est.hold(leaf, home=home), purpose="sslclient", names=[NAME])
        seen.append(pkcs8)
    assert seen[0] != seen[1]
    said = est.server.log_text()
    assert not [one for one in seen if base64.b64encode(one)[40:80].decode() in said]


def unsealed(est: EstSite, home: Path, part: tuple[str, bytes], *decrypt: str | Path) -> Path:
    """The key in a package: decrypted as `decrypt` says, its signature verified with what /cacerts gives. Writes made.key."""
    kind, sealed = part
    assert kind == "application/pkcs7-mime; smime-type=server-generated-key"
    (home / "sealed.der").write_bytes(sealed)
    words = [
        "openssl",
        "cms",
        "-decrypt",
        "-inform",
        "der",
        "-in",
        "sealed.der",
        *decrypt,
        "-binary",
        "-out",
        "signed-data.der",
    ]
    run(words, home=home)
    # RFC 5652 §6.3: what is encrypted is the content, a SignedData, without the ContentInfo that openssl looks for.
    (home / "signed.der").write_bytes(content_info((home / "signed-data.der").read_bytes()))
    shell(CACERTS, home=home, env={"CA": str(est.root), "EST_URL": est.url(LABEL)})
    verified = ["openssl", "cms", "-verify", "-inform", "der", "-in", "signed.der", "-CAfile", "cacerts.pem", "-purpose", "any"]
    run([*verified, "-binary", "-out", "package.der"], home=home)
    # AsymmetricKeyPackage is a SEQUENCE OF OneAsymmetricKey, which is PKCS #8's structure (RFC 5958 §2).
    listed = openssl("asn1parse", "-inform", "der", "-in", "package.der", home=home).splitlines()
    offset = int(listed[1].split(":")[0])
    (home / "key.der").write_bytes((home / "package.der").read_bytes()[offset:])
    made = home / "made.key"
    made.write_text(openssl("pkey", "-inform", "der", "-in", "key.der", home=home))
    return made


@pytest.mark.skipif(any(mark.args[0] for mark in needs_bouncycastle()), reason="BouncyCastle writes the request")
def test_openssl_decrypts_a_key_that_was_made_for_the_certificate_that_asked(est: EstSite, classes: Path, home: Path) -> None:
    # RFC 7030 §4.4.1.2: AsymmetricDecryptKeyIdentifier
    make_csr(home, "own", cn=NAME, names=[NAME], key=RSA)
    own = home / "own.crt"
    own.write_bytes(
        shell(
            "openssl base64 -in own.der | curl -sS --fail --cacert $CA $LOGIN -H 'Content-Type: application/pkcs10' "
            "--data-binary @- $EST_URL/simpleenroll | openssl base64 -d | openssl pkcs7 -inform der -print_certs",
            home=home,
            env={"CA": str(est.root), "EST_URL": est.url(LABEL), "LOGIN": basic(est)},
        )
    )
    make_csr(home, "wish", cn=NAME, names=[NAME])
    java(classes, "KeyRequest", "wish", home / "wish.der", "--to", own, home=home)
    key, certs = fetched(est, home, f"--cert {own} --key own.key", "wish")
    made = unsealed(est, home, key, "-recip", own, "-inkey", home / "own.key")
    assert belongs(home, made, certificate_of(home, certs))


@pytest.mark.skipif(any(mark.args[0] for mark in needs_bouncycastle()), reason="BouncyCastle writes the request")
def test_openssl_decrypts_a_key_that_was_made_for_a_shared_key(est: EstSite, classes: Path, home: Path) -> None:
    # RFC 7030 §4.4.1.1: DecryptKeyIdentifier
    key_id = "0badcafe"
    shared = est.made("key", "--id", key_id, label=LABEL)
    make_csr(home, "wish", cn=NAME, names=[NAME])
    java(classes, "KeyRequest", "wish", home / "wish.der", "--shared", key_id, home=home)
    key, certs = fetched(est, home, basic(est), "wish")
    made = unsealed(est, home, key, "-secretkey", shared, "-secretkeyid", key_id)
    assert belongs(home, made, certificate_of(home, certs))


@pytest.mark.skipif(any(mark.args[0] for mark in needs_bouncycastle()), reason="BouncyCastle is the client")
def test_bouncycastle_gets_a_key_and_its_certificate(est: EstSite, classes: Path, home: Path) -> None:
    csr, leaf, key = make_csr(home, "device", cn=NAME, names=[NAME]), home / "made.crt", home / "made.key"
    words: list[str | Path] = ["serverkeygen", "--url", est.server_url, "--ca", est.root, "--label", LABEL, "--user", LABEL]
    files: list[str | Path] = ["--csr", csr, "--out", leaf, "--key-out", key]
    java(classes, "Est", *words, *files, home=home, env={"EST_PASSWORD": est.password(LABEL)})
    assert belongs(home, key, leaf)
    verify(est.hold(leaf, home=home), purpose="sslclient", names=[NAME])
