"""TLS with a server of a subscriber: whose certificate it shows is for the method to judge, what it costs us is judged here.

Law of this file: whoever we connect to may be an attacker, and chooses the parameters. With finite-field Diffie-Hellman he would
choose the group, too: one of 10,000 bits holds the event loop for most of a second, and every redirect is one more handshake.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

from validation.outcome import FailureKind
from validation.reach import Failure

# Python's own list but for its `DHE+AES`.
CIPHERS = "ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"


def validation_context(protocol: str) -> ssl.SSLContext:
    """TLS 1.2 or later, offering this one application protocol (ALPN); any certificate: the subscriber may be asking for his
    first one (RFC 8555 §8.3, RFC 8737 §3).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols([protocol])
    return context


async def converse(
    connection: socket.socket,
    protocol: Callable[[], asyncio.Protocol],
    *,
    tls: ssl.SSLContext | None,
    server_name: str,
    whom: str,
    wanted: str = "",
) -> asyncio.Transport:
    """What carries `protocol` over `connection`, after the handshake where there is `tls`; when it fails, `connection` is closed.

    Raises Failure, which says with `whom` and, if that tells more, what is `wanted` of him.
    """
    loop = asyncio.get_running_loop()
    try:
        transport, _ = await loop.create_connection(
            protocol, sock=connection, ssl=tls, server_hostname=None if tls is None else server_name
        )
    except OSError as error:
        connection.close()
        why = error.reason if isinstance(error, ssl.SSLError) and error.reason else "the server broke the connection"
        raise Failure(FailureKind.TLS, f"no TLS session with {whom}: {why}{wanted}") from error
    except BaseException:  # cancelled: the socket is nobody else's yet
        connection.close()
        raise
    return transport
