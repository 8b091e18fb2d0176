"""What can be counted and timed. Labels are bounded: profiles, protocols, route templates; never a name, serial or address.

With several workers each one writes its numbers to files in `PROMETHEUS_MULTIPROC_DIR`, which the supervisor sets before
this module is imported, and whoever is asked adds them up. Facts that lie in the database (expiry, CRLs) are read when asked.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.metadata import version

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from certwright.metrics_directory import MULTIPROCESS

CONTENT_TYPE = CONTENT_TYPE_LATEST

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """One set of instruments on a registry of its own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "certwright_http_requests",
            "HTTP requests by listener, route template, method and status class.",
            ["listener", "route", "method", "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "certwright_http_request_seconds",
            "Seconds from the parsed request head to the finished answer.",
            ["listener"],
            buckets=_FAST,
            registry=registry,
        )
        self.issued = Counter(
            "certwright_certificates_issued",
            "Issuance requests by what became of them.",
            ["profile", "protocol", "result"],
            registry=registry,
        )
        self.validation_seconds = Histogram(
            "certwright_validation_seconds",
            "Seconds that an attempt to prove control of a name took.",
            ["type", "result"],
            buckets=_FAST,
            registry=registry,
        )
        self.sign_seconds = Histogram(
            "certwright_sign_seconds",
            "Seconds that the signer took for one signature, its queue included.",
            ["operation"],
            buckets=_FAST,
            registry=registry,
        )
        self.ocsp = Counter("certwright_ocsp_responses", "OCSP responses by status.", ["issuer", "status"], registry=registry)
        self.scep_messages = Counter(
            "certwright_scep_messages", "SCEP messages by type and answer.", ["endpoint", "type", "result"], registry=registry
        )
        self.scep_authorizations = Counter(
            "certwright_scep_authorizations",
            "SCEP requests by what let them in.",
            ["endpoint", "way", "result"],
            registry=registry,
        )
        self.scep_legacy = Counter(
            "certwright_scep_legacy",
            "SCEP messages with an algorithm of the endpoint's `legacy`: an old device, or a downgrade on the way.",
            ["endpoint", "algorithm"],
            registry=registry,
        )
        self.ignored_client_certificates = Counter(
            "certwright_ignored_client_certificate_headers",
            "Requests with a client certificate in a header that came from an address that `proxies` does not list.",
            registry=registry,
        )
        self.issuer_expiration = self._fact(
            "certwright_issuer_expiration_timestamp_seconds", "When the issuer's own certificate expires.", ["issuer"]
        )
        self.server_expiration = self._fact(
            "certwright_server_certificate_expiration_timestamp_seconds", "When the certificate of our listeners expires.", []
        )
        self.crl_next_update = self._fact(
            "certwright_crl_next_update_timestamp_seconds", "nextUpdate of the newest CRL.", ["issuer"]
        )
        self.approvals_pending = self._fact(
            "certwright_approvals_pending", "Requests that wait for somebody to agree.", ["stage"]
        )
        self.jobs = self._fact("certwright_jobs", "Jobs by kind and state.", ["queue", "state"])
        self._fact("certwright_build_info", "The version that runs.", ["version"]).labels(version("certwright")).set(1)

    def _fact(self, name: str, help_text: str, labels: Iterable[str]) -> Gauge:
        """The same whoever says it: of several workers' values the newest one counts."""
        return Gauge(name, help_text, labels, registry=self._registry, multiprocess_mode="mostrecent")

    def exposition(self) -> bytes:
        """Prometheus text; some milliseconds, so not on a busy loop's thread."""
        directory = os.environ.get(MULTIPROCESS)
        if directory is None:
            return generate_latest(self._registry)
        everybody = CollectorRegistry()
        MultiProcessCollector(everybody, path=directory)  # type: ignore[no-untyped-call]  # it has no types
        return generate_latest(everybody)
