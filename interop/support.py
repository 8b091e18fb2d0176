"""What every interop test needs: a site to talk to, a clean way to run a client, and OpenSSL as the judge of what came back.

Law of this file: nothing of ours is imported to judge a certificate. What a client got is checked with `openssl` and `curl`,
as a relying party would.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import pytest

# The virtual environment's programs first (certbot), then Debian's, some of which live where a user's PATH does not look.
SEARCH_PATH = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/lib/certmonger"]
)


def needs(*programs: str, package: str) -> pytest.MarkDecorator:
    """Skips a module, naming the client that is missing and the Debian or PyPI package that has it."""
    missing = [program for program in programs if shutil.which(program, path=SEARCH_PATH) is None]
    return pytest.mark.skipif(bool(missing), reason=f"client not installed: {', '.join(missing)} (package {package})")


def no_dns(*_: object) -> None:
    """The server asks the machine's own resolver; nobody tells it anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A running server as its first user sees it: what `init` wrote, and nothing else; `directory` knows what was added."""

    root: Path  # ca/root.pem
    bootstrap: Mapping[str, str]  # bootstrap.env
    http01_port: int
    zone: Callable[[str, Sequence[str]], None]  # tells the DNS server that our server asks: name -> addresses
    txt: Callable[..., None] = no_dns  # the same, name -> text records
    tlsalpn01_port: int = 443
    config: Path = Path("certwright.yaml")

    def __getitem__(self, name: str) -> str:
        return self.bootstrap[f"CERTWRIGHT_{name}"]

    def directory(self, endpoint: str) -> str:
        """The directory URL of one of the endpoints that conftest.py adds."""
        return f"{self['BASE_URL']}/acme/{endpoint}/directory"

    def name(self, label: str) -> str:
        """A name that leads to this machine, for the server that validates it."""
        name = f"{label}.interop.example.com"
        self.zone(name, ["127.0.0.1"])
        return name


