"""RFC 7030 §3.5 as a table: what a label asks for, what a request carries, what the connection has, and the verdict."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from est.caller import Caller
from est.connection import BindingType, ChannelBinding, Connection, no_binding
from est.endpoint import EstEndpoint, ProofLinking
from est.linking import check_linking
from issuance.request import BasicPassword, CertificateRole, HeldCertificate
from pki.csr import Csr, parse_csr
from pki.reasons import Reason, Rejection
from policy.principal import Principal, PrincipalKind
from tests.helpers.issuance_simulator import der_of, make_csr

HERE = bytes(range(12))
ELSEWHERE = bytes(range(1, 13))
UNIQUE = ChannelBinding(BindingType.TLS_UNIQUE, HERE)
EXPORTER = ChannelBinding(BindingType.TLS_EXPORTER, bytes(range(32)))
USER = Caller(Principal(PrincipalKind.EST_USER, "default/user", frozenset()), BasicPassword("default/user"))
OFF, OPTIONAL, REQUIRED = ProofLinking


def b64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def label(linking: ProofLinking) -> EstEndpoint:
    return EstEndpoint(label="default", profile="device", ca_certificates=(b"ca",), proof_linking=linking)


def csr(challenge: str | None) -> Csr:
    return parse_csr(der_of(make_csr("a.example.com", challenge=challenge)))


def has(binding: ChannelBinding | None) -> Connection:
    return Connection(binding=lambda: binding)


def verdict(linking: ProofLinking, challenge: str | None, connection: Connection, caller: Caller = USER) -> Reason | None:
    try:
        check_linking(csr(challenge), label(linking), connection, caller)
    except Rejection as rejection:
        assert rejection.suggestions, "a refusal says what to do"
        return rejection.reason
    return None


@pytest.mark.parametrize(
    ("linking", "challenge", "connection", "expected"),
    [
        # "The EST server MAY reject requests without tls-unique information as indicated by server policy."
        (OPTIONAL, None, has(UNIQUE), None),
        (REQUIRED, None, has(UNIQUE), Reason.BAD_CSR),
        (REQUIRED, None, has(EXPORTER), Reason.BAD_CSR),
        (REQUIRED, None, has(None), Reason.BAD_CSR),
        # "If tls-unique information is included by the client, the server MUST verify it."
        (OPTIONAL, b64(HERE), has(UNIQUE), None),
        (REQUIRED, b64(HERE), has(UNIQUE), None),
        (OPTIONAL, b64(EXPORTER.octets), has(EXPORTER), None),
        (REQUIRED, b64(EXPORTER.octets), has(EXPORTER), None),
        (OPTIONAL, b64(ELSEWHERE), has(UNIQUE), Reason.BAD_CSR),
        (REQUIRED, b64(ELSEWHERE), has(UNIQUE), Reason.BAD_CSR),
        (REQUIRED, b64(HERE), has(EXPORTER), Reason.BAD_CSR),
        (REQUIRED, b64(EXPORTER.octets), has(UNIQUE), Reason.BAD_CSR),
        (OPTIONAL, b64(HERE), has(None), Reason.BAD_CSR),
        # A secret of SCEP in the same attribute (lesson 16), and what is no base64 at all.
        (OPTIONAL, "scep-secret", has(UNIQUE), Reason.BAD_CSR),
        (REQUIRED, "sécret", has(UNIQUE), Reason.BAD_CSR),
        (REQUIRED, " ", has(UNIQUE), Reason.BAD_CSR),
        (REQUIRED, b64(HERE)[:-1], has(UNIQUE), Reason.BAD_CSR),
        (REQUIRED, b64(HERE + b"\0"), has(UNIQUE), Reason.BAD_CSR),
        (REQUIRED, HERE.hex(), has(UNIQUE), Reason.BAD_CSR),
        # OpenSSL's BIO_f_base64, which libest uses, ends in a line break.
        (REQUIRED, b64(HERE) + "\n", has(UNIQUE), None),
        # Off is off.
        (OFF, None, has(None), None),
        (OFF, b64(ELSEWHERE), has(UNIQUE), None),
        (OFF, "scep-secret", Connection(proxied=True), None),
        # Behind a proxy nobody here knows the connection.
        (OPTIONAL, None, Connection(proxied=True), None),
        (OPTIONAL, b64(HERE), Connection(proxied=True), Reason.BAD_CSR),
        (REQUIRED, None, Connection(proxied=True), Reason.FORBIDDEN),
        (REQUIRED, b64(HERE), Connection(proxied=True), Reason.FORBIDDEN),
    ],
)
def test_the_verdict(linking: ProofLinking, challenge: str | None, connection: Connection, expected: Reason | None) -> None:
    assert verdict(linking, challenge, connection) == expected


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        (CertificateRole.AGENT, None),
        (CertificateRole.DEVICE, Reason.BAD_CSR),
        (CertificateRole.PREVIOUS, Reason.BAD_CSR),
    ],
)
def test_an_agent_alone_hands_on_what_was_bound_to_another_connection(role: CertificateRole, expected: Reason | None) -> None:
    # §3.7: "the EST server could be configured to accept POP linking information that does not match the current TLS session
    # because the authenticated EST client RA has verified this information when acting as an EST server"
    caller = Caller(USER.principal, HeldCertificate(role, "", "0a", "00"))
    assert verdict(REQUIRED, b64(ELSEWHERE), has(UNIQUE), caller) == expected
    assert verdict(REQUIRED, None, has(UNIQUE), caller) == expected


@pytest.mark.parametrize(
    ("binding", "says"),
    [(UNIQUE, "tls-unique value of this connection (RFC 5929"), (EXPORTER, "tls-exporter value of this connection (RFC 9266")],
)
@pytest.mark.parametrize("challenge", [None, b64(ELSEWHERE)])
def test_a_refusal_names_the_binding_that_this_version_of_tls_has(
    binding: ChannelBinding, says: str, challenge: str | None
) -> None:
    with pytest.raises(Rejection) as refused:
        check_linking(csr(challenge), label(REQUIRED), has(binding), USER)
    assert says in refused.value.suggestions[0]


def test_what_a_request_and_a_connection_hold_is_in_no_message_and_no_repr() -> None:
    with pytest.raises(Rejection) as refused:
        check_linking(csr("scep-secret"), label(REQUIRED), has(UNIQUE), USER)
    said = f"{refused.value!r} {refused.value.detail} {refused.value.suggestions} {has(UNIQUE)!r} {UNIQUE!r}"
    assert "scep-secret" not in said
    assert b64(HERE) not in said
    assert HERE.hex() not in said
    assert repr(HERE) not in said


@pytest.mark.parametrize(("linking", "challenge"), [(OFF, "x"), (OFF, None), (OPTIONAL, None)])
def test_the_binding_is_read_only_where_something_is_compared_with_it(linking: ProofLinking, challenge: str | None) -> None:
    def never() -> ChannelBinding | None:
        raise AssertionError("nobody asked")

    check_linking(csr(challenge), label(linking), Connection(binding=never), USER)


PARSED = csr("placeholder")


@given(st.text(max_size=60), st.binary(min_size=12, max_size=32), st.sampled_from([OPTIONAL, REQUIRED]))
def test_no_text_but_the_bindings_own_base64_passes(text: str, octets: bytes, linking: ProofLinking) -> None:
    request = Csr(**{name: getattr(PARSED, name) for name in Csr.__slots__} | {"challenge_password": text})
    with pytest.raises(Rejection):
        check_linking(request, label(linking), has(ChannelBinding(BindingType.TLS_UNIQUE, octets)), USER)
    right = Csr(**{name: getattr(PARSED, name) for name in Csr.__slots__} | {"challenge_password": b64(octets)})
    check_linking(right, label(linking), has(ChannelBinding(BindingType.TLS_UNIQUE, octets)), USER)


def test_a_connection_without_more_has_no_binding() -> None:
    assert Connection().binding() is None
    asked: Callable[[], ChannelBinding | None] = no_binding
    assert Connection().binding is asked
