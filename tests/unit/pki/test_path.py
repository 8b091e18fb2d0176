"""Paths of client certificates (RFC 5280 §6, IEEE 802.1AR §8): which are taken, and why the others are not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from pki import der
from pki.path import MAX_CERTIFICATE, MAX_CHAIN, Anchors, PathError, Purpose, load, names_agent
from tests.helpers.authorities import (
    CLIENT_AUTH,
    CMC_RA,
    FOR_EVER,
    SERVER_AUTH,
    START,
    Authority,
    Extension,
    constraints,
    ec_key,
    names,
    purposes,
    signed_with,
    usage,
)

NOW = START + timedelta(days=22)
DAY = timedelta(days=1)
ROOT = Authority("Maker Root")
CA = usage(key_cert_sign=True)
PRIVATE = x509.ObjectIdentifier("1.3.6.1.4.1.55555.1")


def below(*extensions: Extension, by: Authority = ROOT, **changes: object) -> Authority:
    return Authority("Maker Devices", by, extensions or (constraints(length=0), CA), **changes)  # type: ignore[arg-type]  # dates


def verified(chain: Sequence[bytes], *anchors: Authority, purpose: Purpose = Purpose.CLIENT) -> list[str]:
    path = Anchors([anchor.der for anchor in anchors or (ROOT,)], purpose).verify(chain, at=NOW)
    return [one.subject.rfc4514_string() for one in path.certificates]


def refused(chain: Sequence[bytes], *anchors: Authority, purpose: Purpose = Purpose.CLIENT) -> str:
    with pytest.raises(PathError) as refusal:
        verified(chain, *anchors, purpose=purpose)
    return str(refusal.value)


# ---------------------------------------------------------------------- what is taken


@pytest.mark.parametrize(
    "leaf",
    [
        pytest.param(ROOT.idevid(), id="an IDevID: no extended key usage, notAfter 99991231235959Z, hardwareModuleName"),
        pytest.param(ROOT.leaf(), id="no extension at all"),
        pytest.param(ROOT.leaf("", names("device.example")), id="no subject"),
        pytest.param(ROOT.leaf("d", purposes(CLIENT_AUTH, SERVER_AUTH)), id="clientAuth among others"),
        pytest.param(ROOT.leaf("d", purposes(CLIENT_AUTH, critical=True)), id="critical extended key usage"),
        pytest.param(ROOT.leaf("d", constraints(ca=False)), id="says that it is no CA"),
        pytest.param(
            ROOT.leaf("d", (x509.UnrecognizedExtension(PRIVATE, b"\5\0"), False)), id="an extension of somebody's own"
        ),
        pytest.param(ROOT.leaf(key=rsa.generate_private_key(65537, 2048)), id="RSA 2048"),
        pytest.param(ROOT.leaf(key=ec.generate_private_key(ec.SECP521R1())), id="P-521"),
        pytest.param(ROOT.leaf(key=ec.generate_private_key(ec.BrainpoolP256R1())), id="brainpool"),
        pytest.param(ROOT.leaf(key=ed25519.Ed25519PrivateKey.generate()), id="Ed25519"),
        pytest.param(ROOT.leaf(begin=NOW), id="from this second on"),
        pytest.param(ROOT.leaf(end=NOW), id="to the end of this second"),  # §4.1.2.5: "inclusive"
    ],
)
def test_a_leaf_that_is_taken(leaf: bytes) -> None:
    assert len(verified([leaf])) == 2


def test_the_presented_certificates_may_stand_in_any_order_and_be_too_many() -> None:
    # RFC 8446 §4.4.2: "implementations SHOULD be prepared to handle potentially extraneous certificates and arbitrary orderings"
    first = Authority("Maker 1", ROOT, (constraints(length=1), CA))
    second = Authority("Maker 2", first, (constraints(length=0), CA))
    stranger = Authority("Somebody Else")
    leaf = second.idevid()
    expected = ["CN=device-1", "CN=Maker 2", "CN=Maker 1", "CN=Maker Root"]
    assert verified([leaf, second.der, first.der]) == expected
    assert verified([leaf, ROOT.der, stranger.der, first.der, second.der]) == expected


def test_an_anchor_need_not_be_a_root() -> None:
    devices = below()
    assert verified([devices.idevid()], devices) == ["CN=device-1", "CN=Maker Devices"]


@pytest.mark.parametrize(
    "extensions",
    [
        pytest.param((constraints(),), id="without key usage (RFC 5280 §6.1.4 n: 'if a key usage extension is present')"),
        pytest.param((constraints(critical=False), CA), id="basic constraints not critical"),
        pytest.param((constraints(), CA, purposes(CLIENT_AUTH)), id="limited to clientAuth"),
        pytest.param((constraints(), CA, purposes("2.5.29.37.0")), id="for any purpose"),
        pytest.param(
            (constraints(), CA, (x509.NameConstraints([x509.DNSName("example")], None), True)), id="constrained to DNS names"
        ),
    ],
)
def test_a_ca_on_the_way_that_is_taken(extensions: Sequence[Extension]) -> None:
    devices = below(*extensions)
    assert verified([devices.leaf("d", names("device.example")), devices.der])[1] == "CN=Maker Devices"


def test_an_anchor_may_be_valid_for_ever_and_old() -> None:
    old = Authority(
        "Old Root", extensions=(constraints(critical=False),), end=FOR_EVER, key=rsa.generate_private_key(65537, 2048)
    )
    assert verified([old.idevid()], old)


# ---------------------------------------------------------------------- what is not, and what it is told


@pytest.mark.parametrize(
    ("leaf", "why"),
    [
        pytest.param(ROOT.leaf("d", purposes(SERVER_AUTH)), "no clientAuth", id="serverAuth only"),
        pytest.param(
            ROOT.leaf("d", purposes("2.5.29.37.0")), "no clientAuth", id="anyExtendedKeyUsage is none of those that we name"
        ),
        pytest.param(ROOT.leaf("d", usage(key_encipherment=True)), "digitalSignature", id="key usage without digitalSignature"),
        pytest.param(ROOT.leaf("d", constraints()), "it is a CA's", id="a CA certificate"),
        pytest.param(ROOT.leaf("d", usage(digital_signature=True, key_cert_sign=True)), "it is a CA's", id="keyCertSign"),
        pytest.param(ROOT.leaf(end=NOW - DAY), "it expired at 2026-11-22T00:00:00Z", id="expired"),
        pytest.param(ROOT.leaf(begin=NOW + DAY), "it is not valid before 2026-11-24T00:00:00Z", id="not yet valid"),
        pytest.param(
            ROOT.leaf("d", (x509.UnrecognizedExtension(PRIVATE, b"\5\0"), True)),
            "critical",
            id="a critical extension of somebody's own",
        ),
        pytest.param(ROOT.leaf(key=rsa.generate_private_key(65537, 1024)), "1024 bits", id="RSA 1024"),
        pytest.param(Authority("Somebody Else").leaf(), "certified it", id="another CA"),
        pytest.param(Authority("Maker Root").leaf(), "signature", id="a CA of the same name with another key"),
        pytest.param(ROOT.der, "it is a CA's", id="the anchor itself"),
        pytest.param(b"", "it cannot be read", id="nothing"),
        pytest.param(b"\x30\x03\x02\x01\x01", "it cannot be read", id="no certificate"),
        pytest.param(ROOT.leaf() + b"\0", "it cannot be read", id="octets behind its end"),
        pytest.param(b"\x30" + bytes(MAX_CERTIFICATE), "larger", id="huge"),
    ],
)
def test_a_leaf_that_is_refused(leaf: bytes, why: str) -> None:
    assert why in refused([leaf])


@pytest.mark.parametrize(
    ("devices", "why"),
    [
        (below(constraints(ca=False), CA), "cA"),
        (below(CA), "basicConstraints"),
        (below(constraints(), usage(digital_signature=True)), "keyCertSign"),
        (below(constraints(), CA, purposes(SERVER_AUTH)), "limited to other purposes"),
        (below(constraints(), CA, purposes(CMC_RA)), "limited to other purposes"),
        (below(constraints(), CA, (x509.UnrecognizedExtension(PRIVATE, b"\5\0"), True)), "critical"),
        (below(constraints(), CA, (x509.PolicyConstraints(0, None), True)), "critical"),
        (below(end=NOW - DAY), "not valid at"),
        (below(begin=NOW + DAY), "not valid at"),
        (below(constraints(), CA, (x509.NameConstraints([x509.DNSName("other")], None), True)), "constraint"),
        (below(constraints(), CA, (x509.NameConstraints(None, [x509.DNSName("device.example")]), False)), "constraint"),
        (below(constraints(), CA, (x509.NameConstraints(None, [x509.RFC822Name("example")]), True)), "not understood"),
        (below(constraints(), CA, (x509.NameConstraints(None, [x509.DirectoryName(x509.Name([]))]), False)), "not understood"),
    ],
    ids=[
        "no CA",
        "no basic constraints",
        "no keyCertSign",
        "for servers",
        "for agents",
        "unknown critical extension",
        "policies that would have to be processed",
        "expired",
        "not yet valid",
        "permits other names",
        "excludes the name",
        "constrains mailboxes",
        "constrains directories, not critically",
    ],
)
def test_a_ca_on_the_way_that_is_refused(devices: Authority, why: str) -> None:
    assert why in refused([devices.leaf("d", names("device.example")), devices.der])


def test_what_a_client_is_told_has_nothing_of_the_librarys_insides() -> None:
    """A CA on a curve that is not the WebPKI's: the library answers with the debugging form of its own structures."""
    odd = Authority("Devices", by=ROOT, key=ec.generate_private_key(ec.SECP256K1()))
    said = refused([odd.leaf(), odd.der])
    assert "public key algorithm" in said
    assert not set(said) & set("{}<>"), said


