"""TLS with a server of a subscriber: whose certificate it shows is for the method to judge, what it costs us is judged here.

Law of this file: whoever we connect to may be an attacker, and chooses the parameters. With finite-field Diffie-Hellman he would
choose the group, too: one of 10,000 bits holds the event loop for most of a second, and every redirect is one more handshake.
"""

from __future__ import annotations

import ssl

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
