"""What is wrong with a configuration is said at its line and column, all of it at once, and never by a traceback."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certwright.config import Config, parse
from certwright.yaml_positions import ConfigError
from policy.profiles import CommonName, KeyUsageBit

Edit = Callable[[str], str]


def text_of(made: Path) -> str:
    return (made / "certwright.yaml").read_text()


def read(made: Path, text: str, **environment: str) -> Config:
    return parse(made / "certwright.yaml", text, environment)


def problems(made: Path, text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        read(made, text, **environment)
    prefix = f"{made / 'certwright.yaml'}:"
    assert all(str(problem).startswith(prefix) for problem in raised.value.problems)
    return [str(problem).removeprefix(prefix) for problem in raised.value.problems]


def replaced(old: str, new: str) -> Edit:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return edit


def test_what_init_writes_is_valid_and_means_what_it_says(made: Path) -> None:
    config = read(made, text_of(made))
    assert config.base_url == "https://localhost:8443"
    assert config.http_url == "http://localhost:8080"
    assert config.database == f"sqlite://{made / 'certwright.db'}"
    assert config.listen.metrics == ("127.0.0.1", 9464)
    assert config.validation.http01_port == 5002
    server = config.profiles.get("TLS_Server")
    assert (server.issuer, server.validity, server.backdate) == ("issuing", timedelta(days=47), timedelta(minutes=5))
    assert (server.common_name, server.require_san) == (CommonName.SAN, True)
    device = config.profiles.get("device")
    assert device.key_usage == {KeyUsageBit.DIGITAL_SIGNATURE, KeyUsageBit.KEY_ENCIPHERMENT}
    assert not device.require_san


def test_the_signer_allows_an_issuer_no_more_than_its_profiles_need(made: Path) -> None:
    keys = {key.name: key for key in read(made, text_of(made)).keys}
    assert set(keys) == {"issuing", "devices", "ra/scep", "ra/est"}
    devices = keys["devices"].envelope
    assert devices is not None
    assert devices.extended_key_usages == {"1.3.6.1.5.5.7.3.2"}
    assert devices.max_validity == timedelta(days=365, minutes=5)
    assert keys["ra/scep"].envelope is None


def test_an_issuer_that_no_profile_uses_any_more_is_one_that_issues_nothing(made: Path) -> None:
    text = text_of(made).replace("issuer: devices", "issuer: issuing")
    keys = {key.name: key for key in read(made, text).keys}
    retired = keys["devices"].envelope
    assert retired is not None
    assert (retired.extended_key_usages, retired.max_validity) == (frozenset(), timedelta(seconds=1))


# Each: an edit of the file that init wrote, and `line:column: text` of what is said.
MISTAKES: list[tuple[str, Edit, str]] = [
    ("unknown key", replaced("validity: 47d", "validty: 47d"), "unknown key 'validty' (did you mean 'validity'?)"),
    ("no duration at all", replaced("validity: 24h", "validity: 0d"), "must be valid for some time"),
    ("no days at all", replaced("validity: 24h", "validity: 24h\n    max_validity: 0d"), "shorter than the profile's"),
    ("base URL without TLS", replaced('"https://localhost:8443"', '"http://localhost:8443"'), "write https://"),
    ("one port twice", replaced('"localhost:9443"', '"localhost:8443"'), "listen.https has this address"),
    ("indented with a tab", replaced("\n    validity: 24h", "\n\tvalidity: 24h"), "indent with spaces"),
    ("indented differently", replaced("    validity: 24h", "     validity: 24h"), "is a line indented differently"),
    ("star without quotes", replaced('allowed_sans: ["*"]', "allowed_sans: [*]"), 'needs quotes: "*"'),
    ("names without quotes", replaced('allowed_sans: ["*"]', "allowed_sans: [*.a.example]"), 'quotes: "*.example.com"'),
    ("colon without a space", replaced("data_dir: .", "data_dir:."), "(in what begins in line 6)"),
    ("quote left open", replaced('"localhost:8443"', '"localhost:8443'), "a quote left open? (in what begins in line 11)"),
    ("unknown section", replaced("\nprofiles:", "\nprofilez:"), "unknown key 'profilez' (did you mean 'profiles'?)"),
    ("duration without a unit", replaced("validity: 47d", "validity: 47"), "a duration is a number and a unit"),
    ("duration in words", replaced("refresh: 24h", "refresh: daily"), "a duration is a number and a unit"),
    (
        "issuer that is not there",
        replaced("issuer: devices", "issuer: device"),
        "there is no issuer 'device' (did you mean 'devices'?)",
    ),
    (
        "endpoint's profile that is not there",
        replaced("default: {profile: device,", "default: {profile: devise,"),
        "there is no profile 'devise' (did you mean 'device'?)",
    ),
    (
        "policy's profile that is not there",
        replaced("allowed_profiles: [device]", "allowed_profiles: [devices]"),
        "there is no profile 'devices' (did you mean 'device'?)",
    ),
    ("name pattern", replaced('allowed_sans: ["*"]', 'allowed_sans: ["www.*.com"]'), "stars stand at its front only"),
    ("extended key usage", replaced("[serverAuth]", "[serverauthority]"), "is no extended key usage"),
    ("EKU that no leaf may have", replaced("[serverAuth]", "[2.5.29.37.0]"), "is never issued to a requester"),
    ("key usage", replaced("[digital_signature]", "[digital_sign]"), "one of: digital_signature"),
    ("common name", replaced("common_name: san", "common_name: subject"), "one of: none, san, device"),
    ("no way in", replaced("challenge: [static, one-time]", "challenge: []"), "list at least one, or leave the key out"),
    ("port that is text", replaced("http01_port: 5002", 'http01_port: "5002"'), "integer"),
    ("port out of range", replaced("http01_port: 5002", "http01_port: 70000"), "65535"),
    ("truth in YAML 1.1", replaced("require_san: false", "require_san: off"), "boolean"),
    ("base URL with a path", replaced('"https://localhost:8443"', '"https://localhost/acme"'), "only scheme, host and port"),
    ("address without port", replaced('"localhost:8443"', '"localhost"'), "an address and a port"),
    ("network", replaced('["127.0.0.0/8", "::1/128"]', '["127.0.0.1/8"]'), "host bits"),
    ("file that is not there", replaced("certificate: ca/issuing.pem", "certificate: ca/issuer.pem"), "there is no file"),
    (
        "CA that is none",
        replaced("certificate: ca/issuing.pem", "certificate: ca/scep-ra.pem"),
        "this certificate may not issue|CA certificate",
    ),
    ("chain of another CA", replaced("chain: [ca/root.pem]", "chain: [ca/devices.pem]"), "did not issue"),
    (
        "neither key",
        replaced("key: {software: {file: ca/issuing.key, passphrase_file: ca/passphrase}}", "key: {}"),
        "give one of",
    ),
    (
        "CRL that expires first",
        replaced("{refresh: 24h, lifetime: 4d}", "{refresh: 4d, lifetime: 24h}"),
        "shorter than lifetime",
    ),
    ("CRL for too long", replaced("{refresh: 24h, lifetime: 4d}", "{refresh: 24h, lifetime: 11d}"), "at most 10d"),
    ("workers on SQLite", lambda text: text + "\nworkers: 2\n", "SQLite has one writer"),
    (
        "records by no name",
        replaced("challenges: [http-01, dns-01, tls-alpn-01]", "challenges: [http-01, dns-persist-01]"),
        "its records name this CA: say in validation.caa_identities how",
    ),
    ("DNSSEC of whoever", replaced("http01_port: 5002", "http01_port: 5002\n  dnssec: require"), "name in validation.resolver"),
    ("DNSSEC, perhaps", replaced("http01_port: 5002", "http01_port: 5002\n  dnssec: on"), "one of: off, require"),
    (
        "terms that no browser opens",
        replaced("challenges: [http-01, dns-01, tls-alpn-01]", 'challenges: [http-01], terms_of_service: "/terms"'),
        "a URL that browsers open",
    ),
    (
        "external accounts and no key that seals theirs",
        lambda text: replaced(
            "challenges: [http-01, dns-01, tls-alpn-01]", "challenges: [http-01], external_account: optional"
        )(text.replace("secrets_key_file: secrets.key", "")),
        "make one with (umask 077; openssl rand -hex 32 > secrets.key)",
    ),
    (
        "Digest and no key that seals what it is computed from",
        lambda text: replaced("[basic, certificate]", "[digest, certificate]")(
            text.replace("secrets_key_file: secrets.key", "")
        ),
        "what Digest is computed from is sealed in the database by a key in a file: make one with",
    ),
    (
        "full CMC and no key that seals what its clients share with us",
        lambda text: replaced("registration_authority: est", "registration_authority: est, full_cmc: true")(
            text.replace("secrets_key_file: secrets.key", "")
        ),
        "shared secrets of CMC clients, and what waits for an approval, are sealed in the database by a key in a file",
    ),
    (
        "challenge unknown",
        replaced("challenges: [http-01, dns-01, tls-alpn-01]", "challenges: [http-1]"),
        "(did you mean 'http-01'?)",
    ),
    ("EST authentication unknown", replaced("[basic, certificate]", "[basics, certificate]"), "(did you mean 'basic'?)"),
    (
        "EST certificates without roles",
        replaced("client_certificates: {roles: [device]}", "client_certificates: {}"),
        "say in client_certificates.roles which roles",
    ),
    (
        "CAA by no name",
        replaced("challenges: [http-01, dns-01, tls-alpn-01]", "challenges: [http-01], caa: true"),
        "say in validation.caa_identities",
    ),
    ("CAA of a profile", replaced("validity: 47d", "validity: 47d\n    caa: true"), "say in validation.caa_identities"),
    (
        "CAA by no domain",
        replaced("http01_port: 5002", 'http01_port: 5002\n  caa_identities: ["*.a.example"]'),
        "without a star",
    ),
    (
        "reuse beyond their life",
        replaced("challenges: [http-01, dns-01, tls-alpn-01]", "challenges: [http-01], authorization_reuse: 8d"),
        "authorizations live 7d",
    ),
    (
        "pre-authorization for nothing",
        replaced("challenges: [http-01, dns-01, tls-alpn-01]", "challenges: [http-01], pre_authorization: true"),
        "or no order would use what was authorized",
    ),
    (
        "subdomains by http",
        replaced("challenges: [http-01, dns-01, tls-alpn-01]", "challenges: [http-01], subdomains: true"),
        "an ancestor is proved in the DNS only",
    ),
    (
        "two methods of one",
        lambda text: replaced("validity: 47d", "validity: 47d\n    methods_required: 2")(
            replaced("[http-01, dns-01, tls-alpn-01]", "[http-01]")(text)
        ),
        "wants 2 different methods, and this endpoint has http-01",
    ),
    (
        "perspectives of nobody",
        replaced("validity: 47d", "validity: 47d\n    perspectives_required: 2"),
        "validation.perspectives has 0",
    ),
    (
        "retries that no client waits for",
        replaced("http01_port: 5002", "http01_port: 5002\n  retry_delay: 2m"),
        "clients give up after a minute and a half",
    ),
    ("database", replaced('"sqlite:certwright.db"', '"mysql://x"'), "a URL such as sqlite:"),
    ("both databases", lambda text: text + "\ndatabase_file: x\n", "give one of database and database_file"),
    (
        "validity longer than its limit",
        replaced("validity: 47d", "validity: 47d\n    max_validity: 30d"),
        "shorter than the profile's",
    ),
    ("two validities", replaced("validity: 47d", "validity: 47d\n    validity_days: 47"), "give either"),
    ("subject attribute", replaced("validity: 47d", "validity: 47d\n    subject: {CN: x}"), "a profile can fix"),
    ("country", replaced("validity: 47d", "validity: 47d\n    subject: {C: Germany}"), "two capital letters"),
    ("missing", replaced("base_url:", "http_url2:"), "'base_url' is missing here"),
    ("alias taken", replaced("validity: 47d", "validity: 47d\n    aliases: [device]"), "answers to 'device' too"),
    (
        "RA that is not there",
        replaced("registration_authority: scep", "registration_authority: step"),
        "(did you mean 'scep'?)",
    ),
]


@pytest.mark.parametrize(("edit", "said"), [pytest.param(edit, said, id=name) for name, edit, said in MISTAKES])
def test_a_mistake_is_named_with_what_to_write_instead(made: Path, edit: Edit, said: str) -> None:
    found = problems(made, edit(text_of(made)))
    assert any(word in problem for problem in found for word in said.split("|")), found


def place(text: str, part: str) -> str:
    before = text[: text.index(part)]
    return f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        pytest.param(replaced("validity: 47d", "validty: 47d"), "validty", id="an unknown key: at the key"),
        pytest.param(replaced("validity: 47d", "validity: 47x"), "47x", id="a wrong value: at the value"),
        pytest.param(
            replaced("[http-01, dns-01, tls-alpn-01]", "[http-01, dns-persist-01]"),
            "dns-persist-01",
            id="an item of a list: at the item",
        ),
        pytest.param(replaced("issuer: devices", "issuer: nobody"), "nobody", id="a name of something else: at the name"),
        pytest.param(replaced("data_dir: .", "data_dir: .\nbase_url: x"), "base_url: x", id="a key given twice: at the second"),
        pytest.param(replaced("data_dir: .", "data_dir: ${NOWHERE}"), "${NOWHERE}", id="a variable: at its use"),
        pytest.param(replaced("data_dir: .", "data_dir: [."), "base_url", id="broken YAML: where it stops making sense"),
    ],
)
def test_the_line_and_column_are_those_of_the_mistake(made: Path, edit: Edit, part: str) -> None:
    text = edit(text_of(made))
    found = problems(made, text)
    if part != "base_url":
        assert found[0].startswith(f"{place(text, part)}: "), found
    assert all(line.split(":")[0].isdigit() and line.split(":")[1].isdigit() for line in found)


def test_all_mistakes_are_told_at_once(made: Path) -> None:
    text = text_of(made).replace("validity: 47d", "validity: 47x").replace("http01_port: 5002", "http01_port: x")
    assert len(problems(made, text)) == 3  # tls-server, tls-client and the port


def test_a_key_given_twice_is_refused_and_the_first_one_named(made: Path) -> None:
    text = text_of(made) + "\ndata_dir: /elsewhere\n"
    (found,) = problems(made, text)
    assert "the key 'data_dir' is here twice; the first one is in line" in found


def test_a_country_of_no_is_norway(made: Path) -> None:
    config = read(made, text_of(made).replace("validity: 47d", "validity: 47d\n    subject: {C: NO, O: Example}", 1))
    assert config.profiles.get("tls-server").subject == (("C", "NO"), ("O", "Example"))


def test_the_spellings_of_the_source_document_are_taken(made: Path) -> None:
    """Its templates.yaml and its webserver policy, word for word."""
    text = text_of(made) + (
        "\ntemplates:\n  webserver:\n    validity_days: 90\n    key_usage:\n      - digital_signature\n      - key_encipherment\n"
        "    extended_key_usage:\n      - serverAuth\n    must_staple: true\n    subject_pattern:\n"
        '      O: "Example Corp"\n      OU: "Web Services"\n      C: "US"\n'
        "  code_signing:\n    validity_days: 1095\n    key_usage:\n      - digital_signature\n"
        "    extended_key_usage:\n      - codeSigning\n"
    )
    text = text.replace(
        "\npolicies:",
        "\npolicies:\n  webserver_issuer:\n    roles:\n      - web_admin\n      - devops_engineer\n    allowed_profiles:\n"
        '      - tls_server\n    allowed_sans:\n      - "*.example.com"\n    max_validity: 90d\n'
        "  code_signing_issuer:\n    roles:\n      - release_manager\n    allowed_profiles:\n      - code_signing\n"
        "    max_validity: 365d\n    require_approval: true\n",
    )
    config = read(made, text)
    webserver = config.profiles.get("webserver")
    assert (webserver.issuer, webserver.validity, webserver.must_staple) == ("issuing", timedelta(days=90), True)
    assert webserver.subject == (("C", "US"), ("O", "Example Corp"), ("OU", "Web Services"))
    assert config.profiles.get("code_signing").extended_key_usage == ("1.3.6.1.5.5.7.3.3",)
    policy = next(policy for policy in config.policies if policy.name == "webserver_issuer")
    assert policy.allowed_profiles == {"tls-server"}
    assert policy.max_validity == timedelta(days=90)


def test_environment_variables_are_filled_in(made: Path) -> None:
    text = text_of(made).replace('"sqlite:certwright.db"', '"postgresql://${DB_USER}@db/certwright"')
    assert read(made, text, DB_USER="ca").database == "postgresql://ca@db/certwright"


def test_a_key_that_everybody_can_read_is_refused_with_the_command_that_mends_it(made: Path, tmp_path: Path) -> None:
    key = tmp_path / "open.key"
    key.write_bytes(b"")
    key.chmod(0o644)
    (found,) = problems(made, text_of(made).replace("ca/issuing.key", str(key)))
    assert f"chmod o= {key}" in found


def test_a_password_in_the_database_url_is_in_no_text_about_the_configuration(made: Path) -> None:
    config = read(made, text_of(made).replace('"sqlite:certwright.db"', '"postgresql://u:geheim@db/certwright"'))
    assert "geheim" not in repr(config)


YAMLISH = st.recursive(
    st.sampled_from(
        ["x", "1", "true", "~", "'a'", '"b"', "47d", "*a", "&a b", "!!int 3", "${X}", "- -", "2026-01-01", "[", "}"]
    ),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda parts: "[" + ", ".join(parts) + "]")
        | st.lists(
            st.tuples(st.sampled_from(["base_url", "issuers", "profiles", "listen", "a", "? x"]), inner), max_size=4
        ).map(lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}")
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=200), YAMLISH, st.lists(YAMLISH, max_size=4).map("\n".join)))
def test_any_text_is_a_configuration_or_a_list_of_problems(text: str) -> None:
    try:
        parse(Path("/nowhere/certwright.yaml"), text, {})
    except ConfigError as error:
        assert error.problems


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_configuration_is_still_one_or_a_list_of_problems(made: Path, data: st.DataObject) -> None:
    text = text_of(made)
    at = data.draw(st.integers(0, len(text)))
    until = data.draw(st.integers(at, min(len(text), at + 30)))
    put = data.draw(st.sampled_from(["", ":", "\n", "  ", "[", "}", "'", "null", "\t", "- ", "{}", "9" * 400, "1e999", "\x85"]))
    try:
        read(made, text[:at] + put + text[until:])
    except ConfigError as error:
        assert error.problems


def test_the_dns_methods_are_served_where_they_are_listed(made: Path) -> None:
    text = text_of(made).replace(
        "challenges: [http-01, dns-01, tls-alpn-01]", "challenges: [http-01, dns-01, dns-account-01, dns-persist-01]"
    )
    config = read(made, text.replace("http01_port: 5002", "http01_port: 5002\n  caa_identities: [ca.test]"))
    (settings,) = config.acme.values()
    assert settings.challenges == ("http-01", "dns-01", "dns-account-01", "dns-persist-01")
    assert settings.caa_identities == ("ca.test",)


def test_dnssec_can_be_required_of_a_resolver_that_was_named(made: Path) -> None:
    assert not read(made, text_of(made)).validation.require_dnssec
    text = text_of(made).replace("resolver: system", 'resolver: ["127.0.0.1:53"]\n  dnssec: require')
    assert read(made, text).validation.require_dnssec