def test_an_anchor_that_has_expired_is_none() -> None:
    old = Authority("Old Root", end=NOW - DAY)
    assert "not valid at" in refused([old.idevid()], old)


def test_a_device_is_no_ca_whatever_it_certifies() -> None:
    device = ROOT.leaf("device-1", key=ec_key("bad"))
    bad = Authority("device-1", key=ec_key("bad"), extensions=())
    assert "basicConstraints" in refused([bad.idevid("victim"), device])


def test_path_lengths_are_kept() -> None:
    first = Authority("Maker 1", ROOT, (constraints(length=0), CA))
    second = Authority("Maker 2", first)
    assert "path length" in refused([second.idevid(), second.der, first.der])


@pytest.mark.parametrize("digest", ["md5", "sha1"])
def test_weak_signatures_are_refused_wherever_they_stand(digest: str) -> None:
    key = rsa.generate_private_key(65537, 2048)
    root = Authority("RSA Root", key=key)
    assert f"signed with {digest.upper()}" in refused([signed_with(digest, root.idevid(), key)], root)
    devices = Authority("RSA Devices", root)
    assert "signature algorithm" in refused([devices.idevid(), signed_with(digest, devices.der, key)], root).lower()


def test_an_agent_is_known_by_its_extended_key_usage() -> None:
    # RFC 6402 §2.10: id-kp-cmcRA
    for extension, agent in ((purposes(CMC_RA), True), (purposes(CLIENT_AUTH, CMC_RA), True), (purposes(CLIENT_AUTH), False)):
        leaf = ROOT.leaf("ra", extension)
        assert names_agent(load(leaf)) is agent
        if agent:
            assert verified([leaf], purpose=Purpose.AGENT)
        else:
            assert "id-kp-cmcRA" in refused([leaf], purpose=Purpose.AGENT)
    assert "id-kp-cmcRA" in refused([ROOT.idevid()], purpose=Purpose.AGENT)
    assert "no clientAuth" in refused([ROOT.leaf("ra", purposes(CMC_RA))])


