"""Every entry point by every check, against a real server.

The worst defects of this field are one idea: a second way in that skips a check which the first one makes. So the ways in and
the checks are two closed lists, and each pair of them is a cell: refused, or granted harmlessly, or impossible for a reason.
A new way in (a new EST operation, a new SCEP message type, a new resource) makes `test_every_way_in_is_in_the_matrix` fail.

After each refusal: no certificate, no intent to make one, no traceback, and an error in the protocol's own form that says why.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from acmeserver.http import RESOURCES
from certwright.config import load
from est.http import METHODS as EST_OPERATIONS
from issuance.credentials import CredentialKind, Credentials
from pki.clock import SystemClock, after
from pki.strict import base64url
from scep.message import MessageType
from scep.wire import Operation
from storage.open import open_database
from tests.helpers import scep
from tests.helpers.acme_client import AccountKey, make_jws, to_json
from tests.helpers.front_doors import (
    Account,
    Books,
    Door,
    Doors,
    Neighbourhood,
    Reply,
    Secrets,
    Wanted,
    Watch,
    basic,
    close_primes_key,
    ec_key,
    email_name,
    extension,
    ip_name,
    pem_csr,
    refusal,
    roca_key,
    rsa_key,
    upn_name,
    uri_name,
)
from tests.helpers.server import Server

# Somebody whose credentials are right, but whom the policies do not grant what he asks for: at every door the same people.
ORPHAN, MISFIT, BRIEF, GUARDED = "orphan", "misfit", "brief", "guarded"
PEOPLE = {  # name -> (role, profile for ACME and REST, profile for EST and SCEP)
    ORPHAN: ("nobody", "tls-server", "device"),
    MISFIT: ("operator", "short-lived", "short-lived"),
    BRIEF: ("brief", "tls-server", "device"),
    GUARDED: ("guarded", "tls-server", "device"),
}
POLICIES = """
policies:
  acme: {roles: [acme], allowed_profiles: [tls-server], allowed_sans: ["*.example.test"]}
  operators:
    roles: [operator]
    allowed_profiles: [tls-server, tls-client]
    allowed_sans: ["*.example.test"]
    allowed_common_names: ["router-*"]
  devices: {roles: [device], allowed_profiles: [device], allowed_sans: ["*.example.test"], allowed_common_names: ["router-*"]}
  brief: {roles: [brief], allowed_profiles: [tls-server, device], allowed_sans: ["*.example.test"], max_validity: 1d}
  guarded: {roles: [guarded], allowed_profiles: [tls-server, device], allowed_sans: ["*.example.test"], require_approval: true}

endpoints:
  acme:
    default: {profiles: [tls-server, short-lived], challenges: [http-01]}
    branch: {profiles: [tls-server], challenges: [http-01]}
    ORPHAN: {profiles: [tls-server], roles: [nobody]}
    MISFIT: {profiles: [short-lived], roles: [operator]}
    BRIEF: {profiles: [tls-server], roles: [brief]}
    GUARDED: {profiles: [tls-server], roles: [guarded]}
  est:
    default: {profile: device, authenticate: [basic]}
    branch: {profile: device, authenticate: [basic]}
  scep:
    default: {profile: device, registration_authority: scep}
    branch: {profile: device, registration_authority: scep}
    ORPHAN: {profile: device, registration_authority: scep}
    MISFIT: {profile: device, registration_authority: scep}
    BRIEF: {profile: device, registration_authority: scep}
    GUARDED: {profile: device, registration_authority: scep}

