"""Whose keys a SCEP endpoint speaks with, as certwright.yaml says it: what cannot work is refused at its line, what only some clients
stumble over is said by `certwright check`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from ruamel.yaml import YAML

from certwright.compose_scep import scep_endpoint
from certwright.config import Config, parse
from certwright.doctor_scep import scep_warnings
from certwright.yaml_positions import ConfigError
from pki.cms.signed import certificates_only
from tests.helpers.scep import rsa_key
from tests.helpers.scep_cas import BOTH, CA_USAGE, Holder, ScepCas

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def cas(made: Path, tmp_path_factory: pytest.TempPathFactory) -> ScepCas:
    """A copy of what init made, with CAs and authorities of every kind in it."""
    directory = tmp_path_factory.mktemp("scep") / "certwright"
    directory.mkdir()
    for folder in ("ca", "tls"):
        (directory / folder).mkdir()
        for file in (made / folder).iterdir():
            (directory / folder / file.name).write_bytes(file.read_bytes())
            (directory / folder / file.name).chmod(0o600)
    (directory / "secrets.key").write_bytes((made / "secrets.key").read_bytes())
    (directory / "secrets.key").chmod(0o600)
    found = ScepCas(directory)
    text = found.edit((made / "certwright.yaml").read_text())
    (directory / "certwright.yaml").write_text(text)
    return found


def changed(cas: ScepCas, change: Change | None = None) -> Config:
    file = cas.directory / "certwright.yaml"
    document = YAML(typ="safe").load(file.read_text())
    if change is not None:
        change(document)
    return parse(file, json.dumps(document, indent=1))


def endpoint(**settings: Any) -> Change:
    """A further endpoint with the profile of the device CA, unless it says another."""

    def change(document: dict[str, Any]) -> None:
        document["endpoints"]["scep"]["more"] = {"profile": "device", **settings}

    return change


def authority(cas: ScepCas, holder: Holder) -> Change:
    """Signs and decrypts for a further endpoint."""
    entry = cas.put("more", holder)

    def change(document: dict[str, Any]) -> None:
        document["registration_authorities"]["more"] = dict(entry)
        endpoint(registration_authority="more")(document)

    return change


def problems(cas: ScepCas, change: Change) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        changed(cas, change)
    return [problem.message for problem in raised.value.problems]


def test_all_of_them_are_valid_and_there_is_nothing_to_say(cas: ScepCas) -> None:
    config = changed(cas)
    assert list(scep_warnings(config)) == []
    split = scep_endpoint(config, config.scep["split"])
    assert (split.signing.key, split.decryption.key) == ("ra/signs", "ra/opens")
    curve = scep_endpoint(config, config.scep["curve"])
    assert curve.next_certificates == tuple(cas.made[one].der for one in ("next", "root", "next-ra"))


def test_a_cas_key_speaks_only_for_endpoints_that_say_so(cas: ScepCas) -> None:
    def permissions(config: Config) -> dict[str, tuple[bool, bool]]:
        return {key.name: (key.envelope.messages, bool(key.envelope.announcements)) for key in config.keys if key.envelope}

    assert permissions(changed(cas)) == {
        "issuing": (False, False),
        "devices": (False, False),
        "own": (True, True),
        "curve": (False, True),
        "edwards": (False, True),
    }

    def without(document: dict[str, Any]) -> None:
        for one in ("own", "own-chain"):
            del document["endpoints"]["scep"][one]

    assert permissions(changed(cas, without))["own"] == (False, False)


def test_a_cas_key_announces_what_its_endpoints_say_and_nothing_else(cas: ScepCas) -> None:
    config = changed(cas)
    following: dict[str, set[bytes]] = {}
    for settings in config.scep.values():
        endpoint = scep_endpoint(config, settings)
        if endpoint.next_certificates:
            following.setdefault(endpoint.issuer, set()).add(certificates_only(endpoint.next_certificates))
    allowed = {key.name: key.envelope.announcements for key in config.keys if key.envelope and key.envelope.announcements}
    assert allowed == following
    assert set(allowed) == {"own", "curve", "edwards"}


def test_a_profile_that_is_named_by_its_alias_is_the_same_profile(cas: ScepCas) -> None:
    def change(document: dict[str, Any]) -> None:
        del document["endpoints"]["scep"]["own-chain"]
        document["endpoints"]["scep"]["own"]["profile"] = "OWN"

    (own,) = (key.envelope for key in changed(cas, change).keys if key.name == "own")
    assert own is not None
    assert own.messages


WRONG: list[tuple[str, Change, str]] = [
    ("a CA without RSA", endpoint(profile="curve", use_ca_key=True), "issuer curve has no RSA key"),
    ("a CA that only issues", endpoint(use_ca_key=True), "needs the key usages digitalSignature and keyEncipherment"),
    ("a CA's key and SHA-1", endpoint(profile="own", use_ca_key=True, legacy=["sha1"]), "signs nothing with sha1"),
    ("a CA's key and MD5", endpoint(profile="own", use_ca_key=True, legacy=["md5", "sha1"]), "nothing with md5 or sha1"),
    ("a CA's key and an RA", endpoint(profile="own", use_ca_key=True, registration_authority="scep"), "leave one of the two"),
    ("a CA's key and a second RA", endpoint(profile="own", use_ca_key=True, encryption_authority="opens"), "leave one of the"),
    ("nobody", endpoint(), "say which registration_authority"),
    ("a signer who only opens", endpoint(registration_authority="opens"), "without digitalSignature"),
    ("an opener who only signs", endpoint(registration_authority="signs"), "without keyEncipherment"),
    ("both the wrong way round", endpoint(registration_authority="opens", encryption_authority="signs"), "without keyEnc"),
    ("an unknown second one", endpoint(registration_authority="signs", encryption_authority="open"), "did you mean 'opens'?"),
    ("a successor of the RA alone", endpoint(registration_authority="scep", next_registration_authority="next"), "no `next`"),
]


@pytest.mark.parametrize(("change", "said"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_keys_that_cannot_speak_are_refused_by_name(cas: ScepCas, change: Change, said: str) -> None:
    found = problems(cas, change)
    assert any(said in problem for problem in found), found


def test_a_registration_authority_is_rsa_and_no_ca(cas: ScepCas) -> None:
    devices = cas.made["devices"]
    curve = devices.issue("RA on a curve", ec.generate_private_key(ec.SECP256R1()), BOTH)
    assert any("has no RSA key" in problem for problem in problems(cas, authority(cas, curve)))
    ca = devices.issue("RA that is a CA", rsa_key("RA"), (*CA_USAGE, "key_encipherment"), ca=True)
    assert any("is a CA's" in problem for problem in problems(cas, authority(cas, ca)))


def test_a_ca_does_not_follow_itself(cas: ScepCas) -> None:
    def change(document: dict[str, Any]) -> None:
        document["issuers"]["own"]["next"] = ["ca/own.pem"]

    assert problems(cas, change) == ["this is the issuer's own certificate; name the one that follows it"]


def test_what_follows_is_a_ca_and_in_the_order_of_a_chain(cas: ScepCas) -> None:
    def change(document: dict[str, Any]) -> None:
        document["issuers"]["own"]["next"] = ["ca/next-ra.pem"]
        document["issuers"]["curve"]["next"] = ["ca/root.pem", "ca/next.pem"]

    found = problems(cas, change)
    assert any("may not issue" in problem for problem in found)
    assert any("list the next issuer first" in problem for problem in found)


# ---------------------------------------------------------------- what `certwright check` says


def test_a_registration_authority_of_a_ca_that_is_not_shown_is_worth_a_warning(cas: ScepCas) -> None:
    (said,) = scep_warnings(changed(cas, endpoint(registration_authority="edwards")))
    assert said.startswith(
        "SCEP endpoint more: GetCACert does not show who issued the certificate of registration authority edwards"
    )


def test_a_ca_beside_its_ra_that_looks_as_if_one_could_encrypt_to_it_is_worth_a_warning(cas: ScepCas) -> None:
    own = cas.made["own"]
    change = authority(cas, own.issue("RA of the own CA", rsa_key("RA"), BOTH))

    def both(document: dict[str, Any]) -> None:
        change(document)
        document["endpoints"]["scep"]["more"]["profile"] = "own"

    (said,) = scep_warnings(changed(cas, both))
    assert "issuer own has the key usage keyEncipherment" in said


def test_a_certificate_without_key_usage_is_for_everything(cas: ScepCas) -> None:
    plain = cas.made["devices"].issue("RA without key usage", rsa_key("RA"), ())
    assert list(scep_warnings(changed(cas, authority(cas, plain)))) == []
