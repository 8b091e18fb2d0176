"""Proof of possession linked to TLS (RFC 7030 §3.5, RFC 9266): is the request of whoever is at the other end? Pure."""

from __future__ import annotations

from est.caller import Caller
from est.connection import Connection
from est.endpoint import EstEndpoint
from pki.csr import Csr


def check_linking(csr: Csr, endpoint: EstEndpoint, connection: Connection, caller: Caller) -> None:
    """Raises Rejection(BAD_CSR)."""
