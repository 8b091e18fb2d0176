"""Who asks: every credential in every wrong state, and in every wrong place."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pki.strict import base64url
from tests.helpers.acme_client import AccountKey, make_jws, to_json
from tests.helpers.front_doors import EST_OPERATIONS, Door, Secrets, basic
from tests.helpers.wanted import (
    Wanted,
    pem_csr,
    rsa_key,
)
from tests.helpers.wire import Reply
from tests.protocol.matrix.cells import (
    Attempt,
    Impossible,
    Refused,
    Row,
    Waits,
    everywhere,
)
from tests.protocol.matrix.site import BRIEF, GUARDED, MISFIT, ORPHAN, Site


def unsigned(site: Site, headers: Mapping[str, str]) -> Reply:
    """A finalize whose JWS nobody signed, or no JWS at all: what HTTP headers say counts for nothing in ACME."""
    order = site.account.ready("host.example.test")
    payload = {"csr": base64url(Wanted().csr())}
    url = order.json["finalize"]
    bare = site.account.send(url, to_json(payload), headers)
    assert bare.status == 400
    jws = make_jws(site.account.key, site.account.header(url), to_json(payload))
    return site.account.send(url, to_json({**jws, "signature": ""}), headers)


NOTHING: dict[str, Any] = {"api_key": None, "est": None, "challenge": None, "certificate": None, "once": None, "held": None}


def anonymous(site: Site, door: Door) -> Reply:
    if door is Door.ACME:
        return unsigned(site, {})
    return site.doors.ask(door, Wanted(), replace(site.own, **NOTHING))


def stranger(site: Site, door: Door) -> Reply:
    """Credentials of the right form that nobody has."""
    if door is Door.ACME:
        order = site.account.ready("host.example.test")
        return site.account.post(order.json["finalize"], {"csr": base64url(Wanted().csr())}, by=AccountKey())
    key = f"cw_{os.urandom(8).hex()}_{'A' * 43}"
    once = os.urandom(16).hex().upper()
    own = replace(site.own, api_key=key, est=("device", "wrong"), challenge="wrong", once=lambda: once)
    return site.doors.ask(door, Wanted(), own)


def wrong_secret_of_a_known_id(site: Site, door: Door) -> Reply:
    own = site.own
    assert own.api_key is not None
    assert own.est is not None
    assert own.challenge is not None
    key = own.api_key[:-1] + ("A" if own.api_key[-1] != "A" else "B")
    assert own.once is not None
    once = own.once()
    once = once[:-1] + ("A" if once[-1] != "A" else "B")
    wrong = replace(own, api_key=key, est=(own.est[0], own.est[1] + "x"), challenge=own.challenge[:-1], once=lambda: once)
    return site.doors.ask(door, Wanted(), wrong)


def by_another_key(site: Site, door: Door) -> Reply:
    """A certificate of ours, and a message that its key did not sign."""
    message = site.doors.scep_message(door, Wanted(), site.own)
    message.key = rsa_key("eavesdropper")
    return site.doors.scep(door, message, site.own)


def with_secret(of: Callable[[Secrets], str | None]) -> Attempt:
    """One protocol's right secret at another's door."""

    def attempt(site: Site, door: Door) -> Reply:
        secret = of(site.own)
        assert secret is not None
        if door is Door.ACME:
            return unsigned(site, {"X-API-Key": secret, "Authorization": f"Bearer {secret}"})
        assert site.own.est is not None
        user = (site.own.est[0], secret)
        if door is Door.EST_RENEWAL:
            return site.doors.simple_enroll(Wanted().csr(), user, operation=EST_OPERATIONS[door])
        own = replace(site.own, api_key=secret, est=user, challenge=secret, once=lambda: secret, held=None)
        return site.doors.ask(door, Wanted(), own)

    return attempt


def with_certificate(name: str) -> Attempt:
    """Of ours, or of the agents' CA, and no agent's."""
    return lambda site, door: site.doors.ask(door, Wanted(), replace(site.own, certificate=site.certificates[name]))


def with_held(name: str) -> Attempt:
    """The same for RenewalReq."""
    return lambda site, door: site.doors.ask(door, Wanted(), replace(site.own, held=site.certificates[name]))


NO_CERTIFICATE = "no client certificate came"
NO_HOLDER = "issued here; this one was not"


def basic_at_rest(site: Site, _: Door) -> Reply:
    assert site.own.est is not None
    return site.doors.rest(pem_csr(Wanted().csr()).encode(), None, content_type="text/plain", **basic(*site.own.est))


def bearer_at_est(site: Site, door: Door) -> Reply:
    return _at_est(site, door, {"Authorization": f"Bearer {site.own.api_key}"})


def key_at_est(site: Site, door: Door) -> Reply:
    return _at_est(site, door, {"X-API-Key": site.own.api_key or ""})


def _at_est(site: Site, door: Door, headers: Mapping[str, str]) -> Reply:
    if door is Door.EST_CMC:
        return site.doors.full_cmc(site.doors.pki_data(Wanted()), None, **headers)
    return site.doors.simple_enroll(Wanted().csr(), None, operation=EST_OPERATIONS[door], **headers)


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
        case Door.EST | Door.EST_KEYGEN | Door.EST_RENEWAL | Door.EST_CMC:
            headers = {"Content-Type": "application/pkcs10", **basic(*site.own.est)}
            return doors.http.send("POST", f"/.well-known/est/{EST_OPERATIONS[door]}", base64.b64encode(csr), headers)
        case _:
            return doors.http.send("POST", "/api/v1/certificates", pem_csr(csr).encode(), {"X-API-Key": site.own.api_key})


NO_CHALLENGE = "challenge password is missing, wrong, used or expired"
IDENTITY: dict[str, Row] = {
    "no credentials": everywhere(
        anonymous,
        "unauthenticated|challenge password is missing|challengePassword|challenge",
        acme=Refused(anonymous, "signature|JWS"),
        renewal=Refused(anonymous, NO_CERTIFICATE),
        scep_renewal=Refused(anonymous, NO_HOLDER),
    ),
    "unknown credentials": everywhere(
        stranger,
        f"unauthenticated|not valid|{NO_CHALLENGE}",
        acme=Refused(stranger, "signature"),
        renewal=Refused(with_certificate("a program's"), "not issued by this endpoint"),
        scep_renewal=Refused(with_held("a program's"), "not issued by this SCEP endpoint"),
    ),
    "a known id with a wrong secret": everywhere(
        wrong_secret_of_a_known_id,
        f"unauthenticated|not valid|{NO_CHALLENGE}",
        acme=Impossible("an account's secret is its key: see above"),
        renewal=Impossible("a certificate's secret is its key, which TLS asks for"),
        scep_renewal=Refused(by_another_key, "signature is not by the key"),
    ),
    "an API key as secret": everywhere(
        with_secret(lambda own: own.api_key),
        f"unauthenticated|not valid|signature|{NO_CHALLENGE}",
        rest=Impossible("that is what it is for"),
        renewal=Refused(with_secret(lambda own: own.api_key), NO_CERTIFICATE),
        scep_renewal=Refused(with_secret(lambda own: own.api_key), NO_HOLDER),
    ),
    "an EST password as secret": everywhere(
        with_secret(lambda own: own.est[1] if own.est else None),
        f"unauthenticated|not valid|signature|{NO_CHALLENGE}",
        est=Impossible("that is what it is for"),
        renewal=Refused(with_secret(lambda own: own.est[1] if own.est else None), NO_CERTIFICATE),
        scep_renewal=Refused(with_secret(lambda own: own.est[1] if own.est else None), NO_HOLDER),
    ),
    "a SCEP challenge as secret": everywhere(
        with_secret(lambda own: own.challenge),
        f"unauthenticated|not valid|signature|{NO_CHALLENGE}",
        scep=Impossible("that is what it is for"),
        renewal=Refused(with_secret(lambda own: own.challenge), NO_CERTIFICATE),
        scep_renewal=Refused(with_secret(lambda own: own.challenge), NO_HOLDER),
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
        renewal=Refused(bearer_at_est, NO_CERTIFICATE),
        acme=Impossible("tried with every secret above"),
        scep=Impossible("SCEP looks at no header"),
        rest=Impossible("that is what it is for"),
    ),
    "an API key in its own header where a password belongs": everywhere(
        key_at_est,
        "unauthenticated",
        renewal=Refused(key_at_est, NO_CERTIFICATE),
        acme=Impossible("tried with every secret above"),
        scep=Impossible("SCEP looks at no header"),
        rest=Impossible("that is what it is for"),
    ),
    "credentials of another endpoint": everywhere(
        at_another_endpoint,
        f"unauthenticated|not valid|{NO_CHALLENGE}",
        acme=Refused(at_another_endpoint, "accountDoesNotExist"),
        renewal=Refused(at_another_endpoint, "no CA that is trusted here"),
        scep_renewal=Refused(at_another_endpoint, "not issued by this SCEP endpoint"),
        rest=Impossible("REST has one endpoint"),
    ),
    "credentials that were ended": everywhere(
        lambda site, door: site.doors.ask(door, Wanted(), site.ended),
        f"unauthenticated|not valid|{NO_CHALLENGE}",
        acme=Refused(lambda site, _: deactivated(site), "unauthorized: the account is deactivated"),
        renewal=Refused(with_certificate("revoked"), "it is revoked"),
        scep_renewal=Refused(with_held("revoked of SCEP"), "is revoked"),
    ),
    "credentials past their time": everywhere(
        lambda site, door: site.doors.ask(door, Wanted(), replace(site.own, api_key=site.expired_key)),
        "unauthenticated",
        acme=Impossible("accounts do not expire; orders and authorizations do, which takes a moved clock: test_acme_orders.py"),
        est=Impossible("no command gives an EST user an end"),
        renewal=Refused(with_certificate("expired"), "it expired at"),
        scep=Impossible("no command gives a static challenge an end"),
        scep_once=Refused(
            lambda site, door: site.doors.ask(door, Wanted(), replace(site.own, once=lambda: site.expired_challenge)),
            NO_CHALLENGE,
        ),
        scep_renewal=Impossible("every certificate of ours is valid for longer than a test: test_holders.py"),
    ),
    "a role that no policy names": everywhere(as_person(ORPHAN), "no policy grants anything"),
    "a profile that the role is not granted": everywhere(
        as_person(MISFIT),
        "no policy grants profile short-lived",
        scep_renewal=Refused(as_person(MISFIT), "no policy grants profile device"),  # that of its certificate
        keygen=Refused(as_person(MISFIT), "no keys are made here for certificates of profile short-lived"),
    ),
    "a validity that the role is not granted": everywhere(as_person(BRIEF), "may be valid for at most 1 days"),
    "a policy that asks for an approval": {
        door: Refused(as_person(GUARDED), "approval") if door is Door.ACME else Waits(as_person(GUARDED)) for door in Door
    },
    "the right credentials without TLS": everywhere(
        without_tls,
        "https only",
        acme=Impossible("the listener has no ACME: test_bad_input.py"),
        scep=Impossible("SCEP's messages protect themselves; it is made for plain HTTP"),
        rest=Impossible("the listener has no REST: test_bad_input.py"),
    ),
}
