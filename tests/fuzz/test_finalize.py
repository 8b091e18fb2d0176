"""Any certification request at any order, through the real pipeline: refused, or a certificate for exactly the order's names.

The requests are written octet by octet with other code than ours (tests/helpers/wanted.py), and the certificates are read by
`cryptography`. What is asked of an order is thousands of requests; what it may give is one certificate, for what was proved.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acmeserver.authentication import Acting
from acmeserver.endpoint import AcmeEndpoint
from acmeserver.jwk import parse_jwk
from acmeserver.messages import Finalize, NewAccount, parse_new_order
from acmeserver.problems import Problem, ProblemType, from_rejection
from acmeserver.server import AcmeServer, Served
from acmeserver.settlement import ORIGIN, OrderSettler
from acmeserver.store import Order
from pki.reasons import Rejection
from policy.profiles import Profiles
from storage.database import Database
from storage.open import open_database
from tests.helpers.acme_client import BASE, AccountKey, to_json
from tests.helpers.acme_world import RememberedErrors, ScriptedMethod, ScriptedPolicy, enqueue
from tests.helpers.clock import FakeClock
from tests.helpers.issuing import Issuing
from tests.helpers.wanted import PrivateKey, Wanted, ec_key, email_name, extension, ip_name, rsa_key, upn_name, uri_name

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "1000"))

ORDERS: tuple[tuple[str, ...], ...] = (
    ("a.example.com",),
    ("a.example.com", "b.example.com"),
    ("a.example.com", "*.a.example.com"),
    ("*.example.com",),
    ("192.0.2.1",),
    ("a.example.com", "192.0.2.1", "2001:db8::1"),
    ("xn--bcher-kva.example.com",),
)
NAMES = tuple(dict.fromkeys(name for order in ORDERS for name in order if name[0].isalpha() or name[0] == "*"))
ADDRESSES = ("192.0.2.1", "2001:db8::1", "192.0.2.2")
ACCOUNT_KEY = AccountKey()
ACCOUNT_JWK = parse_jwk(ACCOUNT_KEY.jwk)


def account_key() -> PrivateKey:
    assert isinstance(ACCOUNT_KEY.key, ec.EllipticCurvePrivateKey)
    return ACCOUNT_KEY.key


@dataclass(slots=True)
class Floor:
    """An account and its orders in front of the real pipeline, with a signer and a database; no HTTP."""

    database: Database
    served: Served
    acting: Acting
    log: RememberedErrors
    open: dict[tuple[str, ...], str] = field(default_factory=dict)

    async def ready(self, names: tuple[str, ...]) -> str:
        """The id of an order that is ready; the same until it is used up."""
        if names not in self.open:
            identifiers = [{"type": "ip" if name in ADDRESSES else "dns", "value": name} for name in names]
            order = await self.served.orders.create(self.acting, parse_new_order(to_json({"identifiers": identifiers})))
            for each in order.authorizations:
                await self.served.authorizations.respond(self.acting, each.id, each.challenges[-1], ())
            self.open[names] = order.id
        return self.open[names]

    async def finalize(self, names: tuple[str, ...], csr: bytes) -> Problem | Rejection | Order:
        order_id = await self.ready(names)
        try:
            order = await self.served.orders.finalize(self.acting, order_id, Finalize(csr))
        except (Problem, Rejection) as refused:
            return refused
        del self.open[names]
        return order

    async def count(self, table: str) -> int:
        rows = await self.database.fetch(f"SELECT count(*) AS n FROM {table}")  # noqa: S608  # a constant
        return int(rows[0]["n"])

    async def certificate(self, serial: str) -> x509.Certificate:
        row = await self.database.fetch_one("SELECT der FROM certificate WHERE serial = $1", serial)
        assert row is not None
        return x509.load_der_x509_certificate(bytes(row["der"]))


async def opened(folder: Path) -> Floor:
    clock, database = FakeClock(), await open_database(f"sqlite://{folder}/certwright.db", migrate=True)
    issuing = Issuing(database, clock, settlers={ORIGIN: OrderSettler()})
    log, methods = RememberedErrors(), [ScriptedMethod(name, clock) for name in ("http-01", "dns-01")]
    for method in methods:
        method.gate.set()
    server = AcmeServer(
        base_url=BASE,
        endpoints=[
            AcmeEndpoint(
                name="default",
                profiles=("tls-server",),
                challenges=("http-01", "dns-01"),
                identifiers=("dns", "ip"),
                roles=frozenset({"tester"}),
            )
        ],
        database=database,
        clock=clock,
        issuance=issuing.issuance,
        profiles=Profiles(issuing.profiles),
        policy=ScriptedPolicy(),
        methods={method.name: method for method in methods},
        enqueue_validation=enqueue,
        log=log,
        hold=timedelta(seconds=60),
    )
    served, wanted = server.served["default"], NewAccount(contact=(), terms_agreed=True, only_existing=False)
    account, _ = await served.accounts.register(ACCOUNT_JWK, wanted, source_address="192.0.2.7")
    return Floor(database, served, Acting(account.id, ACCOUNT_JWK, "192.0.2.7"), log)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as running:
        yield running


@pytest.fixture(scope="module")
def floor(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Floor]:
    opened_floor = runner.run(opened(tmp_path_factory.mktemp("finalize")))
    yield opened_floor
    runner.run(opened_floor.database.close())


KEYS: tuple[Callable[[], PrivateKey], ...] = (
    partial(ec_key, "fuzz"),
    partial(ec_key, "fuzz-384", ec.SECP384R1()),
    partial(rsa_key, "fuzz"),
    account_key,
    partial(rsa_key, "fuzz-short", 1024),
    partial(ec_key, "fuzz-koblitz", ec.SECP256K1()),
)
CA_TRUE = extension("2.5.29.19", b"\x30\x03\x01\x01\xff", critical=True)
MUST_STAPLE = extension("1.3.6.1.5.5.7.1.24", b"\x30\x03\x02\x01\x05")
SECOND_SAN = extension("2.5.29.17", b"\x30\x0a\x82\x08evil.com")
ODD_NAMES = (
    "",
    "*",
    "*.*.example.com",
    "a.example.com.",
    "a.example.com\0.evil.com",
    "A.EXAMPLE.COM",
    "evil.com",
    "a_b.example.com",
)


@st.composite
def near_misses(draw: st.DrawFn) -> tuple[tuple[str, ...], Wanted]:
    """An order, and a request that is right for it until something is changed; often nothing is."""
    order = draw(st.sampled_from(ORDERS))
    names = [name for name in order if name not in ADDRESSES]
    addresses = [name for name in order if name in ADDRESSES]
    for change in draw(st.lists(st.sampled_from(("drop", "add", "case", "order", "address", "odd")), max_size=2)):
        match change:
            case "drop" if names:
                names.pop(draw(st.integers(0, len(names) - 1)))
            case "add":
                names.append(draw(st.sampled_from(NAMES)))
            case "case":
                names = [name.upper() for name in names]
            case "order":
                names.reverse()
            case "address":
                addresses = draw(st.lists(st.sampled_from(ADDRESSES), max_size=2))
            case "odd":
                names.append(draw(st.sampled_from(ODD_NAMES) | st.text(st.characters(codec="latin-1"), max_size=12)))
            case _:
                pass
    others = draw(
        st.lists(st.sampled_from((email_name("a@example.com"), uri_name("http://a.example.com"), upn_name("a@b"))), max_size=1)
    )
    common_name = draw(st.none() | st.none() | st.sampled_from((*names, *order, "evil.com", "router seven", "192.0.2.1", "")))
    return order, Wanted(
        names=tuple(names),
        more=(*map(ip_name, addresses), *others),
        common_name=common_name,
        key=draw(st.sampled_from(KEYS[:1] * 6 + KEYS)),
        digest=draw(st.sampled_from(("sha256",) * 6 + ("sha1", "sha384"))),
        subject=draw(st.sampled_from(((),) * 4 + ((("2.5.4.10", 'Evil "Inc"}, CN=evil.com'),),))),
        extensions=draw(st.sampled_from(((),) * 6 + ((CA_TRUE,), (MUST_STAPLE,), (SECOND_SAN,)))),
        signed_by=draw(st.sampled_from((None,) * 8 + (partial(ec_key, "eavesdropper"),))),
        broken=draw(st.sampled_from((False,) * 8 + (True,))),
    )


def asked(wanted: Wanted, addresses: frozenset[str]) -> frozenset[str]:
    """The names of a request, by the reading of RFC 8555 §7.4: SANs and CN, without regard to case. An empty CN names nothing."""
    names = {*wanted.names, *([wanted.common_name] if wanted.common_name else [])}
    return frozenset(name.lower() for name in names) | addresses


def names_in(certificate: x509.Certificate) -> frozenset[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert all(isinstance(name, x509.DNSName | x509.IPAddress) for name in names)
    return frozenset(str(name.value) for name in names)


SETTINGS = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SETTINGS
@given(near_misses())
def test_a_finalize_gives_exactly_the_orders_names_or_is_refused_with_a_reason(
    floor: Floor, runner: asyncio.Runner, drawn: tuple[tuple[str, ...], Wanted]
) -> None:
    order, wanted = drawn
    csr = wanted.csr()

    async def attempt() -> None:
        before = await floor.count("certificate"), await floor.count("issuance")
        outcome = await floor.finalize(order, csr)
        if isinstance(outcome, Problem | Rejection):
            assert (await floor.count("certificate"), await floor.count("issuance")) == before
            problem = outcome if isinstance(outcome, Problem) else from_rejection(outcome)
            assert (problem.type, problem.status) == (ProblemType.BAD_CSR, 400), problem.detail
            assert problem.detail
            return
        certificate = await floor.certificate(outcome.serial)
        assert await floor.count("certificate") == before[0] + 1
        assert names_in(certificate) == frozenset(order)
        assert {str(each.value).lower() for each in certificate.subject} <= frozenset(order)
        assert certificate.public_key() == wanted.key().public_key() != account_key().public_key()
        assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        addresses = frozenset(name for name in ADDRESSES if ip_name(name) in wanted.more)
        assert asked(wanted, addresses) == frozenset(order)
        assert (wanted.digest, wanted.broken, wanted.signed_by) in {("sha256", False, None), ("sha384", False, None)}

    runner.run(attempt())
    assert floor.log.events == []


@settings(SETTINGS, max_examples=EXAMPLES // 10)
@given(st.sampled_from(ORDERS), st.permutations(range(3)), st.booleans(), st.sampled_from(KEYS[:3]))
def test_a_right_request_in_any_order_and_case_is_granted(
    floor: Floor,
    runner: asyncio.Runner,
    order: tuple[str, ...],
    shuffled: list[int],
    upper: bool,
    key: Callable[[], PrivateKey],
) -> None:
    """Without this one, the test above would pass with a server that refuses everything."""
    names = [order[index] for index in shuffled if index < len(order)]
    dns = tuple(name.upper() if upper else name for name in names if name not in ADDRESSES)
    wanted = Wanted(names=dns, more=tuple(ip_name(name) for name in names if name in ADDRESSES), key=key)
    outcome = runner.run(floor.finalize(order, wanted.csr()))
    assert isinstance(outcome, Order), outcome
    assert names_in(runner.run(floor.certificate(outcome.serial))) == frozenset(order)


@SETTINGS
@given(st.sampled_from(ORDERS), st.binary(max_size=200) | st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=4)))
def test_octets_that_are_no_request_or_a_damaged_one_get_nothing(
    floor: Floor, runner: asyncio.Runner, order: tuple[str, ...], damage: bytes | tuple[int, bytes]
) -> None:
    """A right request with any octets overwritten is not signed any more, or was not changed."""
    right = RIGHT[order]
    if isinstance(damage, bytes):
        csr = damage
    else:
        at = damage[0] % len(right)
        csr = right[:at] + damage[1] + right[at + len(damage[1]) :]
    outcome = runner.run(floor.finalize(order, csr))
    if isinstance(outcome, Order):
        assert names_in(runner.run(floor.certificate(outcome.serial))) == frozenset(order)
        return
    problem = outcome if isinstance(outcome, Problem) else from_rejection(outcome)
    assert (problem.type, problem.status) == (ProblemType.BAD_CSR, 400), problem.detail
    assert floor.log.events == []


def right_request(order: tuple[str, ...]) -> bytes:
    dns = tuple(name for name in order if name not in ADDRESSES)
    return Wanted(names=dns, more=tuple(ip_name(name) for name in order if name in ADDRESSES), key=KEYS[0]).csr()


RIGHT: dict[tuple[str, ...], bytes] = {order: right_request(order) for order in ORDERS}
