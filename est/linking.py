"""Proof of possession linked to TLS (RFC 7030 §3.5, RFC 9266): is the request of whoever is at the other end? Pure.

Who signs a request with the channel binding of a connection in it holds the key now, and is the one who opened the connection. The
binding stands in the challengePassword, in base64: the attribute that carries a secret in SCEP. So its value goes into no message.
"""

from __future__ import annotations

import base64
import binascii
import hmac

from est.caller import Caller
from est.connection import BindingType, ChannelBinding, Connection
from est.endpoint import EstEndpoint, ProofLinking
from issuance.request import CertificateRole
from pki.csr import Csr
from pki.reasons import Reason, Rejection

_HOW = {
    BindingType.TLS_UNIQUE: "the tls-unique value of this connection (RFC 5929 section 3)",
    BindingType.TLS_EXPORTER: "the tls-exporter value of this connection (RFC 9266; tls-unique is not defined for TLS 1.3)",
}


def check_linking(csr: Csr, endpoint: EstEndpoint, connection: Connection, caller: Caller) -> None:
    """What a label asks for has to be there, and what is there has to be right. Raises Rejection(BAD_CSR, FORBIDDEN)."""
    if endpoint.proof_linking is ProofLinking.OFF:
        return
    if caller.role is CertificateRole.AGENT:
        # §3.7: what a registration authority hands on was bound to the connection that it had with the device, and checked by it.
        return
    required = endpoint.proof_linking is ProofLinking.REQUIRED
    if required and connection.proxied:
        raise Rejection(
            Reason.FORBIDDEN,
            "this endpoint asks for a proof of possession that is linked to the TLS connection, and a proxy ends yours",
            suggestions=["connect to this server without the proxy"],
        )
    if csr.challenge_password is None and not required:
        return
    binding = connection.binding()
    if binding is None:
        raise _cannot_tell(connection, required=required)
    if csr.challenge_password is None:
        raise _absent(binding)
    if not hmac.compare_digest(_decoded(csr.challenge_password), binding.octets):
        raise _wrong(binding)


def _decoded(text: str) -> bytes:
    """RFC 4648 §4; what is something else is nobody's binding."""
    try:
        return base64.b64decode(text.strip().encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return b""


def _absent(binding: ChannelBinding) -> Rejection:
    return Rejection(
        Reason.BAD_CSR,
        "this endpoint asks for a proof of possession that is linked to the TLS connection (RFC 7030 section 3.5)",
        suggestions=[f"put {_HOW[binding.type]} into the challengePassword of the request, in base64, and sign it anew"],
    )


def _wrong(binding: ChannelBinding) -> Rejection:
    return Rejection(
        Reason.BAD_CSR,
        "the challengePassword of the request does not belong to this TLS connection (RFC 7030 section 3.5)",
        suggestions=[
            f"it has to be {_HOW[binding.type]}, in base64; after a new connection, a 401 too, the request is signed anew"
        ],
    )


def _cannot_tell(connection: Connection, *, required: bool) -> Rejection:
    """RFC 7030 §3.5: a value that is included MUST be verified; so what we cannot verify we cannot take."""
    if connection.proxied:
        where, what_to_do = "behind a proxy", "connect without the proxy"
    else:
        where, what_to_do = "on this connection", "connect anew with TLS 1.2 and use its tls-unique value (RFC 5929)"
    leave_out = [] if required else ["or leave the challengePassword out of the request"]
    return Rejection(
        Reason.BAD_CSR,
        f"a proof of possession that is linked to TLS cannot be verified {where}",
        suggestions=[what_to_do, *leave_out],
    )
