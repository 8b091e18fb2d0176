"""With which key, and with which proof of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from pki.strict import base64url
from policy.keys import check_public_key
from tests.helpers.acme_client import make_jws, to_json
from tests.helpers.bad_keys import guessable_key, printed_ec_key, small_factor_key
from tests.helpers.front_doors import Door
from tests.helpers.wanted import (
    Wanted,
    close_primes_key,
    ec_key,
    roca_key,
    rsa_key,
)
from tests.helpers.wire import Reply
from tests.protocol.matrix.cells import (
    Attempt,
    Granted,
    Impossible,
    Refused,
    Row,
    asking,
    everywhere,
)
from tests.protocol.matrix.site import Site


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
    if door is not Door.SCEP_RENEWAL:  # there, another key has the same names
        wanted = replace(wanted, names=("other.example.test",))
    return site.doors.ask(door, wanted)


def foreign_request(site: Site, door: Door) -> Reply:
    """SCEP: a message signed by one key with a request of another inside (what an eavesdropper could send)."""
    message = site.doors.scep_message(door, Wanted(), site.own)
    message.key, message.signer = rsa_key("eavesdropper"), None
    return site.doors.scep(door, message, site.own)


def broken_message(site: Site, door: Door) -> Reply:
    message = site.doors.scep_message(door, Wanted(), site.own, signature=bytes(256))
    return site.doors.scep(door, message, site.own)


def by_another_key(*, signs_for: bool) -> Attempt:
    """CMC: a message signed by somebody else's key, in its own name or in that of the request's."""

    def attempt(site: Site, _: Door) -> Reply:
        other = rsa_key("eavesdropper")
        message = site.doors.pki_data(Wanted(), signs_for=other) if signs_for else site.doors.pki_data(Wanted(), by=other)
        return site.doors.full_cmc(message, site.own.est)

    return attempt


def broken_jws(site: Site, _: Door) -> Reply:
    order = site.account.ready("host.example.test")
    url = order.json["finalize"]
    jws = make_jws(site.account.key, site.account.header(url), to_json({"csr": base64url(Wanted().csr())}))
    return site.account.send(
        url,
        to_json({**jws, "payload": base64url(to_json({"csr": base64url(Wanted(key=partial(rsa_key, "eavesdropper")).csr())}))}),
    )


def our_own(leaf: x509.Certificate) -> None:
    """serverkeygen: of the request's key only the kind counts, and its signature is not looked at (RFC 7030 §4.4.1)."""
    check_public_key(leaf.public_key())  # type: ignore[arg-type]  # of a kind that is served, or it would not be in a certificate
    assert leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)


def in_the_request(wanted: Wanted, because: str) -> Row:
    """What is wrong with the key or the signature of a request; it says nothing of a key that is made here."""
    return asking(wanted, because, keygen=Granted(wanted, our_own))


NO_MESSAGE = Impossible("there is no signed message around the request")
WEAK_MESSAGE = "RSA key|too short|key"

KEYS: dict[str, Row] = {
    "a signature with a wrong bit": in_the_request(Wanted(broken=True), "signature is not by the key"),
    "a signature by another key": in_the_request(
        Wanted(signed_by=partial(rsa_key, "eavesdropper")), "signature is not by the key"
    ),
    "a message whose own signature is wrong": everywhere(
        broken_message,
        "signature",
        acme=Refused(broken_jws, "signature"),
        cmc=Refused(by_another_key(signs_for=True), "signature is not by the key"),
        est=NO_MESSAGE,
        rest=NO_MESSAGE,
    ),
    "another's request in one's own message": everywhere(
        foreign_request,
        "decrypt|read|signer",
        acme=Impossible("an account may well ask for another key than its own: it has to"),
        scep_renewal=Impossible("whoever renews may well ask for another key than the one that signs: it has to"),
        cmc=Refused(by_another_key(signs_for=False), "nor has it the key of one of the certification requests"),
        est=NO_MESSAGE,
        rest=NO_MESSAGE,
    ),
    "SHA-1": in_the_request(Wanted(digest="sha1"), "SHA1, which is not accepted"),
    "MD5": in_the_request(Wanted(digest="md5"), "MD5, which is not accepted"),
    "RSA with 1024 bits": asking(Wanted(key=partial(rsa_key, "short", 1024)), "1024 bits|keys like the one in this request"),
    "RSA with the exponent 3": in_the_request(Wanted(key=partial(rsa_key, "three", 2048, 3)), "exponent"),
    "a curve that is not NIST's": asking(
        Wanted(key=partial(ec_key, "koblitz", ec.SECP256K1())), "secp256k1|curve|use RSA|keys like the one in this request"
    ),
    "close primes": in_the_request(Wanted(key=close_primes_key), "close together"),
    "a ROCA key": in_the_request(Wanted(key=roca_key), "ROCA"),
    "RSA with a small factor": in_the_request(Wanted(key=small_factor_key), "small factor"),
    "an EC key that anybody guesses": in_the_request(Wanted(key=partial(guessable_key, ec.SECP384R1())), "guesses|use RSA"),
    "a key that is printed in an RFC": in_the_request(Wanted(key=printed_ec_key), "printed in RFC 6979|use RSA"),
    "a key that was revoked as compromised": everywhere(
        compromised,
        "known to be compromised",
        keygen=Granted(Wanted(key=partial(rsa_key, "compromised")), our_own),
    ),
}
