"""cacerts on a real server whose root is new (RFC 7030 §4.1.3, RFC 4210 §4.4): OpenSSL is the client that has the old one."""

from __future__ import annotations

import base64
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key, pkcs7

from pki import der
from tests.helpers.issuance_simulator import der_of, make_csr
from tests.helpers.rollover import Rollover
from tests.helpers.server import Server
from tests.helpers.wire import Reply, Wire

PREFIX = "/.well-known/est"


class Rolling:
    """A server that has told its clients of a new root, on the label `default` only."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.server = Server(directory=directory, edit=self._edit)

    def _edit(self, text: str) -> str:
        ca = self._directory / "ca"
        key = load_pem_private_key((ca / "root.key").read_bytes(), (ca / "root.passphrase").read_bytes())
        assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
        self.roots = Rollover(x509.load_pem_x509_certificate((ca / "root.pem").read_bytes()), key)
        (ca / "rollover.pem").write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in self.roots.all))
        before, after = text.split("  devices:      # RSA", 1)
        chain = "    chain: [ca/root.pem]\n"
        after = after.replace(chain, f"{chain}    rollover: [ca/rollover.pem, ca/root.pem]\n", 1)
        return (before + "  devices:      # RSA" + after).replace(
            "  est:\n    default:", "  est:\n    tls: {profile: tls-client}\n    default:"
        )


@pytest.fixture(scope="module")
def rolling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rolling]:
    rolling = Rolling(tmp_path_factory.mktemp("rolling") / "certwright")
    with rolling.server:
        yield rolling


@pytest.fixture
def wire(rolling: Rolling) -> Iterator[Wire]:
    wire = Wire(rolling.server.mtls_port, ssl.create_default_context(cafile=str(rolling.server.ca_file)))
    yield wire
    wire.close()


def certificates(reply: Reply) -> list[x509.Certificate]:
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/pkcs7-mime; smime-type=certs-only")
    return pkcs7.load_der_pkcs7_certificates(base64.b64decode(reply.body))


def openssl(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=30, **options)


def pem(path: Path, *certificates: x509.Certificate) -> Path:
    path.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in certificates))
    return path


def test_a_client_that_has_the_old_root_trusts_new_certificates_by_what_cacerts_gave(
    rolling: Rolling, wire: Wire, tmp_path: Path
) -> None:
    # RFC 7030 §4.1.3: "The EST server SHOULD include the three 'Root CA Key Update' certificates"
    given = certificates(wire.send("GET", f"{PREFIX}/cacerts"))
    user, password = (rolling.server.environment[f"CERTWRIGHT_EST_{name}"] for name in ("USER", "PASSWORD"))
    basic = base64.b64encode(f"{user}:{password}".encode()).decode()
    body = base64.b64encode(der_of(make_csr(common_name="router-7")))
    reply = wire.send("POST", f"{PREFIX}/simpleenroll", body, {"Authorization": f"Basic {basic}"})
    [leaf] = certificates(reply)
    roots = rolling.roots
    untrusted = [one for one in given if one.issuer != one.subject]
    leaf_file, bag = pem(tmp_path / "leaf.pem", leaf), pem(tmp_path / "bag.pem", *untrusted)
    for anchor in (roots.old, roots.new):
        trusted = pem(tmp_path / "anchor.pem", anchor)
        assert openssl("verify", "-x509_strict", "-CAfile", trusted, "-untrusted", bag, leaf_file).returncode == 0, anchor
    # And it is NewWithOld that did it.
    alone = pem(tmp_path / "alone.pem", *(one for one in untrusted if one != roots.new_with_old))
    trusted = pem(tmp_path / "anchor.pem", roots.old)
    assert openssl("verify", "-CAfile", trusted, "-untrusted", alone, leaf_file).returncode != 0


def test_it_is_the_issuing_ca_the_root_and_the_three_each_once(rolling: Rolling, wire: Wire) -> None:
    given = certificates(wire.send("GET", f"{PREFIX}/cacerts"))
    devices = x509.load_pem_x509_certificate((rolling.server.directory / "ca" / "devices.pem").read_bytes())
    assert len(given) == 5
    assert {*given} == {devices, rolling.roots.new, *rolling.roots.all}


def test_labels_of_another_issuer_hear_nothing_of_it(rolling: Rolling, wire: Wire) -> None:
    given = certificates(wire.send("GET", f"{PREFIX}/tls/cacerts"))
    issuing = x509.load_pem_x509_certificate((rolling.server.directory / "ca" / "issuing.pem").read_bytes())
    assert {*given} == {issuing, rolling.roots.new}
    assert len(given) == 2


def test_the_message_is_certs_only_and_nothing_else(wire: Wire) -> None:
    # RFC 5272 §4.1: a Simple PKI Response is a SignedData without signers, content, and signerInfos.
    message = base64.b64decode(wire.send("GET", f"{PREFIX}/cacerts").body)
    kind, content = der.take(der.whole(message, der.SEQUENCE).content, der.OBJECT_IDENTIFIER, 0xA0)
    assert der.oid(kind) == "1.2.840.113549.1.7.2"
    inside = der.whole(content.content, der.SEQUENCE)
    version, digests, encapsulated, bag, signers = der.take(inside.content, der.INTEGER, der.SET, der.SEQUENCE, 0xA0, der.SET)
    assert (version.content, digests.content, signers.content) == (b"\x01", b"", b"")
    assert [der.oid(one) for one in der.children(encapsulated.content)] == ["1.2.840.113549.1.7.1"]
    sent = [one.raw for one in der.children(bag.content)]
    assert sent == sorted(sent)  # X.690 §11.6
