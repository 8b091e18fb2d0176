"""`certwright check` on SCEP: what clients would stumble over though the configuration is valid."""

from __future__ import annotations

from collections.abc import Iterator

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from certwright.compose_scep import scep_endpoint
from certwright.config import Config
from certwright.config_scep import extension


def scep_warnings(config: Config) -> Iterator[str]:
    for name, settings in config.scep.items():
        endpoint = scep_endpoint(config, settings)
        if endpoint.uses_ca_key:
            continue
        shown = [x509.load_der_x509_certificate(der) for der in endpoint.shown_certificates()]
        for authority in dict.fromkeys((settings.registration_authority, settings.encryption_authority)):
            certificate = x509.load_der_x509_certificate(config.registration_authorities[authority].certificate)
            if not any(_issued(above, certificate) for above in shown):
                yield (
                    f"SCEP endpoint {name}: GetCACert does not show who issued the certificate of registration authority "
                    f"{authority}, so clients that verify it refuse it; have issuer {endpoint.issuer} issue it"
                )
        usage = extension(x509.load_der_x509_certificate(endpoint.ca_certificates[0]), x509.KeyUsage)
        if usage is not None and usage.key_encipherment:
            yield (
                f"SCEP endpoint {name}: the certificate of issuer {endpoint.issuer} has the key usage keyEncipherment beside the "
                "registration authority's: some clients encrypt to the CA then, and are refused"
            )


def _issued(above: x509.Certificate, below: x509.Certificate) -> bool:
    try:
        below.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
