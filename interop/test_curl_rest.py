"""curl against the REST API: what a deployment script does."""

import json
from pathlib import Path

import pytest

from interop.support import P256, RSA, Site, hold, make_csr, needs, run, shell, verify, verify_revoked

pytestmark = needs("curl", "openssl", package="curl, openssl")

JSON_BODY = """
curl -sS --fail-with-body --cacert $CA -X POST $BASE_URL/api/v1/certificates \
    -H "X-API-Key: $API_KEY" -H 'Content-Type: application/json' -d @request.json
"""
# With a content type, with curl's own (a form), and with `-d`, which drops every newline of the file.
PEM_BODIES = {
    "named type": "-H 'Content-Type: application/pkcs10' --data-binary @server.csr",
    "binary": "--data-binary @server.csr",
    "newlines dropped": "-d @server.csr",
    "DER": "-H 'Content-Type: application/pkcs10' --data-binary @server.der",
}


def rest_environment(site: Site) -> dict[str, str]:
    return {"CA": str(site.root), "BASE_URL": site["BASE_URL"].rstrip("/"), "API_KEY": site["API_KEY"]}


def post(body: str) -> str:
    return (
        f"curl -sS --fail-with-body --cacert $CA -X POST $BASE_URL/api/v1/certificates "
        f'-H "X-API-Key: $API_KEY" -H "Accept: application/json" {body}'
    )


def check(site: Site, home: Path, answer: bytes, name: str) -> str:
    """The answer of 201: a certificate that stands up, its chain, its serial."""
    issued = json.loads(answer)
    leaf, chain = home / "server.crt", home / "chain.crt"
    leaf.write_text(issued["certificate"])
    offered = issued["chain"]
    chain.write_text(offered if isinstance(offered, str) else "".join(offered))
    held = hold(site, leaf, home=home, chain=chain)
    verify(held, names=[name])
    serial: str = issued["serial"]
    printed = run(["openssl", "x509", "-in", leaf, "-noout", "-serial"], home=home).stdout.decode()
    assert printed.strip().partition("=")[2].lower().lstrip("0") == serial.lstrip("0")
    assert serial == serial.lower()
    return serial


@pytest.mark.parametrize("key", [P256, RSA], ids=["P-256", "RSA"])
def test_a_json_body_gets_a_certificate(site: Site, home: Path, key: tuple[str, ...]) -> None:
    name = site.name("json")
    csr = make_csr(home, "server", cn=name, names=[name], key=key)
    (home / "request.json").write_text(json.dumps({"csr": csr.read_text(), "profile": "tls-server"}))
    check(site, home, shell(JSON_BODY, home=home, env=rest_environment(site)), name)


@pytest.mark.parametrize("body", PEM_BODIES.values(), ids=PEM_BODIES.keys())
def test_a_request_as_the_whole_body_gets_a_certificate(site: Site, home: Path, body: str) -> None:
    name = site.name("pem")
    make_csr(home, "server", cn=name, names=[name])
    check(site, home, shell(post(body), home=home, env=rest_environment(site)), name)


def test_the_pull_script_leaves_a_file_that_openssl_reads(site: Site, home: Path) -> None:
    # One line more than in the document: who wants PEM instead of JSON says so.
    script = """
    openssl req -new -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj "/C=US/O=Example Corp/CN=$NAME"
    curl -sS --fail-with-body --cacert $CA -X POST $BASE_URL/api/v1/certificates \
      -H "X-API-Key: $API_KEY" \
      -H "Accept: application/pem-certificate-chain" \
      -d @server.csr \
      -o server.crt
    openssl x509 -in server.crt -noout -text
    """
    printed = shell(script, home=home, env={**rest_environment(site), "NAME": site.name("pull")})
    assert f"DNS:{site.name('pull')}".encode() in printed


def test_a_certificate_is_shown_listed_and_revoked_by_its_serial(site: Site, home: Path) -> None:
    name = site.name("revoked")
    make_csr(home, "server", cn=name, names=[name])
    serial = check(site, home, shell(post(PEM_BODIES["binary"]), home=home, env=rest_environment(site)), name)
    env = {**rest_environment(site), "SERIAL": serial}
    get = 'curl -sS --fail-with-body --cacert $CA -H "X-API-Key: $API_KEY" $BASE_URL/api/v1/certificates'
    assert json.loads(shell(f"{get}/$SERIAL", home=home, env=env))["serial"] == serial
    assert serial in shell(get, home=home, env=env).decode()
    revoke = """
    curl -sS --fail-with-body --cacert $CA -X POST $BASE_URL/api/v1/certificates/$SERIAL/revoke \
        -H "X-API-Key: $API_KEY" -H 'Content-Type: application/json' -d '{"reason": "keyCompromise"}'
    """
    shell(revoke, home=home, env=env)
    held = hold(site, home / "server.crt", home=home, chain=home / "chain.crt")
    verify_revoked(held, "keyCompromise", "Key Compromise")


def test_a_wrong_key_is_refused_in_the_words_of_the_api(site: Site, home: Path) -> None:
    make_csr(home, "server", cn=site.name("nobody"), names=[])
    script = post("-w '\\n%{http_code}' --data-binary @server.csr").replace("--fail-with-body", "")
    said = shell(script, home=home, env={**rest_environment(site), "API_KEY": "wrong"}).decode()
    body, _, status = said.rpartition("\n")
    problem = json.loads(body)
    assert status == "401"
    assert problem["status"] == "authorization_error"
    assert problem["error"]
    assert problem["retry_allowed"] is False
    assert isinstance(problem["suggestions"], list)