@contextmanager
def short_directory() -> Iterator[Path]:
    """A private directory with a short name: certmonger and D-Bus put sockets (107 characters at most) below it."""
    with TemporaryDirectory(prefix="cw-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


def environment(home: Path, **extra: str) -> dict[str, str]:
    """What a client starts with: no proxies, no locale and no configuration of the person who runs the tests."""
    return {"PATH": SEARCH_PATH, "HOME": str(home), "LC_ALL": "C.UTF-8", "TMPDIR": str(home), **extra}


def run(
    command: Sequence[str | Path], *, home: Path, env: Mapping[str, str] | None = None, stdin: bytes = b"", timeout: float = 90
) -> subprocess.CompletedProcess[bytes]:
    """Runs a client to its end; whatever it printed is in the assertion when it fails."""
    arguments = [str(part) for part in command]
    done = subprocess.run(
        arguments,
        cwd=home,
        env=environment(home, **(env or {})),
        input=stdin,
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, transcript(arguments, done)
    return done


def refused(
    command: Sequence[str | Path], *, home: Path, env: Mapping[str, str] | None = None, stdin: bytes = b"", timeout: float = 90
) -> str:
    """Runs a client that must fail; returns all that it said."""
    arguments = [str(part) for part in command]
    done = subprocess.run(
        arguments,
        cwd=home,
        env=environment(home, **(env or {})),
        input=stdin,
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode != 0, transcript(arguments, done)
    return (done.stdout + done.stderr).decode(errors="replace")


@contextmanager
def running(
    command: Sequence[str | Path], *, home: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A client that is a server itself, while the block lasts; what it wrote is printed when the block fails."""
    log = home / f"{Path(command[0]).name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=home,
            env=environment(home, **(env or {})),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    except BaseException:
        print(f"--- {log}\n{log.read_text(errors='replace')}")
        raise
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def shell(script: str, *, home: Path, env: Mapping[str, str] | None = None, timeout: float = 90) -> bytes:
    """Runs a shell script as an administrator would paste it, but stopping at its first failure; returns its output."""
    return run(["bash", "-euo", "pipefail", "-c", script], home=home, env=env, timeout=timeout).stdout


def transcript(arguments: Sequence[str], done: subprocess.CompletedProcess[bytes]) -> str:
    said = (done.stdout + done.stderr).decode(errors="replace")
    return f"{' '.join(arguments)}\nexit code {done.returncode}\n{said}"


def openssl(*arguments: str | Path, home: Path, stdin: bytes = b"") -> str:
    done = run(["openssl", *arguments], home=home, stdin=stdin)
    return (done.stdout + done.stderr).decode(errors="replace")


# --- keys and requests, made by openssl as the manuals of the clients say -------------------------------------------------

RSA = ("rsa:2048",)
P256 = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")


def make_csr(home: Path, stem: str, *, cn: str, names: Sequence[str], key: Sequence[str] = P256) -> Path:
    """Writes STEM.key and STEM.csr (PEM), and STEM.der; returns the PEM request."""
    csr = home / f"{stem}.csr"
    subject = ["-subj", f"/CN={cn}"]
    extension = ["-addext", "subjectAltName=" + ",".join(f"DNS:{name}" for name in names)] if names else []
    files: list[str | Path] = ["-keyout", home / f"{stem}.key", "-out", csr]
    openssl("req", "-new", "-newkey", *key, "-nodes", *files, *subject, *extension, home=home)
    openssl("req", "-in", csr, "-outform", "DER", "-out", home / f"{stem}.der", home=home)
    return csr


# --- what a relying party does ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A certificate in a client's hands, with what is needed to judge it."""

    home: Path
    root: Path
    leaf: Path  # PEM, first certificate counts
    issuer: Path  # PEM of the CA certificate that signed it

    def text(self) -> str:
        return openssl("x509", "-in", self.leaf, "-noout", "-text", home=self.home)

    def url(self, label: str) -> str:
        """`OCSP - URI`, `CA Issuers - URI`, or `URI` below CRL Distribution Points."""
        text = self.text()
        if label == "CRL":
            text, label = text[text.index("CRL Distribution Points") :], "URI"
        found = re.search(rf"{label}:(\S+)", text)
        assert found is not None, f"no {label} in\n{text}"
        return found[1]


def hold(site: Site, leaf: Path, *, home: Path, chain: Path | None = None) -> Held:
    """Takes the issuer from the chain that the client got, or else, as browsers do, from the certificate's AIA URL."""
    issuer = home / f"{leaf.name}.issuer.pem"
    own = pem_certificates(leaf)[0]
    above = [certificate for certificate in pem_certificates(chain) if certificate != own] if chain is not None else []
    if above:
        issuer.write_text("".join(above))
    else:
        lone = Held(home=home, root=site.root, leaf=leaf, issuer=leaf)
        der = home / f"{leaf.name}.issuer.der"
        fetch(lone.url("CA Issuers - URI"), der, home=home)
        openssl("x509", "-inform", "DER", "-in", der, "-out", issuer, home=home)
    return Held(home=home, root=site.root, leaf=leaf, issuer=issuer)


def pem_certificates(file: Path) -> list[str]:
    """Every certificate in a file, in order, without the text that tools put between."""
    found = re.findall(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", file.read_text(), re.DOTALL)
    return [f"{block}\n" for block in found]


def fetch(url: str, to: Path, *, home: Path) -> None:
    """A CRL, an AIA certificate or an OCSP answer, over plain HTTP as RFC 5280 §4.2.2.1 has it."""
    run(["curl", "-sS", "--fail", "-o", to, url], home=home)


def verify(held: Held, *, purpose: str = "sslserver", names: Sequence[str] = (), addresses: Sequence[str] = ()) -> None:
    """RFC 5280 path validation as strictly as OpenSSL can, with every name, and with the CRL at the certificate's own URL."""
    leaf, home = held.leaf, held.home
    # The trust anchor alone in CAfile, without the machine's own store; everything else is untrusted.
    trust: list[str | Path] = ["-no-CApath", "-no-CAstore", "-CAfile", held.root, "-untrusted", held.issuer, "-x509_strict"]
    names_asked = [["-verify_hostname", name] for name in names] + [["-verify_ip", address] for address in addresses] or [[]]
    for name in names_asked:
        said = openssl("verify", *trust, "-purpose", purpose, *name, leaf, home=home)
        assert f"{leaf}: OK" in said
    der, crl = home / f"{leaf.name}.crl.der", home / f"{leaf.name}.crl.pem"
    fetch(held.url("CRL"), der, home=home)
    openssl("crl", "-inform", "DER", "-in", der, "-out", crl, home=home)
    said = openssl("verify", *trust, "-purpose", purpose, "-crl_check", "-CRLfile", crl, leaf, home=home)
    assert f"{leaf}: OK" in said


def ocsp_by_post(held: Held) -> str:
    """`openssl ocsp` as it comes; `good` or `revoked`, and the reason when there is one."""
    return _ocsp_verdict(held, ["-url", held.url("OCSP - URI")])


def ocsp_by_get(held: Held) -> str:
    """RFC 6960 §A.1: base64 of the request, URL-encoded, after the responder's URL."""
    home, name = held.home, held.leaf.name
    request, answer = home / f"{name}.ocsp-request", home / f"{name}.ocsp-answer"
    openssl("ocsp", "-issuer", held.issuer, "-cert", held.leaf, "-no_nonce", "-reqout", request, home=home)
    encoded = openssl("base64", "-A", "-in", request, home=home)
    fetch(f"{held.url('OCSP - URI').rstrip('/')}/{quote(encoded.strip(), safe='')}", answer, home=home)
    return _ocsp_verdict(held, ["-respin", answer, "-no_nonce"])


def _ocsp_verdict(held: Held, source: Sequence[str | Path]) -> str:
    trust: list[str | Path] = ["-no-CApath", "-no-CAstore", "-CAfile", held.root, "-verify_other", held.issuer]
    said = openssl("ocsp", "-issuer", held.issuer, "-cert", held.leaf, *trust, *source, home=held.home)
    assert "Response verify OK" in said, said
    found = re.search(rf"^{re.escape(str(held.leaf))}: (\w+)$", said, re.MULTILINE)
    assert found is not None, said
    reason = re.search(r"Reason: (\w+)", said)
    return found[1] if reason is None else f"{found[1]} {reason[1]}"


def crl_entry(held: Held) -> str:
    """The certificate's entry in the CRL at its own URL, or an empty string."""
    der = held.home / f"{held.leaf.name}.now.crl"
    fetch(held.url("CRL"), der, home=held.home)
    serial = openssl("x509", "-in", held.leaf, "-noout", "-serial", home=held.home).strip().partition("=")[2]
    text = openssl("crl", "-inform", "DER", "-in", der, "-noout", "-text", home=held.home)
    entries = re.split(r"(?=Serial Number: )", text)
    return next((entry for entry in entries if entry.startswith(f"Serial Number: {serial}\n")), "")


def within_a_minute(what: str, found: Callable[[], bool]) -> None:
    """The promise to relying parties is in seconds on their clock; this asks as often as one of them might."""
    deadline = time.monotonic() + 60
    while not found():
        assert time.monotonic() < deadline, f"{what}: not within 60 s"
        time.sleep(0.5)


def verify_revoked(held: Held, reason: str = "", crl_reason: str = "") -> None:
    """What relying parties see: OCSP by POST and GET, and the CRL, all within a minute. No reason is a reason, too: none shown."""
    verdict = f"revoked {reason}".rstrip()
    within_a_minute("OCSP by POST says revoked", lambda: ocsp_by_post(held) == verdict)
    within_a_minute("OCSP by GET says revoked", lambda: ocsp_by_get(held) == verdict)
    within_a_minute("the CRL has the serial", lambda: bool(crl_entry(held)))
    assert crl_reason in crl_entry(held)