def test_a_ca_for_agents_certifies_agents_only() -> None:
    agents = below(constraints(), CA, purposes(CMC_RA))
    leaf = agents.leaf("ra", purposes(CLIENT_AUTH, CMC_RA))
    assert verified([leaf, agents.der], purpose=Purpose.AGENT)
    assert "other purposes" in refused([leaf, agents.der])


# ---------------------------------------------------------------------- bounds


def test_a_long_chain_is_refused_unread() -> None:
    assert "10 others" in refused([ROOT.idevid(), *[b"?"] * MAX_CHAIN])
    assert "there is none" in refused([])


def test_cas_above_each_other_without_end_are_refused() -> None:
    authority = ROOT
    chain: list[bytes] = []
    for number in range(8):
        authority = Authority(f"Maker {number}", authority)
        chain.insert(0, authority.der)
    assert "depth" in refused([authority.idevid(), *chain])


def test_a_maze_of_cas_that_certify_each_other_costs_no_more_than_a_few_signatures() -> None:
    """Nine CAs of one name and one key lead to each other in 9 to the power of 9 ways."""
    maze = [Authority("Maze", key=ec_key("maze")) for _ in range(9)]
    assert "does not lead to" in refused([maze[0].idevid(), *(one.der for one in maze)])
    keys = [Authority("Maze") for _ in range(9)]
    assert "does not lead to" in refused([keys[0].idevid(), *(one.der for one in keys)])


