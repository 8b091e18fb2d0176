"""CAA: tables of record sets and verdicts (RFC 8659 §4, RFC 8657), and of what the DNS may do while we ask."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import dns.rdata
import dns.rdataclass
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.dns import DnsFault, DnsServer
from tests.helpers.world import MovableClock
from validation.caa import AT_ONCE, Asking, CaaOutcome, CaaRecord, Failed, Forbidden, Permitted, check_caa, objection, parse_caa
from validation.dnswire import Malformed
from validation.resolver import DnsResolver

OURS = "ca.test"
ACCOUNT = "https://ca.test/acme/default/account/123"
OTHER_ACCOUNT = "https://ca.test/acme/default/account/321"


def record(text: str) -> CaaRecord:
    """As a zone file has it; dnspython writes the RDATA."""
    return parse_caa(dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.CAA, text).to_wire() or b"")


def asking(
    *,
    wildcard: bool = False,
    account_url: str = ACCOUNT,
    methods: tuple[str, ...] = ("http-01",),
    ours: tuple[str, ...] = (OURS,),
) -> Asking:
    return Asking(wildcard, frozenset(ours), account_url, frozenset(methods))


YES, NO = True, False
# (records, may issue, may issue for a wildcard)
TABLE = [
    pytest.param(['0 issue "other.test"'], NO, NO, id="another CA"),
    pytest.param(['0 iSsUe "other.test"'], NO, NO, id="another CA, mixed case"),
    pytest.param(['1 issue "other.test"'], NO, NO, id="another CA, critical"),
    pytest.param(['0 issue "ca.test"'], YES, YES, id="us"),
    pytest.param(['0 ISSUE "CA.Test"'], YES, YES, id="us, in capitals"),
    pytest.param(['128 issue "ca.test"'], YES, YES, id="us, critical"),
    pytest.param(['1 issue "other.test"', '1 issue "ca.test"'], YES, YES, id="several, one is us"),
    pytest.param(['0 issue "evil-ca.test"'], NO, NO, id="a name that ends like ours"),
    pytest.param(['0 issue "sub.ca.test"'], NO, NO, id="a name below ours"),
    pytest.param(['0 issue "ca.test."'], NO, NO, id="a dot too many names nobody"),
    pytest.param(['0 issue ";"'], NO, NO, id="nobody"),
    pytest.param(['0 issue ""'], NO, NO, id="nobody, empty"),
    pytest.param(['0 issue ";"', '0 issue "ca.test"'], YES, YES, id="nobody and us: sets only add"),
    pytest.param(['128 foo "bar"'], NO, NO, id="unknown critical"),
    pytest.param(['1 foo "bar"'], NO, NO, id="unknown critical, as many zones write it"),
    pytest.param(['129 foo "bar"', '0 issue "ca.test"'], NO, NO, id="unknown critical beside us"),
    pytest.param(['126 foo "bar"'], YES, YES, id="unknown, every other bit"),
    pytest.param(['0 foo "bar"', '0 issue "other.test"'], NO, NO, id="unknown, and another CA"),
    pytest.param(['128 issuemail "ca.test"'], NO, NO, id="critical, and not ours to understand (RFC 9495)"),
    pytest.param(['0 issuemail ";"'], YES, YES, id="mail is not our business"),
    pytest.param(['0 iodef "mailto:a@example.com"'], YES, YES, id="iodef alone"),
    pytest.param(['128 iodef "mailto:a@example.com"'], YES, YES, id="iodef is known"),
    pytest.param(['0 issue " ca.test ;foo=bar;baz=bar"'], YES, YES, id="unknown parameters"),
    pytest.param(['0 issue "ca.test; a_b=123"'], NO, NO, id="malformed tag of a parameter"),
    pytest.param(['0 issue "ca.test; ab=1 2 3"'], NO, NO, id="malformed value of a parameter"),
    pytest.param(['0 issue "%%%"'], NO, NO, id="malformed domain"),
    pytest.param(['0 issue "%%%"', '0 issue "ca.test"'], YES, YES, id="malformed, and us"),
    pytest.param(['0 issuewild ";"'], YES, NO, id="no wildcards"),
    pytest.param(['0 issuewild "ca.test"'], YES, YES, id="wildcards by us"),
    pytest.param(['0 issue "ca.test"', '0 issuewild "other.test"'], YES, NO, id="issuewild replaces issue"),
    pytest.param(['0 issue "other.test"', '0 issuewild "ca.test"'], NO, YES, id="issuewild replaces issue, the other way"),
    pytest.param(['0 issue ";"', '0 issuewild "ca.test"'], NO, YES, id="wildcards only"),
    pytest.param(['0 issuewild "other.test"', '0 issuewild "ca.test"'], YES, YES, id="several for wildcards"),
    pytest.param(['0 issue "ca.test"', '0 issuewild "%%%"'], YES, NO, id="a malformed issuewild still replaces issue"),
    pytest.param([f'0 issue "ca.test; accounturi={ACCOUNT}"'], YES, YES, id="our account"),
    pytest.param([f'0 issue "ca.test; AccountURI={ACCOUNT}"'], YES, YES, id="our account, in capitals"),
    pytest.param([f'0 issue "ca.test; accounturi={OTHER_ACCOUNT}"'], NO, NO, id="another account"),
    pytest.param([f'0 issue "ca.test; AccountURI={OTHER_ACCOUNT}"'], NO, NO, id="another account, in capitals"),
    pytest.param([f'0 issue "ca.test; accounturi={ACCOUNT.upper()}"'], NO, NO, id="URLs differ by case"),
    pytest.param([f'0 issue "ca.test; accounturi={ACCOUNT}/"'], NO, NO, id="a URL with more"),
    pytest.param(['0 issue "ca.test; accounturi="'], NO, NO, id="no account at all"),
    pytest.param(
        [f'0 issue "ca.test; accounturi={OTHER_ACCOUNT}"', f'0 issue "ca.test; accounturi={ACCOUNT}"'],
        YES, YES, id="several records, one is our account",
    ),
    pytest.param(
        [f'0 issue "ca.test; accounturi={ACCOUNT}; accounturi={ACCOUNT}"'], NO, NO, id="accounturi twice: unsatisfiable"
    ),
    pytest.param([f'0 issue "other.test; accounturi={ACCOUNT}"'], NO, NO, id="our account at another CA"),
    pytest.param(['0 issue "ca.test; validationmethods=http-01"'], YES, YES, id="our method"),
    pytest.param(['0 issue "ca.test; validationmethods=dns-01"'], NO, NO, id="another method"),
    pytest.param(['0 issue "ca.test; validationmethods=dns-01,http-01"'], YES, YES, id="one of several methods"),
    pytest.param(['0 issue "ca.test; validationmethods=HTTP-01"'], NO, NO, id="methods are what they are called"),
    pytest.param(['0 issue "ca.test; validationmethods=http-01,"'], NO, NO, id="a malformed list of methods"),
    pytest.param(['0 issue "ca.test; validationmethods=,http-01"'], NO, NO, id="a malformed list of methods, too"),
    pytest.param(['0 issue "ca.test; validationmethods="'], NO, NO, id="no method at all"),
    pytest.param(
        ['0 issue "ca.test; validationmethods=http-01; validationmethods=http-01"'], NO, NO, id="methods twice: unsatisfiable"
    ),
    pytest.param(
        [f'0 issue "ca.test; accounturi={ACCOUNT}; validationmethods=http-01"'], YES, YES, id="our account and method"
    ),
    pytest.param(
        [f'0 issue "ca.test; accounturi={ACCOUNT}; validationmethods=dns-01"'], NO, NO, id="our account, another method"
    ),
    pytest.param(
        [f'0 issue "ca.test; accounturi={OTHER_ACCOUNT}; validationmethods=http-01"'], NO, NO, id="another account, our method"
    ),
    pytest.param(
        [f'0 issue "ca.test; accounturi={ACCOUNT}; validationmethods=dns-01"',
         f'0 issue "ca.test; accounturi={OTHER_ACCOUNT}; validationmethods=http-01"'],
        NO, NO, id="two halves make no whole",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("records", "plain", "wild"), TABLE)
def test_a_set_of_records_permits_or_forbids(records: list[str], *, plain: bool, wild: bool) -> None:
    read = [record(text) for text in records]
    for order in (read, read[::-1]):
        assert (objection(order, asking()) is None) is plain
        assert (objection(order, asking(wildcard=True)) is None) is wild


def test_every_method_that_the_issuance_rests_on_has_to_be_permitted() -> None:
    both = record('0 issue "ca.test; validationmethods=http-01,dns-01"')
    one = record('0 issue "ca.test; validationmethods=dns-01"')
    assert objection([both], asking(methods=("http-01", "dns-01"))) is None
    assert objection([one], asking(methods=("http-01", "dns-01"))) is not None
    assert objection([one], asking(methods=("dns-01",))) is None


def test_where_no_acme_account_asks_parameters_never_fit() -> None:
    nobody = asking(account_url="", methods=())
    assert objection([record('0 issue "ca.test"')], nobody) is None
    for parameter in ("accounturi=", f"accounturi={ACCOUNT}", "validationmethods=", "validationmethods=http-01"):
        assert objection([record(f'0 issue "ca.test; {parameter}"')], nobody) is not None


def test_a_ca_without_a_name_is_never_permitted_by_name() -> None:
    assert objection([record('0 issue "ca.test"')], asking(ours=())) is not None
    assert objection([record('0 issue ";"')], asking(ours=())) is not None


def test_a_ca_of_several_names_is_permitted_by_each() -> None:
    for name in ("ca.test", "ca.example"):
        assert objection([record(f'0 issue "{name}"')], asking(ours=("ca.test", "ca.example"))) is None


@pytest.mark.parametrize(
    "rdata", [b"", b"\0", b"\0\0", b"\0\0issue", b"\0\5issu", b"\0\xff", b"\0\3a-b", b"\0\3\xe9bc", b"\0\5is ue;", b"\0\1\xb2"]
)
def test_broken_rdata_is_malformed(rdata: bytes) -> None:
    with pytest.raises(Malformed):
        parse_caa(rdata)


@given(st.binary(max_size=40))
def test_any_rdata_gives_a_record_or_malformed(rdata: bytes) -> None:
    try:
        read = parse_caa(rdata)
    except Malformed:
        return
    assert (
        bytes((read.flags, len(read.tag))) + read.tag.encode() + read.value
        == rdata[:2] + rdata[2 : 2 + rdata[1]].lower() + (rdata[2 + rdata[1] :])
    )
    assert str(read).isprintable()


@given(
    st.lists(st.tuples(st.integers(0, 255), st.sampled_from(["issue", "issuewild", "iodef", "foo"]), st.binary(max_size=20)))
)
def test_only_a_record_that_names_us_lifts_what_another_forbids(fields: list[tuple[int, str, bytes]]) -> None:
    read = [CaaRecord(*each) for each in fields]
    against = objection(read, asking())
    critical = any(each.tag == "foo" and each.flags & 129 for each in read)
    issue = [each for each in read if each.tag == "issue"]
    assert (against is None) == (
        not critical and (not issue or any(each.value.strip().lower() == b"ca.test" for each in issue))
    )


# ---------------------------------------------------------------------- asking the DNS


@pytest.fixture
async def server() -> AsyncIterator[DnsServer]:
    async with DnsServer() as running:
        yield running


async def check(
    server: DnsServer, name: str, *, wildcard: bool = False, account_url: str = ACCOUNT, deadline: float = 5, clock: MovableClock | None = None
) -> CaaOutcome:  # fmt: skip
    return await check_caa(
        name,
        wildcard=wildcard,
        resolver=DnsResolver([server.address], timeout=0.2, tries=2),
        issuer_domains=["CA.test"],
        account_url=account_url,
        methods={"http-01"},
        clock=clock or MovableClock(),
        deadline=deadline,
    )


async def test_without_records_up_to_the_root_issuance_is_permitted(server: DnsServer) -> None:
    outcome = await check(server, "www.example.com")
    assert isinstance(outcome, Permitted)
    assert outcome.evidence.asked == ("www.example.com", "example.com", "com")
    assert (outcome.evidence.domain, outcome.evidence.records, outcome.evidence.ttl) == ("", (), 0)
    assert sorted(server.queries) == [("com", "CAA"), ("example.com", "CAA"), ("www.example.com", "CAA")]


@pytest.mark.parametrize("at", ["a.b.example.com", "b.example.com", "example.com", "com"])
async def test_the_nearest_name_with_records_decides(server: DnsServer, at: str) -> None:
    server.caa(at, '0 issue "other.test"')
    outcome = await check(server, "a.b.example.com")
    assert isinstance(outcome, Forbidden)
    assert outcome.evidence.domain == at
    assert f"the CAA records of {at} forbid issuance" in outcome.detail
    assert "other" not in outcome.detail  # what is in the records is for the evidence


async def test_records_further_up_do_not_count_beside_nearer_ones(server: DnsServer) -> None:
    server.caa("com", '0 issue ";"')
    server.caa("example.com", '0 issue "ca.test"')
    outcome = await check(server, "www.example.com")
    assert isinstance(outcome, Permitted)
    assert outcome.evidence.records == ("0 issue 'ca.test'",)
    assert outcome.evidence.asked == ("www.example.com", "example.com")


@pytest.mark.parametrize("fault", [DnsFault.SERVFAIL, DnsFault.SILENT, DnsFault.REFUSED, DnsFault.GARBAGE, DnsFault.REFERRAL])
@pytest.mark.parametrize("at", ["www.example.com", "example.com", "com"])
async def test_an_error_hides_what_is_above_it(server: DnsServer, fault: DnsFault, at: str) -> None:
    server.faults[at] = fault
    outcome = await check(server, "www.example.com")
    assert isinstance(outcome, Failed)
    assert f"CAA records for {at}" in outcome.detail
    assert outcome.evidence.asked[-1] == at
    assert outcome.evidence.secure is False


async def test_an_error_above_the_records_does_no_harm(server: DnsServer) -> None:
    server.caa("example.com", '0 issue "ca.test"')
    server.faults["com"] = DnsFault.SERVFAIL
    assert isinstance(await check(server, "www.example.com"), Permitted)


async def test_an_alias_has_the_records_of_its_target_but_not_of_its_targets_parents(server: DnsServer) -> None:
    """RFC 8659 §3: the climb is over the labels of the name itself (RFC 6844 had it otherwise)."""
    server.cname("www.example.com", "host.cdn.example.net")
    server.caa("cdn.example.net", '0 issue ";"')
    server.caa("host.cdn.example.net", '0 issue "other.test"')
    outcome = await check(server, "www.example.com")
    assert isinstance(outcome, Forbidden)
    assert outcome.evidence.domain == "www.example.com"
    server.caa("host.cdn.example.net")  # none any more
    server["host.cdn.example.net"] = ["192.0.2.1"]
    assert isinstance(await check(server, "www.example.com"), Permitted)
    server.caa("example.com", '0 issue "other.test"')
    assert isinstance(await check(server, "www.example.com"), Forbidden)


async def test_aliases_in_a_circle_are_an_error(server: DnsServer) -> None:
    server.cname("www.example.com", "a.example.com")
    server.cname("a.example.com", "www.example.com")
    assert isinstance(await check(server, "www.example.com"), Failed)


async def test_a_wildcard_is_asked_for_at_the_name_below_the_star(server: DnsServer) -> None:
    server.caa("example.com", '0 issue "ca.test"', '0 issuewild ";"')
    assert isinstance(await check(server, "example.com"), Permitted)
    outcome = await check(server, "example.com", wildcard=True)
    assert isinstance(outcome, Forbidden)
    assert outcome.evidence.name == "*.example.com"
    assert "no issuewild record permits it" in outcome.detail


async def test_names_of_many_labels_are_climbed_to_the_end(server: DnsServer) -> None:
    name = ".".join("a" * (2 * AT_ONCE + 3)) + ".example"
    server.caa("example", '0 issue ";"')
    outcome = await check(server, name)
    assert isinstance(outcome, Forbidden)
    assert len(outcome.evidence.asked) == 2 * AT_ONCE + 4


async def test_a_record_that_cannot_be_read_forbids(server: DnsServer) -> None:
    server["example.com"] = []
    server.broken("example.com", "CAA", b"\0\xffissue")
    outcome = await check(server, "example.com")
    assert isinstance(outcome, Forbidden)
    assert "malformed" in outcome.detail
    assert outcome.evidence.records == (r"\# 7 00ff6973737565",)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("other.test", "this CA is known as ca.test"),
        ("ca.test; a b=c", "malformed"),
        (f"ca.test; accounturi={OTHER_ACCOUNT}", "another account"),
        ("ca.test; validationmethods=dns-01", "how control was proved"),
    ],
)
async def test_the_refusal_says_what_the_best_record_lacks(server: DnsServer, value: str, why: str) -> None:
    server.caa("example.com", '0 issue ";"', f'0 issue "{value}"')
    outcome = await check(server, "example.com")
    assert isinstance(outcome, Forbidden)
    assert why in outcome.detail
    assert OTHER_ACCOUNT not in outcome.detail


async def test_the_evidence_is_json_and_counts_from_before_the_first_question(server: DnsServer) -> None:
    clock = MovableClock()
    server.secure = None
    server.ttls["example.com"] = 300
    server.caa("example.com", '0 issue "ca.test"', '0 foo "\\200\\"x"', *(f'0 issue "n{i:03}.test"' for i in range(50)))
    outcome = await check(server, "www.example.com", clock=clock)
    assert isinstance(outcome, Permitted)
    evidence = json.loads(json.dumps(outcome.evidence.as_json()))
    assert len(evidence.pop("records")) == len(outcome.evidence.records) == 20
    assert all(text.isprintable() and text.isascii() for text in outcome.evidence.records)
    assert evidence == {
        "name": "www.example.com",
        "domain": "example.com",
        "asked": ["www.example.com", "example.com"],
        "resolver": server.address,
        "secure": True,
        "ttl": 300,
        "perspectives": [],
        "checked_at": clock.micros(),
    }


async def test_the_deadline_holds(server: DnsServer) -> None:
    server.faults["www.example.com"] = DnsFault.SILENT
    outcome = await check(server, "www.example.com", deadline=0.1)
    assert isinstance(outcome, Failed)
    assert "took longer than 0.1 s" in outcome.detail
    assert outcome.evidence.secure is False
