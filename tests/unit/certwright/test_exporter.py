"""What libssl is asked behind the ssl module's back: right where it works, and not there where it would not.

pyOpenSSL is the independent other end: another wrapper, with an OpenSSL of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from OpenSSL import SSL

from certwright import doctor, exporter, listeners
from certwright.config import Config, parse
from certwright.exporter import LABEL, LENGTH, NotAvailable, TlsInternals, find_internals
from est.connection import BindingType, Connections
from tests.helpers.authorities import CMC_RA, SERVER_AUTH, Authority, constraints, ec_key, purposes, usage
from tests.helpers.issuance_simulator import ThrowAwayCa


@pytest.fixture(scope="module")
def internals() -> TlsInternals:
    return find_internals()


@pytest.fixture
def server(tmp_path: Path) -> ssl.SSLContext:
    return ThrowAwayCa().server_context(tmp_path)


def client_context(*, tls12: bool) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if tls12:
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
    return context


class Pair:
    """One connection in memory: our `ssl` serves, pyOpenSSL is the client."""

    def __init__(
        self, server: ssl.SSLContext, *, tls12: bool = False, resumes: Pair | None = None, shows: bytes | None = None
    ) -> None:
        self.context: SSL.Context = client_context(tls12=tls12) if resumes is None else resumes.context
        if shows is not None:
            self.context.use_certificate(x509.load_der_x509_certificate(shows))
            self.context.use_privatekey(ec_key("leaf"))
        self.client = SSL.Connection(self.context, None)
        self.client.set_connect_state()
        session = None if resumes is None else resumes.client.get_session()
        if session is not None:
            self.client.set_session(session)
        self._up, self._down = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server.wrap_bio(self._up, self._down, server_side=True)
        for _ in range(4):
            self._turn()

    def _turn(self) -> None:
        with contextlib.suppress(SSL.WantReadError):
            self.client.do_handshake()
        with contextlib.suppress(SSL.WantReadError):
            self._up.write(self.client.bio_read(1 << 16))
        with contextlib.suppress(ssl.SSLWantReadError):
            self.server.do_handshake()
        if self._down.pending:
            self.client.bio_write(self._down.read())


def test_both_ends_have_the_keying_material_of_rfc_9266(internals: TlsInternals, server: ssl.SSLContext) -> None:
    # §2: label "EXPORTER-Channel-Binding", a zero-length context, 32 octets
    pair = Pair(server)
    mine = internals.channel_binding(pair.server)
    assert mine is not None
    assert len(mine) == LENGTH == 32
    assert mine == pair.client.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
    assert mine == internals.channel_binding(pair.server), "it stays the same for the life of the connection"


def test_every_connection_has_its_own(internals: TlsInternals, server: ssl.SSLContext) -> None:
    pairs = [Pair(server) for _ in range(5)]
    assert len({internals.channel_binding(pair.server) for pair in pairs}) == 5


def test_below_tls_1_3_there_is_none(internals: TlsInternals, server: ssl.SSLContext) -> None:
    pair = Pair(server, tls12=True)
    assert pair.server.version() == "TLSv1.2"
    assert internals.channel_binding(pair.server) is None


def test_what_is_no_connection_or_not_yet_one_has_none(internals: TlsInternals, server: ssl.SSLContext) -> None:
    fresh = server.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    assert internals.channel_binding(fresh) is None

    class Stranger:
        _sslobj = object()

    assert internals.channel_binding(Stranger()) is None  # type: ignore[arg-type]  # another event loop could bring its own


def test_each_version_has_its_one_binding(internals: TlsInternals, server: ssl.SSLContext) -> None:
    connections = Connections(internals)
    new, old = Pair(server), Pair(server, tls12=True)
    binding = connections.binding(new.server)
    assert binding is not None
    assert binding.type is BindingType.TLS_EXPORTER
    assert binding.octets == new.client.export_keying_material(LABEL, LENGTH, b"")
    binding = connections.binding(old.server)
    assert binding is not None
    assert binding.type is BindingType.TLS_UNIQUE
    # RFC 5929 §3.1: "the first TLS Finished message sent" is the client's in a full handshake.
    assert binding.octets == old.client.get_finished()


def test_tls_unique_of_tls_1_3_is_not_taken_though_python_has_it(server: ssl.SSLContext) -> None:
    # RFC 8446 appendix C.5: "the channel bindings described in [RFC5929] are not defined for TLS 1.3"
    pair = Pair(server)
    assert pair.server.get_channel_binding("tls-unique")
    assert Connections().binding(pair.server) is None


def test_by_default_a_tls_1_2_session_is_resumed_and_then_has_no_binding(server: ssl.SSLContext) -> None:
    # RFC 7627 §1: a man in the middle can give two resumed connections the same Finished message.
    resumed = Pair(server, tls12=True, resumes=Pair(server, tls12=True))
    assert resumed.server.session_reused
    assert Connections().binding(resumed.server) is None


@pytest.mark.parametrize("tls12", [True, False])
def test_without_tickets_and_memory_no_session_is_resumed(internals: TlsInternals, server: ssl.SSLContext, tls12: bool) -> None:
    server.options |= ssl.OP_NO_TICKET
    server.num_tickets = 0
    internals.keep_no_sessions(server)
    assert not Pair(server, tls12=tls12, resumes=Pair(server, tls12=tls12)).server.session_reused


@pytest.mark.parametrize("purpose", [SERVER_AUTH, CMC_RA])
@pytest.mark.parametrize("tls12", [True, False])
def test_what_a_certificate_is_made_for_is_not_openssls_to_judge_any_more(
    internals: TlsInternals, tmp_path: Path, purpose: str, tls12: bool
) -> None:
    maker = Authority("Maker")
    leaf = maker.leaf("device-1", purposes(purpose))

    def presented(context: ssl.SSLContext) -> bytes | None:
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= listeners.NO_CHECK_TIME
        context.load_verify_locations(cadata=maker.der)
        return Pair(context, tls12=tls12, shows=leaf).server.getpeercert(binary_form=True)

    with pytest.raises(ssl.SSLCertVerificationError, match=r"purpose|certificate verify failed"):
        presented(ThrowAwayCa().server_context(tmp_path))
    context = ThrowAwayCa().server_context(tmp_path)
    internals.take_every_purpose(context)
    assert presented(context) == leaf
    # All the rest is still to be right.
    no_authority = Authority("device-2", maker, (constraints(ca=False), usage(digital_signature=True)))
    context.load_verify_locations(cadata=no_authority.der)
    for wrong in (Authority("Maker"), no_authority):
        with pytest.raises(ssl.SSLCertVerificationError):
            Pair(context, tls12=tls12, shows=wrong.leaf("device-1", purposes(purpose)))


class Silent:
    """A libssl that never says what it makes."""

    def CRYPTO_get_ex_new_index(self, *_: object) -> int:  # noqa: N802  # its name there
        return 0

    def CRYPTO_free_ex_index(self, *_: object) -> int:  # noqa: N802
        return 1


def test_where_openssl_names_nothing_nothing_is_found_and_nothing_called() -> None:
    with pytest.raises(NotAvailable, match="as expected"):
        exporter._locate(Silent())  # type: ignore[arg-type]  # stands for a library that is made otherwise


@pytest.mark.parametrize("error", [MemoryError(), OSError("no such file"), AttributeError("SSL_get_SSL_CTX")])
def test_a_machine_that_forbids_it_has_no_exporter_and_starts_all_the_same(error: Exception) -> None:
    # libffi before 3.4 makes a callback in memory that is writable and executable: MemoryError where nothing may be (systemd's
    # MemoryDenyWriteExecute=, SELinux).
    def library() -> ctypes.CDLL:
        raise error

    with pytest.raises(NotAvailable, match=r"not as expected: \w+"):
        find_internals(library)


def test_an_end_that_disagrees_fails_the_self_test(internals: TlsInternals) -> None:
    class Wrong(TlsInternals):
        def channel_binding(self, tls: ssl.SSLObject) -> bytes | None:
            found = super().channel_binding(tls)
            return None if found is None else found[:-1] + bytes([tls.server_side])

    with pytest.raises(NotAvailable, match="disagree"):
        exporter._test(Wrong(internals._library, internals._kind, internals._offset, internals._keep))


def test_a_library_that_goes_on_judging_purposes_fails_the_self_test(internals: TlsInternals) -> None:
    class Strict(TlsInternals):
        def take_every_purpose(self, context: ssl.SSLContext) -> None:
            pass

    with pytest.raises(ssl.SSLError):
        exporter._test(Strict(internals._library, internals._kind, internals._offset, internals._keep))


def with_linking(made: Path, word: str) -> Config:
    file = made / "certwright.yaml"
    return parse(file, file.read_text().replace("authenticate: [basic,", f"proof_linking: {word}, authenticate: [basic,"), {})


@pytest.mark.parametrize("word", ["optional", "required"])
def test_check_says_with_which_versions_of_tls_a_proof_can_be_linked(made: Path, word: str) -> None:
    config = with_linking(made, word)
    [good] = doctor._linking(config)
    assert (good.level, "EST default" in good.said, "TLS 1.3" in good.said) == ("ok", True, True)

    def other_python() -> None:
        raise NotAvailable("its ssl module is made otherwise")

    [bad] = doctor._linking(config, other_python)
    assert bad.level == "warn"
    assert "TLS 1.2 only, with this Python (its ssl module is made otherwise)" in bad.said


def test_check_is_silent_where_nothing_is_linked(made: Path) -> None:
    assert list(doctor._linking(with_linking(made, "off"))) == []
