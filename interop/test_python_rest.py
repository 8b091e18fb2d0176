"""Python against the REST API: with `requests` as most scripts do, and with the standard library alone."""

import importlib.util
import json
import ssl
import sys
from pathlib import Path
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

import pytest

from interop.support import Site, hold, make_csr, needs, run, verify

pytestmark = needs("openssl", package="openssl")

# The example of the manual, with the address, the key and the request taken from the environment.
WITH_REQUESTS = """
import os
import requests

headers = {
    'X-API-Key': os.environ['API_KEY'],
    'Content-Type': 'application/json'
}

csr = open('server.csr').read()

response = requests.post(
    os.environ['BASE_URL'] + '/api/v1/certificates',
    headers=headers,
    json={'csr': csr, 'profile': 'tls_server'}
)

if response.status_code == 201:
    cert = response.json()['certificate']
    print(cert)
else:
    raise SystemExit(response.text)
"""


@pytest.mark.skipif(importlib.util.find_spec("requests") is None, reason="client not installed: requests (PyPI)")
def test_the_example_with_requests(site: Site, home: Path) -> None:
    name = site.name("requests")
    make_csr(home, "server", cn=name, names=[name])
    env = {"REQUESTS_CA_BUNDLE": str(site.root), "API_KEY": site["API_KEY"], "BASE_URL": site["BASE_URL"].rstrip("/")}
    leaf = home / "server.crt"
    leaf.write_bytes(run([sys.executable, "-c", WITH_REQUESTS], home=home, env=env).stdout)
    verify(hold(site, leaf, home=home), names=[name])


def test_the_standard_library_alone(site: Site, home: Path) -> None:
    name = site.name("urllib")
    csr = make_csr(home, "server", cn=name, names=[name])
    request = Request(
        f"{site['BASE_URL'].rstrip('/')}/api/v1/certificates",
        data=json.dumps({"csr": csr.read_text(), "profile": "tls-server"}).encode(),
        headers={"X-API-Key": site["API_KEY"], "Content-Type": "application/json"},
    )
    context = ssl.create_default_context(cafile=str(site.root))
    with build_opener(ProxyHandler({}), HTTPSHandler(context=context)).open(request, timeout=30) as response:
        assert response.status == 201
        issued = json.load(response)
    leaf = home / "server.crt"
    leaf.write_text(issued["certificate"])
    verify(hold(site, leaf, home=home), names=[name])
