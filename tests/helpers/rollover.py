"""A new root next to the one that everybody has (RFC 4210 §4.4): both roots, and each certified by the other."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.helpers.ca import CaKey, ca_certificate


class Rollover:
    """`new` is the root of the CA that issues now; the old one is made here."""

    def __init__(self, new: x509.Certificate, new_key: CaKey) -> None:
        old_key = ec.generate_private_key(ec.SECP256R1())
        self.new = new
        self.old = ca_certificate(old_key, "Old Root")
        self.new_with_old = certified(new, by=(self.old, old_key))
        self.old_with_new = certified(self.old, by=(new, new_key))
        self.all = (self.old, self.new_with_old, self.old_with_new)


def certified(authority: x509.Certificate, *, by: tuple[x509.Certificate, CaKey]) -> x509.Certificate:
    """The same CA (name, key, extensions), by another issuer."""
    parent, key = by
    builder = (
        x509.CertificateBuilder()
        .subject_name(authority.subject)
        .issuer_name(parent.subject)
        .public_key(authority.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(authority.not_valid_before_utc, parent.not_valid_before_utc))
        .not_valid_after(min(authority.not_valid_after_utc, parent.not_valid_after_utc))
    )
    for extension in authority.extensions:
        if not isinstance(extension.value, x509.AuthorityKeyIdentifier):
            builder = builder.add_extension(extension.value, critical=extension.critical)
    above = parent.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(above), critical=False)
    return builder.sign(key, hashes.SHA256())
