"""certbot's library `acme` (PyPI): what certbot itself has no command for. The inner request of a rollover is made by its JWS class."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from acme import client, errors, jws, messages
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from josepy.jwa import ES256, RS256
from josepy.jwk import JWK, JWKEC, JWKRSA

from interop.support import Site


class Program:
    """One user's program, and its account."""

    def __init__(self, site: Site, key: JWK) -> None:
        self.key = key
        self.net = client.ClientNetwork(key, alg=algorithm_of(key))
        self.net.verify_ssl = str(site.root)  # type: ignore[assignment]  # handed on to requests, which takes a file, too
        # requests' own environment variables would win over the session's; nobody else's are wanted here.
        self.net.session.trust_env = False
        directory = client.ClientV2.get_directory(site["ACME_DIRECTORY"], self.net)
        self.acme = client.ClientV2(directory, self.net)
        self.directory = directory

    def register(self) -> messages.RegistrationResource:
        return self.acme.new_account(messages.NewRegistration.from_data(email="a@example.com", terms_of_service_agreed=True))

    def roll_over(self, account: messages.RegistrationResource, new: JWK) -> None:
        """RFC 8555 §7.3.5: signed by the new key inside, by the old one outside."""
        url = self.directory["keyChange"]
        payload = b'{"account": "%s", "oldKey": %s}' % (account.uri.encode(), self.key.public_key().json_dumps().encode())
        inner = jws.JWS.sign(payload, key=new, alg=algorithm_of(new), nonce=None, url=url)
        self.acme._post(url, inner)
        self.key = self.net.key = new
        self.net.alg = algorithm_of(new)


def algorithm_of(key: JWK) -> object:
    return ES256 if isinstance(key, JWKEC) else RS256


def elliptic() -> JWKEC:
    return JWKEC(key=ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def programs(site: Site) -> Iterator[tuple[Program, Program]]:
    pair = Program(site, elliptic()), Program(site, elliptic())
    yield pair
    for one in pair:
        one.net.session.close()


def test_an_account_rolls_over_to_a_key_of_another_kind_and_back_to_a_third(programs: tuple[Program, Program]) -> None:
    program, thief = programs
    account = program.register()
    thief.net.key, thief.net.account = program.key, account  # the key that will be rolled away
    for new in (JWKRSA(key=rsa.generate_private_key(65537, 2048)), elliptic()):
        program.roll_over(account, new)
        assert program.acme.query_registration(account).uri == account.uri
        with pytest.raises(messages.Error, match="accountDoesNotExist"):
            thief.acme.query_registration(account)


def test_nobody_takes_the_key_of_another_account(programs: tuple[Program, Program]) -> None:
    """RFC 8555 §7.3.5: 409, and Location says whose it is; the library knows that as a conflict."""
    program, other = programs
    account, theirs = program.register(), other.register()
    with pytest.raises(errors.ConflictError) as raised:
        program.roll_over(account, other.key)
    assert raised.value.location == theirs.uri
    assert program.acme.query_registration(account).uri == account.uri
