"""What the `ssl` module does not offer and a listener with client certificates needs: keying material of a connection (RFC 5705,
for the channel binding of RFC 9266), an end to TLS 1.2 sessions on the server's side, and no opinion on what a client's certificate
was made for.

All are functions of the libssl that the interpreter has loaded already, and take its pointer for the connection, `SSL *`. That
pointer is in the object behind `ssl.SSLObject`; where, no interface says. Law of this file: nothing is called with a pointer that
OpenSSL has not named itself. While a connection of ours is made, OpenSSL tells a callback (`CRYPTO_EX_new`) which `SSL *` it is
making; the place is where that very value stands in the object, whose size is known, so nothing is read beyond it. An
interpreter or library that is made otherwise never calls, or the value is not found: then there is no exporter. What there is has
to stand a test with connections of its own before anybody gets it.
"""

from __future__ import annotations

import _ssl
import contextlib
import ctypes
import ssl
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LABEL = b"EXPORTER-Channel-Binding"  # RFC 9266 §2, as the two below
CONTEXT = b""
LENGTH = 32  # octets

# openssl/crypto.h, openssl/ssl.h, openssl/x509v3.h, openssl/x509_vfy.h
_CRYPTO_EX_INDEX_SSL = 0
_SSL_CTRL_SET_SESS_CACHE_MODE = 44
_SSL_SESS_CACHE_OFF = 0
_X509_PURPOSE_ANY = 7
_NO_CHECK_TIME = 0x200000

# int CRYPTO_EX_new(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
_EX_NEW = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p
)


class NotAvailable(Exception):
    """The text says why."""


@dataclass(frozen=True, slots=True)
class TlsInternals:
    """The way from a connection of the `ssl` module to what libssl knows of it. Made by `find_internals` only."""

    _library: ctypes.CDLL
    _kind: type[object]  # of the objects behind ssl.SSLObject
    _offset: int  # octets, of `SSL *` in them
    _keep: object = field(repr=False)  # the callback: another thread may be about to call it

    def channel_binding(self, tls: ssl.SSLObject) -> bytes | None:
        """RFC 9266 §2: LENGTH octets that both ends of this connection know and nobody else. None before the handshake is done,
        and below TLS 1.3, where other connections may have the same (§4).
        """
        pointer = self._pointer(tls)
        if pointer is None or tls.version() != "TLSv1.3":
            return None
        out = ctypes.create_string_buffer(LENGTH)
        done = self._library.SSL_export_keying_material(pointer, out, LENGTH, LABEL, len(LABEL), CONTEXT, len(CONTEXT), 1)
        return out.raw if done == 1 else None

    def keep_no_sessions(self, context: ssl.SSLContext) -> None:
        """No later connection resumes a TLS 1.2 session from this context's memory."""
        inside = self._inside(context)
        if inside is not None:
            self._library.SSL_CTX_ctrl(inside, _SSL_CTRL_SET_SESS_CACHE_MODE, _SSL_SESS_CACHE_OFF, None)

    def take_every_purpose(self, context: ssl.SSLContext) -> None:
        """Extended key usage, and the digitalSignature of a client, are no longer looked at in the handshake: whoever asks for a
        certificate does it, and can say so. Signatures, CAs and path lengths still are.
        """
        inside = self._inside(context)
        if inside is not None:
            self._library.SSL_CTX_set_purpose(inside, _X509_PURPOSE_ANY)

    def _inside(self, context: ssl.SSLContext) -> int | None:
        """`SSL_CTX *`, by way of a connection that OpenSSL made of it."""
        pointer = self._pointer(context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True))
        found: int | None = None if pointer is None else self._library.SSL_get_SSL_CTX(pointer)
        return found

    def _pointer(self, tls: ssl.SSLObject) -> int | None:
        inner = getattr(tls, "_sslobj", None)
        if type(inner) is not self._kind:
            return None
        return ctypes.c_void_p.from_address(id(inner) + self._offset).value


def _library() -> ctypes.CDLL:
    """The libssl that `_ssl` is linked with, and no other that happens to be loaded: found by way of `_ssl` itself."""
    file = getattr(_ssl, "__file__", None)
    if file is None:
        raise NotAvailable("the ssl module is built into this Python, with its TLS library")
    library = ctypes.CDLL(file)
    library.CRYPTO_get_ex_new_index.restype = ctypes.c_int
    library.CRYPTO_get_ex_new_index.argtypes = [
        ctypes.c_int, ctypes.c_long, ctypes.c_void_p, _EX_NEW, ctypes.c_void_p, ctypes.c_void_p
    ]  # fmt: skip
    library.CRYPTO_free_ex_index.restype = ctypes.c_int
    library.CRYPTO_free_ex_index.argtypes = [ctypes.c_int, ctypes.c_int]
    library.SSL_export_keying_material.restype = ctypes.c_int
    library.SSL_export_keying_material.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t,
        ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int,
    ]  # fmt: skip
    library.SSL_get_SSL_CTX.restype = ctypes.c_void_p
    library.SSL_get_SSL_CTX.argtypes = [ctypes.c_void_p]
    library.SSL_CTX_ctrl.restype = ctypes.c_long
    library.SSL_CTX_ctrl.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
    library.SSL_CTX_set_purpose.restype = ctypes.c_int
    library.SSL_CTX_set_purpose.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return library


