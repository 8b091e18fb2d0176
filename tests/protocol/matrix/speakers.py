"""EST clients that say who they are by Digest, token, certificate or (in CMC) signature, with the same people and the same requests as by password."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.helpers import cmc, scep
from tests.helpers.front_doors import Door, Doors, Secrets
from tests.helpers.wanted import PrivateKey, Wanted
from tests.helpers.wire import Reply, Wire
from tests.protocol.matrix.site import OTHERWISE, Site

EST_DOORS = (Door.EST, Door.EST_KEYGEN, Door.EST_CMC)

_NO_SECRET = "a certificate's secret is its key, which TLS asks for"
_SIGNED = "the signature says who it is; of signers that are nobody here: test_est_cmc.py, test_est_labels.py"
_OF_WHO_ASKS = (
    "no credentials",
    "unknown credentials",
    "a known id with a wrong secret",
    "an API key as secret",
    "a SCEP challenge as secret",
    "an API key as bearer token where a password belongs",
    "an API key in its own header where a password belongs",
    "credentials of another endpoint",
    "credentials that were ended",
)
_NO_DEVICES = "the label of the misfit has a profile that makes no keys: nobody comes so far as to be judged"

# Why a check is not made at an EST door for those who come in this way; every other one is.
SKIPPED: Mapping[str, Mapping[tuple[str, Door], str]] = {
    "digest": {},
    "bearer": {},
    "certificate": {
        **{
            (check, door): _NO_SECRET
            for check in ("a known id with a wrong secret", "an API key as secret", "a SCEP challenge as secret")
            for door in EST_DOORS
        },
        ("a profile that the role is not granted", Door.EST_KEYGEN): _NO_DEVICES,
    },
    "signature": {
        **{(check, Door.EST_CMC): _SIGNED for check in _OF_WHO_ASKS},
        ("another's request in one's own message", Door.EST_CMC): "that is what an agent is for",
    },
}


class _Otherwise(Doors):
    """Password and user as the cells name them; on the wire it is something else."""

    def __init__(self, doors: Doors) -> None:
        super().__init__(doors.server, doors.around)
        self.secrets: Secrets = doors.secrets


class ByDigest(_Otherwise):
    """RFC 7616, from the RFC and not with our code."""

    def simple_enroll(
        self, csr: bytes, user: tuple[str, str] | None, *, label: str = "", operation: str = "simpleenroll", **headers: str
    ) -> Reply:
        label = label or OTHERWISE["digest"]
        if user is not None:
            asked = super().simple_enroll(b"", None, label=label)  # a challenge is good at every operation of its label
            headers["Authorization"] = _answer(asked, *user, uri=f"/.well-known/est/{label}/{operation}")
        return super().simple_enroll(csr, None, label=label, operation=operation, **headers)


def _answer(asked: Reply, user: str, password: str, *, uri: str) -> str:
    assert asked.status == 401
    challenge = asked.headers["WWW-Authenticate"]
    realm, nonce = (re.search(f'{name}="([^"]*)"', challenge)[1] for name in ("realm", "nonce"))  # type: ignore[index]  # both are there
    secret, what = _md5(f"{user}:{realm}:{password}"), _md5(f"POST:{uri}")
    response = _md5(f"{secret}:{nonce}:00000001:c:auth:{what}")
    return (
        f'Digest username="{user}", realm="{realm}", nonce="{nonce}", uri="{uri}", cnonce="c", nc=00000001, qop=auth, '
        f'response="{response}"'
    )


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


class ByToken(_Otherwise):
    """`tokens` by password: that of the same person, or one that is wrong in the same way."""

    def __init__(self, doors: Doors, tokens: Mapping[str, str]) -> None:
        super().__init__(doors)
        self._tokens = tokens

    def simple_enroll(
        self, csr: bytes, user: tuple[str, str] | None, *, label: str = "", operation: str = "simpleenroll", **headers: str
    ) -> Reply:
        if user is not None:
            headers["Authorization"] = f"Bearer {self._token(user[1])}"
        return super().simple_enroll(csr, None, label=label or OTHERWISE["bearer"], operation=operation, **headers)

    def _token(self, password: str) -> str:
        if password == "wrong":
            return f"cwe_{os.urandom(8).hex()}_{'A' * 43}"
        if password in self._tokens:
            return self._tokens[password]
        if known := self._tokens.get(password[:-1]):
            return known[:-1] + ("A" if known[-1] != "A" else "B")
        return password


class ByCertificate(_Otherwise):
    """Agents, each at the label that trusts it; those who have nothing there show a certificate that opens nothing."""

    def __init__(self, doors: Doors, shown: Mapping[str, tuple[Path | None, str]]) -> None:
        super().__init__(doors)
        self._shown = shown

    def simple_enroll(
        self, csr: bytes, user: tuple[str, str] | None, *, label: str = "", operation: str = "simpleenroll", **headers: str
    ) -> Reply:
        certificate, label = (None, label) if user is None else self._shown[user[1]]
        plain, self.mtls = self.mtls, self._shows(certificate)
        try:
            return super().simple_enroll(csr, None, label=label, operation=operation, **headers)
        finally:
            self.mtls = plain


class BySignature(ByCertificate):
    """CMC that an agent has signed: HTTP and TLS say nothing of who it is (RFC 5272 §3.2, RFC 7030 §3.7)."""

    def pki_data(self, wanted: Wanted, *, by: PrivateKey | None = None, signs_for: PrivateKey | None = None) -> bytes:
        office = self.around.agent.read_bytes()
        key = load_pem_private_key(office, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        signer = cmc.SignerOf(key, x509.load_pem_x509_certificate(office), signs_for=signs_for)
        transaction = cmc.control(2, cmc.TRANSACTION_ID, scep.integer(int.from_bytes(os.urandom(8), "big")))
        return cmc.signed(cmc.pki_data([transaction], [cmc.tcr(1, wanted.csr())]), signer)

    def _shows(self, certificate: Path | None) -> Wire:
        return super()._shows(None)


def spoken(site: Site) -> dict[str, Site]:
    """The same site, by each of the other ways to be somebody."""
    own, people = site.own.est, site.people
    assert own is not None
    agent = site.own.certificate
    shown: dict[str, tuple[Path | None, str]] = {
        own[1]: (agent, ""),
        **{f"{name}-est": (agent, name) for name in people},
        "branch-est": (agent, "branch"),
        "old-est": (site.certificates["revoked"], ""),
        "wrong": (site.certificates["a program's"], ""),
    }
    ways: dict[str, Doors] = {
        "digest": ByDigest(site.doors),
        "bearer": ByToken(site.doors, site.tokens),
        "certificate": ByCertificate(site.doors, shown),
        "signature": BySignature(site.doors, shown),
    }
    return {how: replace(site, doors=doors) for how, doors in ways.items()}
