"""A server whose policies grant little, and people whose credentials are right, wrong, ended or of no use there."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certwright.config import load
from issuance.credentials import CredentialKind, Credentials
from issuance.digests import Digests
from issuance.lockout import Lockouts
from issuance.scep_challenges import ScepChallenges, Terms
from issuance.sealed import SealedSecrets
from pki.clock import Micros, SystemClock, after, to_datetime
from pki.sealing import Sealer
from policy.principal import COMMAND_LINE
from storage.open import open_database
from tests.helpers.books import Books, Watch
from tests.helpers.clock import FakeClock
from tests.helpers.front_doors import Door, Doors, Secrets
from tests.helpers.neighbourhood import Account, Neighbourhood
from tests.helpers.server import Server, run
from tests.helpers.wanted import Wanted, pem_csr

# Somebody whose credentials are right, but whom the policies do not grant what he asks for: at every door the same people.
ORPHAN, MISFIT, BRIEF, GUARDED = "orphan", "misfit", "brief", "guarded"
BOUND = "bound"  # an ACME endpoint where accounts need an operator's key
OTHERWISE = {"digest": "by-digest", "bearer": "by-token"}  # the EST labels that take this and nothing else
PEOPLE = {  # name -> (role, profile for ACME and REST, profile for EST and SCEP)
    ORPHAN: ("nobody", "tls-server", "device"),
    MISFIT: ("operator", "short-lived", "short-lived"),
    BRIEF: ("brief", "tls-server", "device"),
    GUARDED: ("guarded", "tls-server", "device"),
}
FOR_SCEP = "profile: device, registration_authority: scep, challenge: [static, one-time]"
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
    default: {profiles: [tls-server, short-lived], challenges: [http-01], identifiers: [dns, ip]}
    branch: {profiles: [tls-server], challenges: [http-01]}
    bound: {profiles: [tls-server], external_account: required}
    ORPHAN: {profiles: [tls-server], roles: [nobody]}
    MISFIT: {profiles: [short-lived], roles: [operator]}
    BRIEF: {profiles: [tls-server], roles: [brief]}
    GUARDED: {profiles: [tls-server], roles: [guarded]}
  est:
    default:
      profile: device
      authenticate: [basic, certificate]
      server_keygen: true
      full_cmc: true
      registration_authority: est
      limits: {failures_per_user: 1000/1h, failures_per_address: 1000/1h}      # every row is somebody's failure
      client_certificates: {roles: [device]}
      agents: {anchors: [REGISTRARS], roles: [device]}
    branch:
      profile: device
      authenticate: [basic, certificate]
      server_keygen: true
      full_cmc: true
      registration_authority: est
      client_certificates: {roles: [device]}
    by-digest: {authenticate: [digest], FOR_DEVICES, limits: {failures_per_user: 1000/1h, failures_per_address: 1000/1h}}
    by-token: {authenticate: [bearer], FOR_DEVICES, limits: {failures_per_user: 1000/1h, failures_per_address: 1000/1h}}
    ORPHAN: {authenticate: [certificate], FOR_DEVICES, agents: {anchors: [REGISTRARS], roles: [nobody]}}
    MISFIT:
      profile: short-lived
      authenticate: [certificate]
      full_cmc: true
      registration_authority: est
      agents: {anchors: [REGISTRARS], roles: [operator]}
    BRIEF: {authenticate: [certificate], FOR_DEVICES, agents: {anchors: [REGISTRARS], roles: [brief]}}
    GUARDED: {authenticate: [certificate], FOR_DEVICES, agents: {anchors: [REGISTRARS], roles: [guarded]}}
  scep:
    default: {FOR_SCEP, renewal: {roles: [device]}}
    branch: {FOR_SCEP, renewal: {roles: [device]}}
    ORPHAN: {FOR_SCEP, renewal: {roles: [nobody]}}
    MISFIT: {FOR_SCEP, renewal: {roles: [operator]}}
    BRIEF: {FOR_SCEP, renewal: {roles: [brief]}}
    GUARDED: {FOR_SCEP, renewal: {roles: [guarded]}}

"""


