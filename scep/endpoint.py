"""One SCEP endpoint as configured: what it issues, with whose keys it speaks, who is let in, and what old devices may use."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import timedelta

from issuance.lockout import NO_LIMITS, FailureLimits
from pki.cms.types import Cipher, Digest, read_certificate
from policy.limits import Limit

DEFAULT = "default"  # the endpoint whose URLs need no name

# What may be allowed per endpoint, and never is by default (RFC 8894 §2.9: the mandatory floor is AES and SHA-256).
LEGACY = frozenset({Digest.SHA1.value, Digest.MD5.value, Cipher.DES_CBC.value, Cipher.DES_EDE3_CBC.value})


class Way(enum.Enum):
    """What lets a request in. Closed."""

    STATIC = "static"  # a challenge password of the endpoint
    ONE_TIME = "one-time"  # a challenge made for one request
    WEBHOOK = "webhook"  # somebody else's server says yes
    INTUNE = "intune"  # Microsoft's does
    RENEWAL = "renewal"  # a certificate that the endpoint issued


@dataclass(frozen=True, slots=True)
class Authority:
    """A key that the endpoint speaks with: its name in the signer, and its certificate (DER)."""

    key: str
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Renewal:
    """Without roles nothing is renewed. `grace` is how long after its end a certificate may still renew itself."""

    roles: frozenset[str] = frozenset()
    grace: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class ScepLimits:
    """None is no limit."""

    failures: FailureLimits = NO_LIMITS
    enrollments_per_caller: Limit | None = None
    enrollments_per_address: Limit | None = None


@dataclass(frozen=True, slots=True)
class ScepEndpoint:
    """Certificates are DER. Raises ValueError and pki.cms CmsError for a configuration that cannot work."""

    name: str
    profile: str
    issuer: str  # the signer's name for the issuing CA's key
    ca_certificates: tuple[bytes, ...]  # the issuing CA, then its chain
    signing: Authority  # whose signature clients check
    decryption: Authority  # whom they encrypt to; mostly the same
    chain: bool = True  # whether GetCACert shows what is above the issuing CA
    include_root: bool = False  # and of that, self-issued certificates
    next_certificates: tuple[bytes, ...] = ()  # the CA that follows, what is above it, its registration authority
    legacy: frozenset[str] = frozenset()  # of LEGACY
    challenges: tuple[Way, ...] = (Way.STATIC,)  # asked in this order
    renewal: Renewal = Renewal()
    require_approval: bool = False
    limits: ScepLimits = ScepLimits()

    def __post_init__(self) -> None:
        if not self.ca_certificates:
            raise ValueError(f"the SCEP endpoint {self.name!r} has no CA certificate to give to its clients")
        if unknown := self.legacy - LEGACY:
            raise ValueError(f"the SCEP endpoint {self.name!r} allows {sorted(unknown)}; there are only {sorted(LEGACY)}")
        for authority in (self.signing, self.decryption):
            read_certificate(authority.certificate).rsa_key()

    @property
    def uses_ca_key(self) -> bool:
        return self.signing.certificate == self.ca_certificates[0]

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
        issuing, *above = self.ca_certificates
        chain = (der for der in above if self.chain and (self.include_root or not _self_issued(der)))
        return tuple(dict.fromkeys((self.signing.certificate, self.decryption.certificate, issuing, *chain)))

    def capabilities(self) -> tuple[str, ...]:
        """RFC 8894 §3.5.2, only what there is.

        SHA-384 is there and named because strongSwan 5.9.8 to 5.9.10 use AES only with a server that names it. "SCEPStandard"
        says AES, SHA-256 and POST at once.
        """
        wanted = ["POSTPKIOperation", "SCEPStandard", "AES", "SHA-256", "SHA-384", "SHA-512"]
        if self.renewal.roles:
            wanted.append("Renewal")
        if self.next_certificates:
            wanted.append("GetNextCACert")
        legacy = {Cipher.DES_EDE3_CBC.value: "DES3", Digest.SHA1.value: "SHA-1"}
        return (*wanted, *(name for value, name in legacy.items() if value in self.legacy))


def _self_issued(der: bytes) -> bool:
    certificate = read_certificate(der)
    return certificate.issuer == certificate.subject
