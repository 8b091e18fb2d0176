"""One SCEP endpoint as configured: what it issues, with which registration authority it speaks, and what old devices may use."""

from __future__ import annotations

from dataclasses import dataclass

from pki.cms.types import Cipher, Digest, read_certificate

DEFAULT = "default"  # the endpoint whose URLs need no name

# What may be allowed per endpoint, and never is by default (RFC 8894 §2.9: the mandatory floor is AES and SHA-256).
LEGACY = frozenset({Digest.SHA1.value, Digest.MD5.value, Cipher.DES_CBC.value, Cipher.DES_EDE3_CBC.value})


@dataclass(frozen=True, slots=True)
class ScepEndpoint:
    """Certificates are DER. Raises ValueError and pki.cms CmsError for a configuration that cannot work."""

    name: str
    profile: str
    ra_key: str  # the signer's name for it
    ra_certificate: bytes
    ca_certificates: tuple[bytes, ...]  # the issuing CA, then its chain
    include_root: bool = False  # whether GetCACert shows self-issued certificates after the issuing CA
    legacy: frozenset[str] = frozenset()  # of LEGACY

    def __post_init__(self) -> None:
        if not self.ca_certificates:
            raise ValueError(f"the SCEP endpoint {self.name!r} has no CA certificate to give to its clients")
        if unknown := self.legacy - LEGACY:
            raise ValueError(f"the SCEP endpoint {self.name!r} allows {sorted(unknown)}; there are only {sorted(LEGACY)}")
        read_certificate(self.ra_certificate).rsa_key()

    def takes_digest(self, digest: Digest) -> bool:
        return digest.value not in LEGACY or digest.value in self.legacy

    def takes_cipher(self, cipher: Cipher) -> bool:
        return cipher.value not in LEGACY or cipher.value in self.legacy

    @property
    def legacy_digests(self) -> frozenset[str]:
        """Those that its certification requests may be signed with."""
        return self.legacy & {digest.value for digest in Digest}

    def shown_certificates(self) -> tuple[bytes, ...]:
        """What GetCACert gives: the RA, the issuing CA, its chain. strongSwan needs the root; scepclient fails on an EC one."""
        issuing, *chain = self.ca_certificates
        return (self.ra_certificate, issuing, *(der for der in chain if self.include_root or not _self_issued(der)))

    def capabilities(self) -> tuple[str, ...]:
        """RFC 8894 §3.5.2, only what there is.

        SHA-384 is there and named because strongSwan 5.9.8 to 5.9.10 use AES only with a server that names it. "SCEPStandard"
        says AES, SHA-256 and POST at once. Renewal comes with RenewalReq.
        """
        wanted = ("POSTPKIOperation", "SCEPStandard", "AES", "SHA-256", "SHA-384", "SHA-512")
        legacy = {Cipher.DES_EDE3_CBC.value: "DES3", Digest.SHA1.value: "SHA-1"}
        return (*wanted, *(name for value, name in legacy.items() if value in self.legacy))


def _self_issued(der: bytes) -> bool:
    certificate = read_certificate(der)
    return certificate.issuer == certificate.subject