# ---------------------------------------------------------------------- whatever the octets

_DEVICES = below()
_ANCHORS = Anchors([ROOT.der], Purpose.CLIENT)
_AGENTS = Anchors([ROOT.der], Purpose.AGENT)
_CHAIN = (_DEVICES.leaf("d", names("device.example"), usage(digital_signature=True), purposes(CLIENT_AUTH)), _DEVICES.der)


def _a_path_or_a_reason(chain: Sequence[bytes], anchors: Anchors = _ANCHORS) -> bool:
    try:
        path = anchors.verify(chain, at=NOW)
    except PathError as error:
        assert str(error).isprintable()
        return False
    assert path.leaf.public_bytes(Encoding.DER) == chain[0]
    return True


@given(st.integers(0, 1), st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_a_changed_certificate_is_refused_with_a_reason_and_nothing_else(which: int, at: int, octets: bytes) -> None:
    chain = [bytearray(one) for one in _CHAIN]
    at %= len(chain[which])
    chain[which][at : at + len(octets)] = octets
    changed = [bytes(one) for one in chain]
    # Whatever is changed in a certificate breaks its signature, or the certificate.
    assert _a_path_or_a_reason(changed) is (changed == list(_CHAIN))


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_octets_of_any_kind_are_refused_with_a_reason(chain: list[bytes]) -> None:
    assert not _a_path_or_a_reason(chain)


def test_changed_contents_under_a_right_signature_are_a_path_or_a_reason() -> None:
    """A leaf that its CA signed as it is: the signature is no defence here, and every reader behind it meets the octets."""
    seeded = random.Random(7)
    signer = ROOT.signs[1]
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    whole = ROOT.leaf("d", names("device.example"), usage(digital_signature=True), purposes(CLIENT_AUTH, CMC_RA))
    tbs, algorithm, _ = der.children(der.whole(whole, der.SEQUENCE).content)
    verdicts: list[bool] = []
    for _ in range(500):
        changed = bytearray(tbs.raw)
        for _ in range(seeded.randint(1, 3)):
            changed[seeded.randrange(4, len(changed))] = seeded.randrange(256)
        signature = signer.sign(bytes(changed), ec.ECDSA(hashes.SHA256()))
        leaf = der.encode(der.SEQUENCE, bytes(changed) + algorithm.raw + der.encode(der.BIT_STRING, b"\0" + signature))
        verdicts += [_a_path_or_a_reason([leaf], anchors) for anchors in (_ANCHORS, _AGENTS)]
    assert set(verdicts) == {True, False}