def find_internals(library: Callable[[], ctypes.CDLL] = _library) -> TlsInternals:
    """Some milliseconds. Raises NotAvailable."""
    if sys.implementation.name != "cpython":
        raise NotAvailable(f"{sys.implementation.name} keeps its objects elsewhere than CPython")
    try:
        found = _locate(library())
        _test(found)
    except (OSError, AttributeError, MemoryError, ssl.SSLError) as error:  # of ctypes: no such library or function, no callback
        why = str(error) or type(error).__name__
        raise NotAvailable(f"the TLS library of this Python is not as expected: {why}") from error
    return found


def _locate(library: ctypes.CDLL) -> TlsInternals:
    """Two connections, for one value could stand in an object by chance. Raises NotAvailable."""
    named: list[int] = []

    def made(parent: int, *_: object) -> None:
        named.append(parent)

    callback = _EX_NEW(made)
    index = library.CRYPTO_get_ex_new_index(_CRYPTO_EX_INDEX_SSL, 0, None, callback, None, None)
    if index < 0:
        raise NotAvailable("the TLS library takes no callback")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        places = [_places(context, named) for _ in range(2)]
    finally:
        library.CRYPTO_free_ex_index(_CRYPTO_EX_INDEX_SSL, index)
    kinds = {kind for kind, _ in places}
    offsets = set.intersection(*(offsets for _, offsets in places))
    if len(kinds) != 1 or len(offsets) != 1:
        raise NotAvailable("the ssl module of this Python does not keep its connections as expected")
    return TlsInternals(library, kinds.pop(), offsets.pop(), callback)


def _places(context: ssl.SSLContext, named: list[int]) -> tuple[type[object], set[int]]:
    """Of a new connection: its type, and the offsets where what OpenSSL named meanwhile stands in it."""
    named.clear()
    tls = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    inner: object = tls._sslobj  # type: ignore[attr-defined]  # noqa: SLF001  # private; AttributeError is looked for
    word = ctypes.sizeof(ctypes.c_void_p)
    octets = ctypes.string_at(id(inner), type(inner).__basicsize__)
    words = {at: int.from_bytes(octets[at : at + word], sys.byteorder) for at in range(0, len(octets) - word + 1, word)}
    return type(inner), {at for at, value in words.items() if value != 0 and value in named}


def _test(found: TlsInternals) -> None:
    """Both ends agree; another connection has another value; there is none where there must be none; and a client may show a
    certificate for servers. Raises NotAvailable.
    """
    with tempfile.TemporaryDirectory(prefix="certwright-") as directory:
        server, client = _contexts(Path(directory))
    found.take_every_purpose(server)
    _expect(found.channel_binding(_wrap(server, client)[0]) is None, "a connection without a handshake has keys")
    one, other = (_shaken(_wrap(server, client)) for _ in range(2))
    values = [found.channel_binding(end) for end in (*one, *other)]
    _expect(None not in values, "a connection gives no keying material")
    _expect(values[0] == values[1] and values[2] == values[3], "the two ends of a connection disagree")
    _expect(values[0] != values[2], "two connections have the same keying material")
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    ends = _shaken(_wrap(server, client))
    _expect(found.channel_binding(ends[0]) is None, "TLS 1.2 has the binding of TLS 1.3")


def _expect(holds: bool, otherwise: str) -> None:  # noqa: FBT001  # as `assert`, which optimised bytecode leaves out
    if not holds:
        raise NotAvailable(f"self-test: {otherwise}")


Ends = tuple[ssl.SSLObject, ssl.SSLObject]


def _wrap(server: ssl.SSLContext, client: ssl.SSLContext) -> Ends:
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    return server.wrap_bio(up, down, server_side=True), client.wrap_bio(down, up)


def _shaken(ends: Ends) -> Ends:
    """In memory: who has nothing to read lets the other one go on. Some turns are enough for any version."""
    for _ in range(4):
        for end in reversed(ends):
            _advance(end)
    return ends


def _advance(end: ssl.SSLObject) -> None:
    with contextlib.suppress(ssl.SSLWantReadError):
        end.do_handshake()


def _contexts(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "self-test")])
    start = datetime(2000, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = directory / "self-test.pem"
    file.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    server.verify_mode = ssl.CERT_REQUIRED
    server.verify_flags |= _NO_CHECK_TIME
    server.load_verify_locations(file)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.load_cert_chain(file)
    return server, client
