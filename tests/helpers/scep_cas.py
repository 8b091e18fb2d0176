"""CAs and registration authorities of every kind beside those that `certwright init` makes, each with a SCEP endpoint of its name.

cas = ScepCas(directory)
with Server(directory=directory, edit=cas.edit) as server:
    cas.set_challenges(server)
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from ruamel.yaml import YAML

from certwright.admin import with_credentials
from certwright.config import load
from issuance.credentials import Credentials
from signer.software import PrivateKey, encrypt_key
from tests.helpers.authorities import usage
from tests.helpers.scep import SECRET, rsa_key
from tests.helpers.server import Server
from tests.helpers.softhsm import SoftHsm

CHALLENGE = SECRET * 3
BEGIN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
CA_USAGE = ("digital_signature", "key_cert_sign", "crl_sign")
BOTH = ("digital_signature", "key_encipherment")


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


@dataclass(frozen=True, slots=True)
class Holder:
    """A certificate and its key."""

    key: PrivateKey = field(repr=False)
    certificate: x509.Certificate

    def issue(self, common_name: str, key: PrivateKey, bits: Sequence[str], *, ca: bool = False, days: int = 3650) -> Holder:
        builder = (
            x509.CertificateBuilder(self.certificate.subject, name(common_name), key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(BEGIN)
            .not_valid_after(BEGIN + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                    self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
                ),
                critical=False,
            )
        )
        if bits:
            builder = builder.add_extension(usage(**dict.fromkeys(bits, True))[0], critical=True)
        digest = None if isinstance(self.key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        return Holder(key, builder.sign(self.key, digest))

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


@dataclass(frozen=True, slots=True)
class ScepCas:
    """`directory` is the server's. With a token, the key of the registration authority `hsm` is in it."""

    directory: Path
    token: SoftHsm | None = None
    made: dict[str, Holder] = field(default_factory=dict)

    def edit(self, text: str) -> str:
        """certwright.yaml with all of them. The endpoints are named as what is special about them."""
        ca = self.directory / "ca"
        phrase = (ca / "root.passphrase").read_bytes().strip()
        self.made["root"] = root = Holder(self._key(ca / "root.key", phrase), self._certificate(ca / "root.pem"))
        self.made["devices"] = devices = Holder(
            self._key(ca / "devices.key", (ca / "passphrase").read_bytes().strip()), self._certificate(ca / "devices.pem")
        )
        document = YAML(typ="safe").load(text)
        own = root.issue("CA and RA in one", rsa_key("own CA"), (*CA_USAGE, "key_encipherment"), ca=True)
        following = root.issue("The CA that follows", rsa_key("next CA"), (*CA_USAGE, "key_encipherment"), ca=True)
        curve = root.issue("Elliptic CA", ec.generate_private_key(ec.SECP384R1()), CA_USAGE, ca=True)
        edwards = root.issue("Edwards CA", ed25519.Ed25519PrivateKey.generate(), CA_USAGE, ca=True)
        self.put("next", following)
        self.put("next-ra", following.issue("The RA that follows", rsa_key("next RA"), BOTH))
        for issuer, holder in (("own", own), ("curve", curve), ("edwards", edwards)):
            document["issuers"][issuer] = {
                **self.put(issuer, holder),
                "chain": ["ca/root.pem"],
                "next": ["ca/next.pem", "ca/root.pem"],
            }
            document["profiles"][issuer] = {**document["profiles"]["device"], "issuer": issuer}
            document["policies"]["devices"]["allowed_profiles"].append(issuer)
        authorities = document["registration_authorities"]
        authorities["next"] = self.put("next-ra", self.made["next-ra"])
        authorities["curve"] = self.put("curve-ra", curve.issue("Elliptic CA's RA", rsa_key("curve RA"), BOTH))
        authorities["edwards"] = self.put("edwards-ra", edwards.issue("Edwards CA's RA", rsa_key("edwards RA"), BOTH))
        authorities["signs"] = self.put("signs", devices.issue("RA that signs", rsa_key("signs"), ["digital_signature"]))
        authorities["opens"] = self.put("opens", devices.issue("RA that opens", rsa_key("opens"), ["key_encipherment"]))
        endpoints = document["endpoints"]["scep"]
        endpoints["own"] = {"profile": "own", "use_ca_key": True, "chain": False}
        endpoints["own-chain"] = {"profile": "own", "use_ca_key": True}
        endpoints["curve"] = {"profile": "curve", "registration_authority": "curve", "next_registration_authority": "next"}
        endpoints["edwards"] = {"profile": "edwards", "registration_authority": "edwards", "include_root": False}
        endpoints["split"] = {"profile": "device", "registration_authority": "signs", "encryption_authority": "opens"}
        if self.token is not None:
            authorities["hsm"] = self._in_token(self.token, devices)
            endpoints["hsm"] = {"profile": "device", "registration_authority": "hsm"}
        return json.dumps(document, indent=1)  # which is YAML

    def set_challenges(self, server: Server) -> None:
        endpoints = ("own", "own-chain", "curve", "edwards", "split", *(["hsm"] if self.token else []))

        async def set_all(credentials: Credentials) -> None:
            for endpoint in endpoints:
                await credentials.set_scep_challenge(endpoint=endpoint, challenge=CHALLENGE, roles=["device"], profile="")

        with_credentials(load(server.config_file), set_all)

    def put(self, file: str, holder: Holder) -> Mapping[str, object]:
        """The entry of certwright.yaml that names both files."""
        self.made[file] = holder
        ca = self.directory / "ca"
        (ca / f"{file}.pem").write_bytes(holder.pem)
        key = ca / f"{file}.key"
        key.touch(mode=0o600)
        key.write_bytes(encrypt_key(holder.key, (ca / "passphrase").read_bytes().strip()))
        return {
            "certificate": f"ca/{file}.pem",
            "key": {"software": {"file": f"ca/{file}.key", "passphrase_file": "ca/passphrase"}},
        }

    def _in_token(self, token: SoftHsm, issuer: Holder) -> Mapping[str, object]:
        self.made["hsm"] = holder = issuer.issue("RA in a token", rsa_key("token RA"), BOTH)
        key = token.put("ra", holder.key, 1)
        (self.directory / "ca" / "hsm.pem").write_bytes(holder.pem)
        there = {"module": str(key.module), "token": key.token, "label": key.label, "pin_file": str(key.pin_file)}
        return {"certificate": "ca/hsm.pem", "key": {"pkcs11": there}}

    @staticmethod
    def _key(path: Path, phrase: bytes) -> PrivateKey:
        key = load_pem_private_key(path.read_bytes(), phrase)
        assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
        return key

    @staticmethod
    def _certificate(path: Path) -> x509.Certificate:
        return x509.load_pem_x509_certificate(path.read_bytes())
