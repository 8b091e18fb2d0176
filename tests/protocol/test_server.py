"""A whole server over its sockets: trust and status pages, health, metrics, and an edge that nothing gets past."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import urllib.parse
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from tests.helpers.postgres import PostgresServer
from tests.helpers.server import Server, run


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def ask(
    server: Server, method: str, path: str, *, port: int | None = None, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Plain HTTP, exactly this path."""
    connection = http.client.HTTPConnection("localhost", port or server.http_port, timeout=30)
    try:
        connection.request(method, path, body=body or None, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def issue(server: Server, name: str) -> x509.Certificate:
    """One certificate by the REST API."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=False)
    body = csr.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    context = ssl.create_default_context(cafile=str(server.ca_file))
    connection = http.client.HTTPSConnection("localhost", server.https_port, context=context, timeout=30)
    try:
        headers = {
            "Authorization": f"Bearer {server.environment['CERTWRIGHT_API_KEY']}",
            "Content-Type": "application/x-pem-file",
        }
        connection.request("POST", "/api/v1/certificates", body=body, headers=headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 201, text
        return x509.load_pem_x509_certificate(json.loads(text)["certificate"].encode())
    finally:
        connection.close()


def issuer(server: Server, name: str = "issuing") -> x509.Certificate:
    return x509.load_pem_x509_certificate((server.directory / "ca" / f"{name}.pem").read_bytes())


# ---------------------------------------------------------------------- trust


def test_the_roots_are_there_in_pem(server: Server) -> None:
    status, _, body = ask(server, "GET", "/roots.pem")
    assert status == 200
    assert x509.load_pem_x509_certificates(body) == x509.load_pem_x509_certificates(server.ca_file.read_bytes())


def test_an_issuers_certificate_is_der_by_the_media_type_of_rfc_2585(server: Server) -> None:
    status, headers, body = ask(server, "GET", "/aia/issuing.cer")
    assert (status, headers["content-type"]) == (200, "application/pkix-cert")
    assert x509.load_der_x509_certificate(body) == issuer(server)


def test_every_issuer_has_a_crl_from_the_first_request_on(server: Server) -> None:
    for name in ("issuing", "devices"):
        status, headers, body = ask(server, "GET", f"/crl/{name}.crl")
        assert (status, headers["content-type"]) == (200, "application/pkix-crl")
        crl = x509.load_der_x509_crl(body)
        assert crl.is_signature_valid(issuer(server, name).public_key())  # type: ignore[arg-type]  # an EC or RSA key
        assert crl.next_update_utc is not None
        assert crl.next_update_utc > datetime.now(UTC) + timedelta(days=3)


def test_a_crl_that_the_client_has_already_is_not_sent_again(server: Server) -> None:
    _, headers, _ = ask(server, "GET", "/crl/issuing.crl")
    status, again, body = ask(server, "GET", "/crl/issuing.crl", headers={"If-None-Match": headers["etag"]})
    assert (status, body, again["etag"]) == (304, b"", headers["etag"])


def test_an_issuer_that_is_not_ours_is_not_found(server: Server) -> None:
    for path in ("/crl/other.crl", "/aia/other.cer", "/ocsp/other/MAA="):
        assert ask(server, "GET", path)[0] == 404


# ---------------------------------------------------------------------- OCSP (RFC 6960)


def ocsp_request(certificate: x509.Certificate, ca: x509.Certificate) -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, ca, hashes.SHA256())
    return builder.build().public_bytes(Encoding.DER)


def ocsp_get(server: Server, request: bytes, *, escaped: bool) -> ocsp.OCSPResponse:
    encoded = base64.b64encode(request).decode()
    path = urllib.parse.quote(encoded, safe="") if escaped else encoded
    status, headers, body = ask(server, "GET", f"/ocsp/issuing/{path}")
    assert (status, headers["content-type"]) == (200, "application/ocsp-response")
    return ocsp.load_der_ocsp_response(body)


def test_ocsp_says_good_then_revoked_by_post_and_by_get_escaped_or_not(server: Server) -> None:
    certificate = issue(server, "ocsp.example.com")
    request = ocsp_request(certificate, issuer(server))
    status, _, body = ask(server, "POST", "/ocsp/issuing", body=request)
    assert status == 200
    answer = ocsp.load_der_ocsp_response(body)
    assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD
    run("cert", "revoke", f"{certificate.serial_number:x}", "--reason", "superseded", "--config", server.config_file)
    for escaped in (True, False):
        answer = ocsp_get(server, request, escaped=escaped)
        assert answer.certificate_status is ocsp.OCSPCertStatus.REVOKED
        assert answer.revocation_reason is x509.ReasonFlags.superseded

    def listed() -> bool:
        crl = x509.load_der_x509_crl(ask(server, "GET", "/crl/issuing.crl")[2])
        return crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None

    server.wait_until(listed, "the revoked serial in a CRL")


def test_ocsp_is_good_only_for_what_we_issued(server: Server) -> None:
    """BR 4.9.10: never `good` for a serial that was not assigned."""
    ca = issuer(server)
    like_ours = x509.load_pem_x509_certificate((server.directory / "tls" / "server.pem").read_bytes())  # not in the ledger
    builder = ocsp.OCSPRequestBuilder().add_certificate(like_ours, ca, hashes.SHA256())
    answer = ocsp_get(server, builder.build().public_bytes(Encoding.DER), escaped=True)
    assert answer.certificate_status is ocsp.OCSPCertStatus.UNKNOWN


def test_an_ocsp_request_for_another_ca_is_unauthorized_and_nonsense_malformed(server: Server) -> None:
    other = ocsp_request(issuer(server), x509.load_pem_x509_certificate(server.ca_file.read_bytes()))
    assert ocsp_get(server, other, escaped=True).response_status is ocsp.OCSPResponseStatus.UNAUTHORIZED
    assert ocsp_get(server, b"nonsense", escaped=True).response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST
    _, _, body = ask(server, "POST", "/ocsp/issuing", body=b"0" * 100_000)
    assert ocsp.load_der_ocsp_response(body).response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


# ---------------------------------------------------------------------- health and metrics


def test_readyz_names_every_check(server: Server) -> None:
    assert ask(server, "GET", "/livez")[0] == 200
    status, _, body = ask(server, "GET", "/readyz?verbose")
    assert status == 200
    lines = body.decode().splitlines()
    assert lines[-1] == "ready"
    for name in ("database", "signer", "crl issuing", "crl devices", "clock"):
        assert any(line.startswith(f"[ok] {name}: ") for line in lines)


def samples(server: Server) -> dict[str, float]:
    status, body = server.get(server.metrics_url)
    assert status == 200
    pairs = [line.rsplit(" ", 1) for line in body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in pairs}


ISSUED = 'certwright_certificates_issued_total{profile="tls-server",protocol="rest",result="issued"}'


def test_metrics_count_what_was_issued_and_tell_what_expires(server: Server) -> None:
    before = samples(server).get(ISSUED, 0.0)
    issue(server, "metrics.example.com")
    found = samples(server)
    assert found[ISSUED] == before + 1
    expiry = found['certwright_issuer_expiration_timestamp_seconds{issuer="issuing"}']
    assert expiry == issuer(server).not_valid_after_utc.timestamp()
    assert found['certwright_crl_next_update_timestamp_seconds{issuer="devices"}'] > datetime.now(UTC).timestamp()
    assert 'certwright_build_info{version="0.1.0"}' in found


def test_metrics_labels_are_route_templates_and_never_what_a_client_chose(server: Server) -> None:
    ask(server, "GET", "/no/such/place-1234")
    ask(server, "BREW", "/livez")
    text = "\n".join(samples(server))
    assert "place-1234" not in text
    assert "BREW" not in text
    assert 'route="/crl/{issuer}.crl"' in text


# ---------------------------------------------------------------------- the edge


def test_every_answer_carries_a_request_id_that_is_in_the_log(server: Server) -> None:
    _, headers, _ = ask(server, "GET", "/livez?password=geheim")
    server.wait_until(
        lambda: any(line.get("request_id") == headers["x-request-id"] for line in server.log_lines()), "the log line"
    )
    assert "geheim" not in server.log_text()  # a query string is not logged


def test_est_is_not_served_in_the_clear(server: Server) -> None:
    """RFC 7030 §3.3: EST runs over TLS only."""
    assert ask(server, "GET", "/.well-known/est/cacerts")[0] == 403
    assert server.get(server.est_url + "/.well-known/est/cacerts")[0] == 200


def test_the_https_listener_never_asks_for_a_client_certificate(server: Server) -> None:
    """SCEP clients fail on the question; the mtls listener asks, and takes no for an answer."""
    context = ssl.create_default_context(cafile=str(server.ca_file))
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # where the question is in the clear and ssl tells of it
    for port in (server.https_port, server.mtls_port):
        with (
            socket.create_connection(("localhost", port), timeout=30) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as tls,
        ):
            assert tls.version() == "TLSv1.2"


def test_tls_below_1_2_is_refused(server: Server) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.options &= ~ssl.OP_NO_TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("localhost", server.https_port), timeout=30) as raw, pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(raw)


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS to the plain port"),
        pytest.param(b"GET / HTTP/9.9\r\n\r\n", id="a version that is none"),
        pytest.param(b"GET /a b c HTTP/1.1\r\nHost: x\r\n\r\n", id="spaces in the path"),
        pytest.param(b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", id="a negative length"),
        pytest.param(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc", id="two lengths"),
        pytest.param(b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", id="an endless path"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", id="an endless header"),
    ],
)
def test_what_is_not_http_gets_no_traceback_into_the_log(server: Server, wire: bytes) -> None:
    with socket.create_connection(("localhost", server.http_port), timeout=30) as raw:
        raw.sendall(wire)
        raw.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while part := raw.recv(65536):
                received += part
        except ConnectionResetError:
            pass  # it hung up with some of ours unread
    assert not received or received.split()[1] in {b"400", b"404", b"405", b"431", b"505"}
    assert ask(server, "GET", "/livez")[0] == 200
    assert not [line for line in server.log_lines() if line.get("level") == "error" or "trace" in line]


def test_no_secret_of_the_first_credentials_is_ever_logged(server: Server) -> None:
    issue(server, "secret.example.com")
    text = server.log_text()
    for name in ("CERTWRIGHT_API_KEY", "CERTWRIGHT_EST_PASSWORD", "CERTWRIGHT_SCEP_CHALLENGE"):
        assert server.environment[name] not in text


# ---------------------------------------------------------------------- several workers


def test_two_workers_on_postgresql_count_as_one_server(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as url, Server(database=url, workers=2) as server:
        assert len(server.children()["worker"]) == 2
        for number in range(6):
            issue(server, f"host{number}.example.com")
        assert samples(server)[ISSUED] == 6
        assert {samples(server)[ISSUED] for _ in range(4)} == {6}
