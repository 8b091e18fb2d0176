"""What the signer process is told: it comes back as it was written, and mistakes are named."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signer.api import KeyConfig, KeyUse, Pkcs11Key, SoftwareKey
from signer.configuration import ConfigurationError, ProcessConfig, dump, parse
from signer.keyring import open_keys
from signer.software import KeyKind
from tests.helpers.signing import authority, ra_key, software_keys, write_key

CONFIG = ProcessConfig(
    listen=Path("/run/certwright/signer.sock"),
    keys=(
        KeyConfig(
            name="issuing",
            use=KeyUse.ISSUER,
            source=Pkcs11Key(Path("/usr/lib/hsm.so"), "token", "label", Path("/etc/pin")),
            envelope=authority().envelope(),
        ),
        KeyConfig(name="ra", use=KeyUse.RA, source=SoftwareKey(Path("/etc/ra.key"), None), envelope=None),
        KeyConfig(name="ra2", use=KeyUse.RA, source=SoftwareKey(Path("/etc/ra2.key"), Path("/etc/phrase")), envelope=None),
    ),
    allowed_uids=frozenset({7, 8}),
    parent=4711,
)


def test_a_configuration_comes_back_as_it_was_written() -> None:
    assert parse(dump(CONFIG)) == CONFIG
    inherited = replace(CONFIG, listen=5, parent=None, allowed_uids=frozenset())
    assert parse(dump(inherited)) == inherited
    issuing, *others = CONFIG.keys
    assert issuing.envelope is not None
    speaking = replace(
        issuing, envelope=replace(issuing.envelope, messages=True, announcements=frozenset({b"content", b"another"}))
    )
    told = replace(CONFIG, keys=(speaking, *others))
    assert parse(dump(told)) == told


def test_an_issuer_key_speaks_only_where_it_is_said() -> None:
    root = orjson.loads(dump(CONFIG))
    for switch in ("messages", "announcements"):
        del root["keys"][0]["envelope"][switch]  # as a file of an earlier version has it
    assert parse(orjson.dumps(root)) == CONFIG


def changed(*path: Any, value: Any) -> bytes:
    root = orjson.loads(dump(CONFIG))
    target = root
    for step in path[:-1]:
        target = target[step]
    if value is None:
        target.pop(path[-1])
    else:
        target[path[-1]] = value
    return orjson.dumps(root)


WRONG = [
    (b"{", "no JSON"),
    (b"[]", "the configuration: must be an object"),
    (changed("keys", value=None), "keys is missing"),
    (changed("colour", value="red"), "colour is unknown"),
    (changed("listen", value=""), "listen"),
    (changed("listen", value=True), "listen"),
    (changed("keys", value=[]), "at least one"),
    (changed("keys", 1, "name", value="issuing"), "its own name"),
    (changed("keys", 0, "name", value=""), r"keys\[0\].name"),
    (changed("keys", 0, "use", value="root"), r"keys\[0\].use: must be one of issuer, ra"),
    (changed("keys", 0, "use", value="ra"), r"keys\[0\].envelope: an issuer key has one"),
    (changed("keys", 1, "use", value="issuer"), r"keys\[1\].envelope"),
    (changed("keys", 0, "source", value={"kms": {}}), r"keys\[0\].source"),
    (changed("keys", 0, "source", "pkcs11", "pin_file", value=None), "pin_file is missing"),
    (changed("keys", 1, "source", "software", "pin_file", value="x"), "pin_file is unknown"),
    (changed("keys", 0, "envelope", "max_validity", value=0), "max_validity"),
    (changed("keys", 0, "envelope", "max_validity", value="47d"), "max_validity"),
    (changed("keys", 0, "envelope", "issuer_certificate", value="-----BEGIN"), "base64"),
    (changed("keys", 0, "envelope", "extended_key_usages", value="serverAuth"), "must be a list"),
    (changed("keys", 0, "envelope", "messages", value=1), r"messages: must be true or false"),
    (changed("keys", 0, "envelope", "announcements", value=True), r"announcements: must be a list"),
    (changed("allowed_uids", value=["root"]), "allowed_uids"),
    (changed("parent", value=0), "parent"),
]


@pytest.mark.parametrize(("data", "complaint"), WRONG, ids=[row[1] for row in WRONG])
def test_a_mistake_is_named(data: bytes, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        parse(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(("software", "pkcs11", "file")), inner),
    max_leaves=6,
)


@given(
    where=st.sampled_from(["listen", "keys", "allowed_uids", "parent", "name", "use", "source", "envelope"]), value=json_values
)
def test_any_value_anywhere_is_a_configuration_or_a_typed_error(where: str, value: object) -> None:
    root = orjson.loads(dump(CONFIG))
    (root if where in root else root["keys"][0])[where] = value
    with suppress(ConfigurationError):
        parse(orjson.dumps(root))


# ---------------------------------------------------------------- keys that do not fit


def silent(event: str, **fields: object) -> None:
    """Nothing is logged where nothing is lost."""
    raise AssertionError(event)


async def test_a_key_that_is_not_the_certificates_is_refused(tmp_path: Path) -> None:
    issuing, ra = software_keys(tmp_path, authority())
    other = replace(issuing, source=write_key(tmp_path, "other", authority(common_name="Another CA").key))
    with pytest.raises(ConfigurationError, match="issuing: the key is not the one of its certificate"):
        await open_keys([other, ra], log=silent)


async def test_an_ra_key_that_is_not_rsa_is_refused(tmp_path: Path) -> None:
    ra = KeyConfig(name="ra", use=KeyUse.RA, source=write_key(tmp_path, "ra", authority().key), envelope=None)
    with pytest.raises(ConfigurationError, match="is no RSA key"):
        await open_keys([ra], log=silent)


async def test_an_issuer_certificate_that_is_none_is_refused_with_the_name_of_the_key(tmp_path: Path) -> None:
    issuing, _ = software_keys(tmp_path, authority())
    broken = replace(issuing, envelope=replace(authority().envelope(), issuer_certificate=b"no certificate"))
    with pytest.raises(ConfigurationError, match="issuing: the issuer certificate cannot be read"):
        await open_keys([broken], log=silent)


async def test_a_key_that_is_issuer_and_ra_at_once_is_refused(tmp_path: Path) -> None:
    # As an RA key it would sign anything: a TBSCertificate too.
    issuer = authority(KeyKind.RSA_2048)
    issuing, _ = software_keys(tmp_path, issuer)
    both = KeyConfig(name="ra", use=KeyUse.RA, source=write_key(tmp_path, "both", issuer.key), envelope=None)
    with pytest.raises(ConfigurationError, match="ra: is the key of issuing too"):
        await open_keys([issuing, both], log=silent)


async def test_a_module_that_is_none_is_refused(tmp_path: Path) -> None:
    pin = tmp_path / "pin"
    pin.touch(mode=0o600)
    library = tmp_path / "hsm.so"
    library.write_bytes(b"no library")
    key = KeyConfig(name="ra", use=KeyUse.RA, source=Pkcs11Key(library, "token", "ra", pin), envelope=None)
    with pytest.raises(ConfigurationError, match="no PKCS#11 module"):
        await open_keys([key], log=silent)


def test_the_ra_key_of_these_tests_is_rsa() -> None:
    assert ra_key().key_size == 2048
