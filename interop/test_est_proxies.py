"""EST with client certificates through nginx and HAProxy (Debian nginx, haproxy), set up as docs/est.md has it; curl is the client."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from interop.support import make_csr, needs, openssl, run, running, short_directory
from tests.helpers.maker import Maker
from tests.helpers.server import Server, free_ports

pytestmark = [needs("nginx", package="nginx"), needs("haproxy", package="haproxy"), needs("curl", package="curl")]

ENDPOINT = """\
    devices: {profile: device, authenticate: [certificate], client_certificates: {anchors: [line.pem], roles: [device]}}
"""
PROXIES = """
proxies:
  - {addresses: ["127.0.0.2"], client_certificate: rfc9440}
  - {addresses: ["127.0.0.3"], client_certificate: nginx, source_address: x-forwarded-for}
  - {addresses: ["127.0.0.4"], client_certificate: haproxy, source_address: x-forwarded-for}
"""

NGINX = """\
daemon off;
pid {home}/nginx.pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate     {certificate};
    ssl_certificate_key {key};
    ssl_verify_client   optional_no_ca;
    location / {{
      proxy_pass https://127.0.0.1:{upstream};
      proxy_bind 127.0.0.3;
      proxy_ssl_trusted_certificate {root};
      proxy_ssl_verify on;
      proxy_ssl_name localhost;
      proxy_set_header X-SSL-Client-Cert $ssl_client_escaped_cert;
      proxy_set_header X-Forwarded-For   $remote_addr;
    }}
  }}
}}
"""

HAPROXY = """\
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend est
  bind 127.0.0.1:{port} ssl crt {home}/haproxy.pem ca-file {root} verify optional crt-ignore-err all ca-ignore-err all no-tls-tickets
{headers}
  http-request set-header X-Forwarded-For %[src]
  default_backend certwright
backend certwright
  source {source}
  server certwright 127.0.0.1:{upstream} ssl verify required ca-file {root} verifyhost localhost
"""
OWN = "  http-request set-header X-SSL-Client-Cert %[ssl_c_der,base64]"
RFC9440 = """\
  http-request del-header Client-Cert
  http-request del-header Client-Cert-Chain
  http-request set-header Client-Cert :%[ssl_c_der,base64]: if { ssl_c_used }"""


@dataclass(frozen=True)
class Behind:
    server: Server
    maker: Maker
    home: Path
    ports: dict[str, int]

    def enrol(self, proxy: str, device: Path | None, *headers: str) -> tuple[int, str]:
        """HTTP status and body, through this proxy."""
        make_csr(self.home, "device", cn="device-1", names=[])
        sent = openssl("base64", "-in", self.home / "device.der", home=self.home)
        certificate: list[str | Path] = [] if device is None else ["--cert", device]
        more = [part for header in headers for part in ("-H", header)]
        said = run(
            [
                *("curl", "-sS", "--cacert", self.server.ca_file, *certificate, *more, "-w", "\n%{http_code}"),
                *("-H", "Content-Type: application/pkcs10", "--data-binary", "@-"),
                f"https://localhost:{self.ports[proxy]}/.well-known/est/devices/simpleenroll",
            ],
            home=self.home,
            stdin=sent.encode(),
        ).stdout.decode()
        text, _, status = said.rpartition("\n")
        return int(status), text


@contextmanager
def listening(port: int) -> Iterator[None]:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            break
    yield


@pytest.fixture(scope="module")
def behind() -> Iterator[Behind]:
    with short_directory() as home:
        directory, maker = home / "ca", Maker()

        def edit(text: str) -> str:
            (directory / "line.pem").write_bytes(maker.intermediate.public_bytes(Encoding.PEM))
            return text.replace("\n  est:\n    default:", f"\n  est:\n{ENDPOINT}    default:") + PROXIES

        with Server(directory=directory, edit=edit) as server:
            ports = dict(zip(("nginx", "haproxy", "rfc9440"), free_ports(3), strict=True))
            certificate, key = directory / "tls" / "server.pem", directory / "tls" / "server.key"
            both = home / "haproxy.pem"
            both.touch(mode=0o600)
            both.write_bytes(certificate.read_bytes() + key.read_bytes())
            common = {"home": home, "root": server.ca_file, "upstream": server.mtls_port}
            nginx = NGINX.format(**common, certificate=certificate, key=key, port=ports["nginx"])
            haproxy = HAPROXY.format(**common, port=ports["haproxy"], headers=OWN, source="127.0.0.4")
            rfc9440 = HAPROXY.format(**common, port=ports["rfc9440"], headers=RFC9440, source="127.0.0.2")
            for name, text in (("nginx.conf", nginx), ("haproxy.cfg", haproxy), ("rfc9440.cfg", rfc9440)):
                (home / name).write_text(text)
            with (
                running(["nginx", "-c", home / "nginx.conf", "-e", "stderr"], home=home),
                running(["haproxy", "-db", "-f", home / "haproxy.cfg"], home=home),
                running(["haproxy", "-db", "-f", home / "rfc9440.cfg"], home=home),
                listening(ports["nginx"]),
                listening(ports["haproxy"]),
                listening(ports["rfc9440"]),
            ):
                yield Behind(server, maker, home, ports)


EACH = pytest.mark.parametrize("proxy", ["nginx", "haproxy", "rfc9440"])


@EACH
def test_a_device_enrols_by_the_certificate_that_it_shows_to_the_proxy(behind: Behind, proxy: str) -> None:
    status, text = behind.enrol(proxy, behind.maker.device(behind.home))
    assert status == 200, text
    issued = openssl("base64", "-d", home=behind.home, stdin=text.encode())
    assert issued


@EACH
def test_the_proxy_lets_anybody_through_and_certwright_does_not(behind: Behind, proxy: str) -> None:
    status, text = behind.enrol(proxy, Maker().device(behind.home))
    assert status == 403, text
    assert "a CA that is trusted here" in text


@EACH
def test_without_a_certificate_there_is_none(behind: Behind, proxy: str) -> None:
    status, text = behind.enrol(proxy, None)
    assert (status, "no client certificate" in text) == (403, True)


@EACH
@pytest.mark.parametrize("header", ["X-SSL-Client-Cert", "Client-Cert", "Client-Cert-Chain"])
def test_a_client_that_sends_the_header_itself_gets_nothing_by_it(behind: Behind, proxy: str, header: str) -> None:
    device = behind.maker.device(behind.home)
    der = openssl("x509", "-in", device, "-outform", "DER", "-out", behind.home / "device-cert.der", home=behind.home)
    assert not der
    b64 = "".join(openssl("base64", "-in", behind.home / "device-cert.der", home=behind.home).split())
    value = b64 if header.startswith("X-") else f":{b64}:"
    status, text = behind.enrol(proxy, None, f"{header}: {value}")
    assert (status, "no client certificate" in text) == (403, True)


@pytest.mark.parametrize(("proxy", "expected", "says"), [("nginx", 400, "nginx"), ("haproxy", 403, "expired")])
def test_what_becomes_of_an_expired_certificate(behind: Behind, proxy: str, expected: int, says: str) -> None:
    # nginx refuses it itself, so a label's grace is nothing there; HAProxy leaves it to us.
    status, text = behind.enrol(proxy, behind.maker.device(behind.home, expired=True))
    assert (status, says in text) == (expected, True), text