"""


def narrow(text: str) -> str:
    """The configuration that `init` wrote, with policies that grant little, and no legacy algorithm anywhere."""
    ours = POLICIES
    for name in PEOPLE:
        ours = ours.replace(name.upper(), name)
    return re.sub(r"(?ms)^policies:.*?(?=^validation:)", lambda _: ours.lstrip(), text)


@dataclass(slots=True)
class Site:
    """The server, a client at every door, and people with other credentials."""

    doors: Doors
    watch: Watch
    people: Mapping[str, Secrets]
    branch: Secrets  # right, at other endpoints
    ended: Secrets  # was right once
    expired_key: str
    accounts: dict[str, Account] = field(default_factory=dict)

    @property
    def own(self) -> Secrets:
        return self.doors.secrets

    @property
    def account(self) -> Account:
        return self.own.account


async def provision(server: Server) -> dict[str, str]:
    """Credentials as the command line makes them: name -> secret."""
    database = await open_database(load(server.config_file).database, migrate=False)
    try:
        these, clock = Credentials(database=database, clock=SystemClock()), SystemClock()
        past = after(clock.micros(), dt.timedelta(hours=-1))
        made: dict[str, str] = {
            "expired": await these.create_api_key(roles=["operator"], profile="tls-server", expires_at=past)
        }
        for name, (role, for_servers, for_devices) in PEOPLE.items():
            made[name] = await these.create_api_key(roles=[role], profile=for_servers, expires_at=None)
            await these.set_est_user(endpoint="default", user=name, password=f"{name}-est", roles=[role], profile=for_devices)
            await these.set_scep_challenge(endpoint=name, challenge=f"{name}-scep", roles=[role], profile=for_devices)
        await these.set_est_user(endpoint="branch", user="b", password="branch-est", roles=["device"], profile="device")
        await these.set_scep_challenge(endpoint="branch", challenge="branch-scep", roles=["device"], profile="device")
        made["disabled"] = await these.create_api_key(roles=["operator"], profile="tls-server", expires_at=None)
        await these.disable(CredentialKind.API_KEY, made["disabled"].split("_")[1])
        for password in ("old-est", "new-est"):
            await these.set_est_user(endpoint="default", user="moved", password=password, roles=["device"], profile="device")
        for challenge in ("old-scep", "new-scep"):
            await these.set_scep_challenge(endpoint="moved", challenge=challenge, roles=["device"], profile="device")
        return made
    finally:
        await database.close()


def with_moved(text: str) -> str:
    """One more SCEP endpoint: its challenge is set twice."""
    return narrow(text).replace(
        "  scep:\n    default:", "  scep:\n    moved: {profile: device, registration_authority: scep}\n    default:"
    )


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Neighbourhood() as around:
        server = Server(
            resolver=around.dns.address, http01_port=around.http.port, allow_networks=["127.0.0.0/8"], edit=with_moved
        )
        with server:
            made = asyncio.run(provision(server))
            doors = Doors(server, around)
            doors.secrets.account.register()
            own = doors.secrets
            people = {
                name: replace(
                    own,
                    api_key=made[name],
                    est=(name, f"{name}-est"),
                    challenge=f"{name}-scep",
                    scep_endpoint=name,
                    account=doors.account(name).register(),
                )
                for name in PEOPLE
            }
            branch = replace(own, est=("b", "branch-est"), challenge="branch-scep", account=doors.account("branch").register())
            ended = replace(
                own, api_key=made["disabled"], est=("moved", "old-est"), challenge="old-scep", scep_endpoint="moved"
            )
            yield Site(doors, Watch(Books(server)), people, branch, ended, made["expired"])
            doors.close()


# ---------------------------------------------------------------------- what a cell can be

Attempt: TypeAlias = Callable[[Site, Door], Reply]
Judge: TypeAlias = Callable[[x509.Certificate], None]


@dataclass(frozen=True, slots=True)
class Refused:
    attempt: Attempt
    because: str  # a pattern that the error's text matches


@dataclass(frozen=True, slots=True)
class Granted:
    wanted: Wanted
    judge: Judge


@dataclass(frozen=True, slots=True)
class Impossible:
    because: str


Cell = Refused | Granted | Impossible
Row = Mapping[Door, Cell]

EST, REST_JSON, REST_PEM, ACME = Door.EST, Door.REST_JSON, Door.REST_PEM, Door.ACME
SCEP = (Door.SCEP_POST, Door.SCEP_GET)
REST = (Door.REST_JSON, Door.REST_PEM)
ACME_ONLY = "only ACME has accounts, orders and authorizations"
IN_ORDER = "a name in an ACME request stands in the order as text, where this cannot be written or means something else"


def everywhere(attempt: Attempt, because: str, **other: Cell) -> Row:
    """The same at every door, but for `acme`, `est`, `scep` (both ways) and `rest` (both), `rest_json`, `rest_pem`."""
    return {door: _other(door, other) or Refused(attempt, because) for door in Door}


def _other(door: Door, given: Mapping[str, Cell]) -> Cell | None:
    keys = {
        Door.ACME: ("acme",),
        Door.EST: ("est",),
        Door.SCEP_POST: ("scep",),
        Door.SCEP_GET: ("scep_get", "scep"),
        Door.REST_JSON: ("rest_json", "rest"),
        Door.REST_PEM: ("rest_pem", "rest"),
    }
    return next((given[key] for key in keys[door] if key in given), None)


def asking(wanted: Wanted, because: str, **other: Cell) -> Row:
    return everywhere(lambda site, door: site.doors.ask(door, wanted), because, **other)


def acme_only(attempt: Callable[[Site], Reply], because: str) -> Row:
    cell = Refused(lambda site, _: attempt(site), because)
    return {door: cell if door is Door.ACME else Impossible(ACME_ONLY) for door in Door}


def ordering(*names: str, because: str, **members: object) -> Refused:
    """An ACME order that is refused as it is made."""

    def attempt(site: Site, _: Door) -> Reply:
        reply = site.account.order(*names, **members)
        assert reply.status >= 400, reply.body
        return reply

    return Refused(attempt, because)


# ---------------------------------------------------------------------- who asks


def unsigned(site: Site, headers: Mapping[str, str]) -> Reply:
    """A finalize whose JWS nobody signed, or no JWS at all: what HTTP headers say counts for nothing in ACME."""
    order = site.account.ready("host.example.test")
    payload = {"csr": base64url(Wanted().csr())}
    url = order.json["finalize"]
    bare = site.account.send(url, to_json(payload), headers)
    assert bare.status == 400
    jws = make_jws(site.account.key, site.account.header(url), to_json(payload))
    return site.account.send(url, to_json({**jws, "signature": ""}), headers)


def anonymous(site: Site, door: Door) -> Reply:
    if door is Door.ACME:
        return unsigned(site, {})
    return site.doors.ask(door, Wanted(), replace(site.own, api_key=None, est=None, challenge=None))


def stranger(site: Site, door: Door) -> Reply:
    """Credentials of the right form that nobody has."""
    if door is Door.ACME:
        order = site.account.ready("host.example.test")
        return site.account.post(order.json["finalize"], {"csr": base64url(Wanted().csr())}, by=AccountKey())
    key = f"cw_{os.urandom(8).hex()}_{'A' * 43}"
    return site.doors.ask(door, Wanted(), replace(site.own, api_key=key, est=("device", "wrong"), challenge="wrong"))


def wrong_secret_of_a_known_id(site: Site, door: Door) -> Reply:
    own = site.own
    assert own.api_key is not None
    assert own.est is not None
    assert own.challenge is not None
    key = own.api_key[:-1] + ("A" if own.api_key[-1] != "A" else "B")
    return site.doors.ask(
        door, Wanted(), replace(own, api_key=key, est=(own.est[0], own.est[1] + "x"), challenge=own.challenge[:-1])
    )


def with_secret(of: Callable[[Secrets], str | None]) -> Attempt:
    """One protocol's right secret at another's door."""

    def attempt(site: Site, door: Door) -> Reply:
        secret = of(site.own)
        assert secret is not None
        if door is Door.ACME:
            return unsigned(site, {"X-API-Key": secret, "Authorization": f"Bearer {secret}"})
        assert site.own.est is not None
        return site.doors.ask(
            door, Wanted(), replace(site.own, api_key=secret, est=(site.own.est[0], secret), challenge=secret)
        )

    return attempt


def basic_at_rest(site: Site, _: Door) -> Reply:
    assert site.own.est is not None
    return site.doors.rest(pem_csr(Wanted().csr()).encode(), None, content_type="text/plain", **basic(*site.own.est))


def bearer_at_est(site: Site, _: Door) -> Reply:
    return site.doors.simple_enroll(Wanted().csr(), None, Authorization=f"Bearer {site.own.api_key}")


def key_at_est(site: Site, _: Door) -> Reply:
    headers = {"X-API-Key": site.own.api_key or ""}
    return site.doors.simple_enroll(Wanted().csr(), None, **headers)


def as_person(name: str) -> Attempt:
    return lambda site, door: site.doors.ask(door, Wanted(), site.people[name])


def deactivated(site: Site) -> Reply:
    account = site.doors.account().register()
    order = account.ready("host.example.test")
    assert account.post(account.kid, {"status": "deactivated"}).status == 200
    return account.finalize(order, Wanted().csr())


def at_another_endpoint(site: Site, door: Door) -> Reply:
    if door is not Door.ACME:
        return site.doors.ask(door, Wanted(), site.branch)
    order = site.account.ready("host.example.test")
    return site.account.post(order.json["finalize"], {"csr": base64url(Wanted().csr())}, kid=site.branch.account.kid)


def without_tls(site: Site, door: Door) -> Reply:
    doors, csr = site.doors, Wanted().csr()
    assert site.own.est is not None
    assert site.own.api_key is not None
    match door:
        case Door.EST:
            headers = {"Content-Type": "application/pkcs10", **basic(*site.own.est)}
            return doors.http.send("POST", "/.well-known/est/simpleenroll", base64.b64encode(csr), headers)
        case _:
            return doors.http.send("POST", "/api/v1/certificates", pem_csr(csr).encode(), {"X-API-Key": site.own.api_key})


IDENTITY: dict[str, Row] = {
    "no credentials": everywhere(
        anonymous,
        "unauthenticated|challenge password is missing|challengePassword|challenge",
        acme=Refused(anonymous, "signature|JWS"),
    ),
    "unknown credentials": everywhere(stranger, "unauthenticated|not valid", acme=Refused(stranger, "signature")),
    "a known id with a wrong secret": everywhere(
        wrong_secret_of_a_known_id, "unauthenticated|not valid", acme=Impossible("an account's secret is its key: see above")
    ),
    "an API key as secret": everywhere(
        with_secret(lambda own: own.api_key), "unauthenticated|not valid|signature", rest=Impossible("that is what it is for")
    ),
    "an EST password as secret": everywhere(
        with_secret(lambda own: own.est[1] if own.est else None),
        "unauthenticated|not valid|signature",
        est=Impossible("that is what it is for"),
    ),
    "a SCEP challenge as secret": everywhere(
        with_secret(lambda own: own.challenge), "unauthenticated|not valid|signature", scep=Impossible("that is what it is for")
    ),
    "an EST user by HTTP Basic where an API key belongs": everywhere(
        basic_at_rest,
        "unauthenticated",
        acme=Impossible("tried with every secret above"),
        est=Impossible("that is what it is for"),
        scep=Impossible("SCEP looks at no header"),
    ),
    "an API key as bearer token where a password belongs": everywhere(
        bearer_at_est,
        "unauthenticated",
        acme=Impossible("tried with every secret above"),
        scep=Impossible("SCEP looks at no header"),
        rest=Impossible("that is what it is for"),
    ),
    "an API key in its own header where a password belongs": everywhere(
        key_at_est,
        "unauthenticated",
        acme=Impossible("tried with every secret above"),
        scep=Impossible("SCEP looks at no header"),
        rest=Impossible("that is what it is for"),
    ),
    "credentials of another endpoint": everywhere(
        at_another_endpoint,
        "unauthenticated|not valid",
        acme=Refused(at_another_endpoint, "accountDoesNotExist"),
        rest=Impossible("REST has one endpoint"),
    ),
    "credentials that were ended": everywhere(
        lambda site, door: site.doors.ask(door, Wanted(), site.ended),
        "unauthenticated|not valid",
        acme=Refused(lambda site, _: deactivated(site), "unauthorized: the account is deactivated"),
    ),
    "credentials past their time": everywhere(
        lambda site, door: site.doors.ask(door, Wanted(), replace(site.own, api_key=site.expired_key)),
        "unauthenticated",
        acme=Impossible("accounts do not expire; orders and authorizations do, which takes a moved clock: test_acme_wire.py"),
        est=Impossible("no command gives an EST user an end"),
        scep=Impossible("no command gives a challenge an end"),
    ),
    "a role that no policy names": everywhere(as_person(ORPHAN), "no policy grants anything"),
    "a profile that the role is not granted": everywhere(as_person(MISFIT), "no policy grants profile short-lived"),
    "a validity that the role is not granted": everywhere(as_person(BRIEF), "may be valid for at most 1 days"),
    "a policy that asks for an approval": everywhere(as_person(GUARDED), "approv"),
    "the right credentials without TLS": everywhere(
        without_tls,
        "https only",
        acme=Impossible("the listener has no ACME: test_bad_input.py"),
        scep=Impossible("SCEP's messages protect themselves; it is made for plain HTTP"),
        rest=Impossible("the listener has no REST: test_bad_input.py"),
    ),
}

# ---------------------------------------------------------------------- with which key


def compromised(site: Site, door: Door) -> Reply:
    """A certificate was made for the key and revoked as compromised."""
    wanted = Wanted(key=partial(rsa_key, "compromised"))
    if "blocked" not in site.accounts:
        site.accounts["blocked"] = site.account
        issued = site.doors.ask(Door.REST_PEM, wanted)
        path = f"/api/v1/certificates/{issued.json['serial']}/revoke"
        body = to_json({"reason": "keyCompromise"})
        headers = {"X-API-Key": site.own.api_key or "", "Content-Type": "application/json"}
        assert site.doors.https.send("POST", path, body, headers).status == 200
        site.watch.begin()
    return site.doors.ask(door, replace(wanted, names=("other.example.test",)))


def foreign_request(site: Site, door: Door) -> Reply:
    """SCEP: a message signed by one key with a request of another inside (what an eavesdropper could send)."""
    message = site.doors.pkcs_req(Wanted(), challenge=site.own.challenge)
    message.key, message.signer = rsa_key("eavesdropper"), None
    return site.doors.pki_operation(message.encode(), get=door is Door.SCEP_GET)


def broken_message(site: Site, door: Door) -> Reply:
    message = site.doors.pkcs_req(Wanted(), challenge=site.own.challenge, signature=bytes(256))
    return site.doors.pki_operation(message.encode(), get=door is Door.SCEP_GET)


def broken_jws(site: Site, _: Door) -> Reply:
    order = site.account.ready("host.example.test")
    url = order.json["finalize"]
    jws = make_jws(site.account.key, site.account.header(url), to_json({"csr": base64url(Wanted().csr())}))
    return site.account.send(
        url,
        to_json({**jws, "payload": base64url(to_json({"csr": base64url(Wanted(key=partial(rsa_key, "eavesdropper")).csr())}))}),
    )


NO_MESSAGE = Impossible("there is no signed message around the request")
WEAK_MESSAGE = "RSA key|too short|key"

KEYS: dict[str, Row] = {
    "a signature with a wrong bit": asking(Wanted(broken=True), "signature is not by the key"),
    "a signature by another key": asking(Wanted(signed_by=partial(rsa_key, "eavesdropper")), "signature is not by the key"),
    "a message whose own signature is wrong": everywhere(
        broken_message, "signature", acme=Refused(broken_jws, "signature"), est=NO_MESSAGE, rest=NO_MESSAGE
    ),
    "another's request in one's own message": everywhere(
        foreign_request,
        "decrypt|read|signer",
        acme=Impossible("an account may well ask for another key than its own: it has to"),
        est=NO_MESSAGE,
        rest=NO_MESSAGE,
    ),
    "SHA-1": asking(Wanted(digest="sha1"), "SHA1, which is not accepted"),
    "MD5": asking(Wanted(digest="md5"), "MD5, which is not accepted"),
    "RSA with 1024 bits": asking(Wanted(key=partial(rsa_key, "short", 1024)), "1024 bits"),
    "RSA with the exponent 3": asking(Wanted(key=partial(rsa_key, "three", 2048, 3)), "exponent"),
    "a curve that is not NIST's": asking(Wanted(key=partial(ec_key, "koblitz", ec.SECP256K1())), "secp256k1|curve|use RSA"),
    "close primes": asking(Wanted(key=close_primes_key), "close together"),
    "a ROCA key": asking(Wanted(key=roca_key), "ROCA"),
    "a key that was revoked as compromised": everywhere(compromised, "known to be compromised"),
}

# ---------------------------------------------------------------------- for which names


def naming(*names: str, because: str, acme: Cell | None = None) -> Row:
    """Names that policy does not grant, each as a dNSName beside one that it does. In ACME the order is refused already."""
    mixed = ("host.example.test", *names)
    return asking(Wanted(names=mixed), because, acme=acme or ordering(*mixed, because=because))


def not_granted(name: str) -> Row:
    return naming(name, because=f"does not grant {re.escape(name.lower())}")


def with_cn(text: str) -> Row:
    """Beside a SAN that is granted."""
    return asking(
        Wanted(common_name=text),
        f"does not grant {re.escape(text)}|{re.escape(ascii(text))}|no device name",
        acme=Refused(lambda site, door: site.doors.ask(door, Wanted(common_name=text)), "not one of the order's names|besides"),
    )


def address(site: Site, door: Door) -> Reply:
    if door is Door.ACME:
        return site.account.order("host.example.test", "127.0.0.1")
    return site.doors.ask(door, Wanted(more=(ip_name("127.0.0.1"),)))


NAMES: dict[str, Row] = {
    "another domain": not_granted("evil.test"),
    "another domain in capitals": not_granted("WWW.EVIL.TEST"),
    "the suffix without its dot": not_granted("evil-example.test"),
    "the suffix as a label's end": not_granted("evilexample.test"),
    "the suffix in the middle": not_granted("host.example.test.evil.test"),
    "the bare domain below the star": not_granted("example.test"),
    "a deeper label": not_granted("a.b.example.test"),
    "the top alone": not_granted("test"),
    "a homograph": not_granted("host.xn--exmple-cua.test"),
    "another domain's wildcard": naming(
        "*.evil.test",
        because=r"does not grant \*\.evil\.test",
        acme=ordering("*.evil.test", because="wildcard needs the challenge dns-01"),
    ),
    "a deeper wildcard": naming(
        "*.b.example.test",
        because=r"does not grant \*\.b\.example\.test",
        acme=ordering("*.b.example.test", because="wildcard needs the challenge dns-01"),
    ),
    "two stars": naming("*.*.example.test", because="wildcard is one"),
    "a star inside": naming("ho*st.example.test", because="letters, digits"),
    "a star alone": naming("*", because="wildcard is one"),
    "a trailing dot": naming("host.example.test.", because="dot at its end"),
    "an empty label": naming("host..example.test", because="empty label"),
    "an empty name": naming("", because="empty"),
    "an underscore": naming("_acme-challenge.example.test", because="letters, digits"),
    "a NUL": naming("evil.test\0.example.test", because="letters, digits"),
    "a line feed": naming("host.example.test\nevil.test", because="letters, digits|looks like"),
    "a space": naming("host.example.test evil.test", because="letters, digits"),
    "a name with other letters than ASCII": naming(
        "h\xf6st.example.test", because="not ASCII", acme=Impossible("U-labels are written so in JSON, and mean their A-label")
    ),
    "an address as a name": naming(
        "127.0.0.1", because="looks like an IP address", acme=Impossible("the client's type is ip then")
    ),
    "an address in hex as a name": naming("0x7f.1", because="looks like an IP address"),
    "an address": everywhere(address, "does not grant 127.0.0.1"),
    "an e-mail address": asking(Wanted(more=(email_name("root@example.test"),)), "rfc822Name"),
    "a URI": asking(Wanted(more=(uri_name("spiffe://example.test/root"),)), "uniformResourceIdentifier"),
    "a Windows user": asking(Wanted(more=(upn_name("administrator@example.test"),)), "otherName"),
    "a directory name": asking(Wanted(more=(scep.explicit(scep.seq(), 4),)), "directoryName"),
    "no name at all": asking(
        Wanted(names=()),
        "asks for no name",
        acme=Refused(lambda site, _: finalize_with(site, Wanted(names=())), "it lacks: host.example.test"),
    ),
    "another domain as common name": with_cn("evil.test"),
    "a word as common name": with_cn("administrator"),
    "an LDAP filter as common name": everywhere(
        lambda site, door: site.doors.ask(door, Wanted(common_name="*)(uid=*")),
        "does not grant|no device name",
        acme=Refused(lambda site, door: site.doors.ask(door, Wanted(common_name="*)(uid=*")), "not one of the order's names"),
        rest=Granted(Wanted(common_name="*)(uid=*"), lambda leaf: common_name_is(leaf, "host.example.test")),
    ),
    "101 names": asking(
        Wanted(names=tuple(f"h{number}.example.test" for number in range(101))),
        "101 names are too many",
        acme=ordering(*(f"h{number}.example.test" for number in range(101)), because="100"),
    ),
}


def common_name_is(leaf: x509.Certificate, text: str) -> None:
    assert leaf.subject.rfc4514_string() == f"CN={text}"


# ---------------------------------------------------------------------- for what, and how long


def ahead(days: int) -> str:
    return (dt.datetime.now(dt.UTC) + dt.timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


ENDPOINTS_PROFILE = Impossible("the profile is the credential's or the endpoint's; a request cannot name one")
PROFILES_VALIDITY = Impossible("the validity is the profile's; a request cannot name one")


def with_members(**members: str) -> Attempt:
    return lambda site, door: site.doors.ask(door, Wanted(), None, **members)


def for_time(**days: int) -> Attempt:
    def attempt(site: Site, door: Door) -> Reply:
        rest = {"not_after": "notAfter", "not_before": "notBefore"}
        members = {rest[name] if door is Door.ACME else name: ahead(value) for name, value in days.items()}
        return site.doors.ask(door, Wanted(), None, **members)

    return attempt


TERMS: dict[str, Row] = {
    "a profile that is not granted": everywhere(
        with_members(profile="device"),
        "no policy grants profile device",
        acme=Refused(with_members(profile="short-lived"), "no policy grants profile short-lived"),
        est=ENDPOINTS_PROFILE,
        scep=ENDPOINTS_PROFILE,
    ),
    "a profile that the endpoint does not offer": everywhere(
        with_members(profile="device"),
        "invalidProfile",
        est=ENDPOINTS_PROFILE,
        scep=ENDPOINTS_PROFILE,
        rest=Impossible("REST has one endpoint, which offers them all"),
    ),
    "a profile that is not there": everywhere(
        with_members(profile="root-ca"), "root-ca", est=ENDPOINTS_PROFILE, scep=ENDPOINTS_PROFILE
    ),
    "an end beyond the profile's": everywhere(
        for_time(not_after=48),
        "allows at most 47 days",
        est=PROFILES_VALIDITY,
        scep=PROFILES_VALIDITY,
        rest_pem=PROFILES_VALIDITY,
    ),
    "a beginning in the past": everywhere(
        for_time(not_before=-2), "notBefore", est=PROFILES_VALIDITY, scep=PROFILES_VALIDITY, rest_pem=PROFILES_VALIDITY
    ),
    "an end before the beginning": everywhere(
        for_time(not_before=1, not_after=0),
        "validity",
        est=PROFILES_VALIDITY,
        scep=PROFILES_VALIDITY,
        rest_pem=PROFILES_VALIDITY,
    ),
}


# Whoever gets one of these from us becomes a CA, a CRL signer, an OCSP responder, or unrevokable.
PRIVILEGES = (
    extension("2.5.29.19", scep.seq(b"\x01\x01\xff"), critical=True),  # CA:TRUE
    extension("2.5.29.15", b"\x03\x02\x00\xff", critical=True),  # every key usage, keyCertSign and cRLSign among them
    extension(
        "2.5.29.37", scep.seq(*(scep.oid(f"{dotted}") for dotted in ("2.5.29.37.0", "1.3.6.1.5.5.7.3.9", "1.3.6.1.5.5.7.3.3")))
    ),
    extension("1.3.6.1.5.5.7.48.1.5", b"\x05\x00"),  # ocsp-nocheck
    extension("2.5.29.14", scep.octets(b"chosen by the client")),
    extension("2.5.29.31", scep.seq()),
    extension("2.5.29.30", scep.seq(), critical=True),
    extension("1.3.6.1.4.1.311.25.2", scep.seq(), critical=True),  # the security identifier of a Windows account
)
EXPECTED = {
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.AUTHORITY_INFORMATION_ACCESS,
    ExtensionOID.CRL_DISTRIBUTION_POINTS,
}


def plain_leaf(leaf: x509.Certificate) -> None:
    """Nothing of what the request asked for but its key and its granted name."""
    found = leaf.extensions
    assert {each.oid for each in found} <= EXPECTED
    assert not found.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = found.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    excess = (usage.key_cert_sign, usage.crl_sign, usage.content_commitment, usage.data_encipherment, usage.key_agreement)
    assert not any(excess)
    purposes = list(found.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert purposes in ([ExtendedKeyUsageOID.SERVER_AUTH], [ExtendedKeyUsageOID.CLIENT_AUTH])
    assert found.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest != b"chosen by the client"
    names = found.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("host.example.test")]
    assert leaf.subject.rfc4514_string() in {"", "CN=host.example.test"}
    assert leaf.public_key() == rsa_key("subscriber").public_key()


GRANTED: dict[str, Row] = {
    "what everybody may have": {door: Granted(Wanted(), plain_leaf) for door in Door},
    "the granted name in capitals": {door: Granted(Wanted(names=("HOST.Example.Test",)), plain_leaf) for door in Door},
    "CA:TRUE and every other privilege": {door: Granted(Wanted(extensions=PRIVILEGES), plain_leaf) for door in Door},
    "another organisation's subject": {
        door: Granted(
            Wanted(subject=(("2.5.4.6", "US"), ("2.5.4.10", "Evil, Inc."), ("2.5.4.11", "Domain Admins"))), plain_leaf
        )
        for door in Door
    },
}

# ---------------------------------------------------------------------- in which form


def garbage(site: Site, door: Door) -> Reply:
    return raw_body(site, door, b"\x30\x82\x01\x00 this is nothing at all \xff\xfe")


def nothing(site: Site, door: Door) -> Reply:
    return raw_body(site, door, b"")


def certificate_instead(site: Site, door: Door) -> Reply:
    """A certificate where a request belongs: DER that is well-formed."""
    return raw_body(site, door, scep.der_of(site.doors.ra))


def raw_body(site: Site, door: Door, body: bytes) -> Reply:
    """Of the right people, in the right place."""
    doors = site.doors
    match door:
        case Door.ACME:
            order = site.account.ready("host.example.test")
            return site.account.post(order.json["finalize"], {"csr": base64url(body)})
        case Door.EST:
            return doors.simple_enroll(body, site.own.est)
        case Door.SCEP_POST | Door.SCEP_GET:
            return doors.pki_operation(body, get=door is Door.SCEP_GET)
        case Door.REST_JSON:
            return doors.rest(to_json({"csr": base64.b64encode(body).decode()}), site.own.api_key)
        case Door.REST_PEM:
            return doors.rest(body, site.own.api_key, content_type="application/pkcs10")


def oversized(site: Site, door: Door) -> Reply:
    """One octet more than the door takes (EST in base64, as sent), by the right people."""
    limit = 256 * 1024
    match door:
        case Door.ACME:
            order = site.account.ready("host.example.test")
            url = order.json["finalize"]
            jws = to_json(make_jws(site.account.key, site.account.header(url), to_json({"csr": base64url(Wanted().csr())})))
            return site.account.send(url, jws + b" " * (50_001 - len(jws)))
        case Door.EST:
            return site.doors.simple_enroll(Wanted().csr() + bytes(limit), site.own.est)
        case Door.SCEP_POST | Door.SCEP_GET:
            message = site.doors.pkcs_req(Wanted(), challenge=site.own.challenge).encode()
            return site.doors.pki_operation(message + bytes(limit + 1 - len(message)))
        case Door.REST_JSON:
            body = to_json({"csr": pem_csr(Wanted().csr())})
            return site.doors.rest(body + b" " * (limit + 1 - len(body)), site.own.api_key)
        case Door.REST_PEM:
            body = pem_csr(Wanted().csr()).encode()
            return site.doors.rest(body + b"\n" * (limit + 1 - len(body)), site.own.api_key, content_type="text/plain")


def unserved(site: Site, door: Door) -> Reply:
    """The right people with a right request at an operation that is not served: the second way in."""
    doors = site.doors
    if door is Door.EST:
        replies = [
            doors.simple_enroll(Wanted().csr(), site.own.est, operation=operation)
            for operation in ("simplereenroll", "serverkeygen", "fullcmc", "csrattrs", "SimpleEnroll", "nothing")
        ]
        assert {reply.status for reply in replies} <= {404, 405, 501}
        return replies[-1]
    for kind in ("17", "18", "20", "21", "22", "3", "019", "19 ", "+19", "1\xb9", ""):
        message = doors.pkcs_req(Wanted(), challenge=site.own.challenge, message_type=kind)
        reply = doors.pki_operation(message.encode(), get=door is Door.SCEP_GET)
        refusal(door, reply)
    return reply


FORM: dict[str, Row] = {
    "octets that are nothing": everywhere(garbage, "."),
    "an empty body": everywhere(nothing, "."),
    "a certificate in the request's place": everywhere(certificate_instead, "."),
    "a body that is too large": everywhere(
        oversized, "(?i)at most|longer than", scep_get=Impossible("a request line has 64 KiB at most: test_bad_input.py")
    ),
    "an operation that is not served": everywhere(
        unserved,
        "not one of RFC 8894|no such EST",
        acme=Impossible("every resource is in RESOURCES: test_every_way_in_is_in_the_matrix"),
        rest=Impossible("every resource answers by its method: test_bad_input.py"),
    ),
}

# ---------------------------------------------------------------------- ACME's own


def finalize_with(site: Site, wanted: Wanted) -> Reply:
    return site.account.finalize(site.account.ready("host.example.test"), wanted.csr())


def names_differ(*names: str, more: tuple[bytes, ...] = ()) -> Row:
    return acme_only(lambda site: finalize_with(site, Wanted(names=names, more=more)), "badCSR")


def other_account(site: Site) -> Account:
    if "other" not in site.accounts:
        site.accounts["other"] = site.doors.account().register()
    return site.accounts["other"]


def not_ready(site: Site) -> Reply:
    return site.account.finalize(site.account.order("host.example.test"), Wanted().csr())


def twice(site: Site) -> Reply:
    order = site.account.ready("host.example.test")
    assert site.account.finalize(order, Wanted().csr()).status == 200
    site.watch.begin()
    return site.account.finalize(order, Wanted(key=partial(rsa_key, "eavesdropper")).csr())


def invalid(site: Site) -> Reply:
    """Its one authorization failed: nobody serves the challenge."""
    order = site.account.order("fails.example.test")
    authorization = site.account.post(order.json["authorizations"][0]).json
    site.doors.around.dns["fails.example.test"] = ["127.0.0.1"]
    site.account.post(authorization["challenges"][0]["url"], {})
    return site.account.finalize(order, Wanted(names=("fails.example.test",)).csr())


def by_another_account(site: Site) -> Reply:
    return other_account(site).finalize(site.account.ready("host.example.test"), Wanted().csr())


def anothers_authorization(site: Site) -> Reply:
    """Account B proves the name of account A's order, with its own key; then A's order is still not ready."""
    order = site.account.order("host.example.test")
    other = other_account(site)
    url = order.json["authorizations"][0]
    theirs = other.ready("host.example.test")  # B's own authorization for the same name counts for B alone
    assert theirs.status == 201
    for reply in (other.post(url), other.post(url, {"status": "deactivated"})):
        assert reply.status == 403
    challenge = site.account.post(url).json["challenges"][0]
    site.doors.around.http.serve(challenge["token"], f"{challenge['token']}.{other.thumbprint()}")
    assert other.post(challenge["url"], {}).status == 403
    return site.account.finalize(order, Wanted().csr())


def deactivated_authorization(site: Site) -> Reply:
    order = site.account.ready("host.example.test")
    assert site.account.post(order.json["authorizations"][0], {"status": "deactivated"}).json["status"] == "deactivated"
    return site.account.finalize(order, Wanted().csr())


def one_of_two_proved(site: Site) -> Reply:
    order = site.account.order("host.example.test", "second.example.test")
    first = replace(order, body=to_json({**order.json, "authorizations": order.json["authorizations"][:1]}))
    site.account.authorize(first)
    return site.account.finalize(order, Wanted(names=("host.example.test", "second.example.test")).csr())


def accounts_own_key(site: Site) -> Reply:
    key = site.account.key.key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return finalize_with(site, Wanted(key=lambda: key))


def with_a_bare_key(site: Site) -> Reply:
    order = site.account.ready("host.example.test")
    return site.account.post(order.json["finalize"], {"csr": base64url(Wanted().csr())}, jwk=True)


def for_another_url(site: Site) -> Reply:
    """A signature that was made for another order."""
    first, second = (site.account.ready("host.example.test") for _ in range(2))
    payload = to_json({"csr": base64url(Wanted().csr())})
    jws = make_jws(site.account.key, site.account.header(first.json["finalize"]), payload)
    return site.account.send(second.json["finalize"], to_json(jws))


def replayed(site: Site) -> Reply:
    order = site.account.order("host.example.test")
    body = to_json(
        make_jws(site.account.key, site.account.header(order.json["finalize"]), to_json({"csr": base64url(Wanted().csr())}))
    )
    assert site.account.send(order.json["finalize"], body).status == 403  # not ready yet
    site.account.authorize(order)
    return site.account.send(order.json["finalize"], body)


def through_another_endpoint(site: Site) -> Reply:
    order = site.account.ready("host.example.test")
    url = order.json["finalize"].replace("/acme/default/", "/acme/branch/")
    return site.account.post(url, {"csr": base64url(Wanted().csr())})


ORDERS: dict[str, Row] = {
    "an order that is not ready": acme_only(not_ready, "orderNotReady"),
    "an order with one name still to prove": acme_only(one_of_two_proved, "orderNotReady"),
    "an order that is valid already": acme_only(twice, "orderNotReady"),
    "an order that is invalid": acme_only(invalid, "orderNotReady"),
    "an order of another account": acme_only(by_another_account, "malformed|unauthorized"),
    "an authorization of another account": acme_only(anothers_authorization, "orderNotReady"),
    "an authorization that was deactivated": acme_only(deactivated_authorization, "orderNotReady"),
    "an order at another endpoint": acme_only(through_another_endpoint, "accountDoesNotExist|malformed"),
    "a bare key instead of an account": acme_only(with_a_bare_key, "malformed"),
    "a signature for another order": acme_only(for_another_url, "unauthorized"),
    "a request that was sent before": acme_only(replayed, "badNonce"),
    "the account's own key": acme_only(accounts_own_key, "badCSR: the CSR's key is the account's own"),
    "one name more than ordered": names_differ("host.example.test", "evil.test"),
    "another name than ordered": names_differ("evil.test"),
    "a deeper name than ordered": names_differ("www.host.example.test"),
    "a wildcard of the name ordered": names_differ("host.example.test", "*.host.example.test"),
    "the parent of the name ordered": names_differ("host.example.test", "example.test"),
    "an address besides the names ordered": names_differ("host.example.test", more=(ip_name("127.0.0.1"),)),
}

MATRIX: dict[str, Row] = {**IDENTITY, **KEYS, **NAMES, **TERMS, **GRANTED, **FORM, **ORDERS}
TRIED = [(check, door) for check, row in MATRIX.items() for door, cell in row.items() if not isinstance(cell, Impossible)]


@pytest.mark.parametrize(("check", "door"), [pytest.param(check, door, id=f"{door.value}: {check}") for check, door in TRIED])
def test_every_check_is_made_at_every_door(check: str, door: Door, site: Site, tmp_path: Path) -> None:
    cell = MATRIX[check][door]
    site.watch.begin()
    match cell:
        case Refused(attempt, because):
            text = refusal(door, attempt(site, door))
            assert re.search(because, text), text
            site.watch.nothing_happened()
        case Granted(wanted, judge):
            judge(site.doors.certificate(door, site.doors.ask(door, wanted), wanted, tmp_path))
            site.watch.no_bug()
        case Impossible():
            raise AssertionError(cell.because)


def test_the_matrix_is_total_and_every_gap_has_its_reason() -> None:
    parts = (IDENTITY, KEYS, NAMES, TERMS, GRANTED, FORM, ORDERS)
    assert len(MATRIX) == sum(map(len, parts)), "two checks of one name"
    for check, row in MATRIX.items():
        assert set(row) == set(Door), check
        assert any(not isinstance(cell, Impossible) for cell in row.values()), check
        assert all(cell.because for cell in row.values() if isinstance(cell, Impossible)), check
    for door in Door:
        assert isinstance(MATRIX["what everybody may have"][door], Granted), "without this one, every refusal proves nothing"


# Everything that a client can reach and that takes a request, and which door it is; "" makes no certificate.
ACME_RESOURCES = {
    "new-account": "",
    "new-order": "",
    "revoke-cert": "",
    "account": "",
    "order": "",
    "order/finalize": "ACME",
    "authz": "",
    "challenge": "",
    "cert": "",
}
EST_SERVED = {"cacerts": "", "simpleenroll": "EST"}
EST_REFUSED = {"simplereenroll", "serverkeygen", "fullcmc", "csrattrs"}  # in "an operation that is not served"
SCEP_OPERATIONS = {Operation.GET_CA_CAPS: "", Operation.GET_CA_CERT: "", Operation.PKI_OPERATION: "SCEP"}
SCEP_MESSAGES = {
    MessageType.PKCS_REQ: "SCEP",
    MessageType.RENEWAL_REQ: "",
    MessageType.CERT_POLL: "",
    MessageType.GET_CERT: "",
    MessageType.GET_CRL: "",
    MessageType.CERT_REP: "",
}
REST_RESOURCES = {
    "/api/v1": set(),
    "/api/v1/certificates": {"get", "post"},
    "/api/v1/certificates/{serial}": {"get"},
    "/api/v1/certificates/{serial}/revoke": {"post"},
}


def test_every_way_in_is_in_the_matrix(site: Site) -> None:
    """Whoever adds one comes here, and then says for each check above what it does at the new door."""
    assert {re.sub(r"\{[^/]*\}/?", "", each.path).rstrip("/") for each in RESOURCES} == set(ACME_RESOURCES)
    assert set(EST_OPERATIONS) == set(EST_SERVED) | EST_REFUSED
    assert set(Operation) == set(SCEP_OPERATIONS)
    assert set(MessageType) == set(SCEP_MESSAGES)
    described = site.doors.https.send("GET", "/api/openapi.json").json["paths"]
    assert {path: {*methods} & {"get", "post", "put", "patch", "delete"} for path, methods in described.items()} == {
        path: methods for path, methods in REST_RESOURCES.items() if methods
    }