def narrow(text: str) -> str:
    """The configuration that `init` wrote, with policies that grant little, and no legacy algorithm anywhere."""
    ours = POLICIES.replace("FOR_DEVICES", "profile: device, server_keygen: true, full_cmc: true, registration_authority: est")
    ours = ours.replace("FOR_SCEP", f"{FOR_SCEP}, limits: {{failures_per_address: 1000/1h}}")
    for name in PEOPLE:
        ours = ours.replace(name.upper(), name)
    text = text.replace("  device:\n", "  device:\n    server_keygen: true\n    subject_change: true\n", 1)
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
    tokens: Mapping[str, str]  # of the EST label that takes them, by the password of the same person
    certificates: Mapping[str, Path]  # of no use for a renewal: "a program's", "revoked", "expired", "revoked of SCEP"
    expired_challenge: str
    accounts: dict[str, Account] = field(default_factory=dict)

    @property
    def own(self) -> Secrets:
        return self.doors.secrets

    @property
    def account(self) -> Account:
        return self.own.account


async def provision_otherwise(server: Server) -> dict[str, str]:
    """The same people for Digest, with the same passwords, and for tokens: password -> token."""
    config, clock = load(server.config_file), SystemClock()
    database = await open_database(config.database, migrate=False)
    try:
        these, lockouts = Credentials(database=database, clock=clock), Lockouts(database=database, clock=clock)
        sealed = SealedSecrets(database=database, clock=clock, sealer=Sealer(config.sealing_keys))
        digests = Digests(database=database, clock=clock, sealed=sealed, lockouts=lockouts)

        async def give(user: str, password: str, role: str, profile: str) -> None:
            label = OTHERWISE["digest"]
            step = digests.step(endpoint=label, user=user, realm=config.est[label].realm, password=password)
            await these.set_est_user(endpoint=label, user=user, password=password, roles=[role], profile=profile, digest=step)

        async def token(role: str, profile: str, label: str = OTHERWISE["bearer"], expires_at: Micros | None = None) -> str:
            return await these.create_est_token(endpoint=label, roles=[role], profile=profile, expires_at=expires_at)

        given = server.environment
        await give(given["CERTWRIGHT_EST_USER"], given["CERTWRIGHT_EST_PASSWORD"], "device", "device")
        tokens = {given["CERTWRIGHT_EST_PASSWORD"]: await token("device", "device")}
        for name, (role, _, profile) in PEOPLE.items():
            await give(name, f"{name}-est", role, profile)
            tokens[f"{name}-est"] = await token(role, profile)
        for password in ("old-est", "new-est"):
            await give("moved", password, "device", "device")
        tokens["old-est"] = await token("device", "device")
        await these.disable(CredentialKind.EST_TOKEN, tokens["old-est"].split("_")[1])
        tokens["branch-est"] = await token("device", "device", label="branch")
        tokens["expired-est"] = await token("device", "device", expires_at=after(clock.micros(), dt.timedelta(hours=-1)))
        return tokens
    finally:
        await database.close()


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


def challenge_once(server: Server, role: str, profile: str, endpoint: str, *, ago: dt.timedelta = dt.timedelta(0)) -> str:
    """A new challenge that opens once, within an hour of its making, as `certwright scep challenge create --any-name` makes it."""

    async def inside() -> str:
        made_at = after(SystemClock().micros(), -ago)
        database = await open_database(load(server.config_file).database, migrate=False)
        try:
            these = ScepChallenges(database=database, clock=FakeClock(to_datetime(made_at)))
            terms = Terms(endpoint, frozenset({role}), profile=profile)
            return (await these.create(terms, lifetime=dt.timedelta(hours=1), made_by=COMMAND_LINE)).challenge
        finally:
            await database.close()

    return asyncio.run(inside())


def held(doors: Doors, endpoint: str, folder: Path, *, named: str) -> Path:
    """A device's certificate of this SCEP endpoint, with its key; whoever has the endpoint's role renews it, may it do so or not."""
    wanted, once = Wanted(), partial(challenge_once, doors.server, "device", "device", endpoint)
    reply = doors.ask(Door.SCEP_ONCE, wanted, replace(doors.secrets, once=once, scep_endpoint=endpoint))
    leaf = doors.certificate(Door.SCEP_ONCE, reply, wanted, folder)
    return doors.around.client(named, leaf.public_bytes(Encoding.DER), wanted.key())


def used_challenge(doors: Doors, folder: Path) -> str:
    challenge, wanted = challenge_once(doors.server, "device", "device", "default"), Wanted()
    reply = doors.ask(Door.SCEP_ONCE, wanted, replace(doors.secrets, once=lambda: challenge))
    assert doors.certificate(Door.SCEP_ONCE, reply, wanted, folder)
    return challenge


def with_moved(around: Neighbourhood, text: str) -> str:
    """One more SCEP endpoint: its challenge is set twice."""
    return (
        narrow(text)
        .replace("REGISTRARS", str(around.registrars))
        .replace("  scep:\n    default:", "  scep:\n    moved: {profile: device, registration_authority: scep}\n    default:")
    )


def _certificates(doors: Doors, folder: Path) -> dict[str, Path]:
    wanted, around = Wanted(), doors.around
    made = doors.rest(pem_csr(wanted.csr()).encode(), doors.secrets.api_key, content_type="text/plain", profile="tls-client")
    programs = x509.load_pem_x509_certificate(made.json["certificate"].encode())
    revoked = doors.certificate(Door.EST, doors.ask(Door.EST, wanted), wanted, Path())
    device = held(doors, "default", folder, named="revoked device")
    for each in (revoked, x509.load_pem_x509_certificate(device.read_bytes())):
        run("cert", "revoke", f"{each.serial_number:x}", "--config", doors.server.config_file)
    return {
        "revoked of SCEP": device,
        "a program's": around.client("program", programs.public_bytes(Encoding.DER), wanted.key()),
        "revoked": around.client("revoked", revoked.public_bytes(Encoding.DER), wanted.key()),
        "expired": around.former_agent,
    }


@contextmanager
def opened() -> Iterator[Site]:
    with Neighbourhood() as around:
        server = Server(
            resolver=around.dns.address,
            http01_port=around.http.port,
            allow_networks=["127.0.0.0/8"],
            edit=partial(with_moved, around),
        )
        with server:
            made, tokens = asyncio.run(provision(server)), asyncio.run(provision_otherwise(server))
            doors = Doors(server, around)
            doors.secrets.account.register()
            folder = server.directory
            doors.secrets = own = replace(
                doors.secrets,
                once=partial(challenge_once, server, "device", "device", "default"),
                held=held(doors, "default", folder, named="device"),
            )
            people = {
                name: replace(
                    own,
                    api_key=made[name],
                    est=(name, f"{name}-est"),
                    challenge=f"{name}-scep",
                    scep_endpoint=name,
                    renewal_label=name,
                    account=doors.account(name).register(),
                    once=partial(challenge_once, server, PEOPLE[name][0], PEOPLE[name][2], name),
                    held=held(doors, name, folder, named=name),
                )
                for name in PEOPLE
            }
            branch = replace(
                own,
                est=("b", "branch-est"),
                challenge="branch-scep",
                account=doors.account("branch").register(),
                renewal_label="branch",
                once=partial(challenge_once, server, "device", "device", "branch"),
                held=held(doors, "branch", folder, named="branch"),
            )
            used = used_challenge(doors, folder)
            ended = replace(
                own,
                api_key=made["disabled"],
                est=("moved", "old-est"),
                challenge="old-scep",
                scep_endpoint="moved",
                once=lambda: used,
            )
            certificates = _certificates(doors, folder)
            expired = challenge_once(server, "device", "device", "default", ago=dt.timedelta(hours=2))
            yield Site(doors, Watch(Books(server)), people, branch, ended, made["expired"], tokens, certificates, expired)
            doors.close()
