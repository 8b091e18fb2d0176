"""The shape of `issuers` and `registration_authorities` in certwright.yaml. What they mean: config_issuers.py."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from certwright.config_values import Closed, Duration, Text


class SoftwareKey(Closed):
    file: Text
    passphrase_file: Text | None = None


class Pkcs11Key(Closed):
    module: Text
    token: Text
    label: Text
    pin_file: Text


class Key(Closed):
    software: SoftwareKey | None = None
    pkcs11: Pkcs11Key | None = None


class Crl(Closed):
    refresh: Duration = timedelta(hours=24)
    lifetime: Duration = timedelta(days=4)


class Issuer(Closed):
    certificate: Text
    chain: list[Text] = []
    alternate_chains: list[Annotated[list[Text], Field(min_length=1)]] = []  # each begins with this CA, certified by another
    rollover: list[Text] = []  # what leads from the root that clients have to its successor, and back (RFC 4210 §4.4)
    next: list[Text] = []  # the CA that will follow, then what is above it: SCEP's GetNextCACert (RFC 8894 §4.7)
    key: Key
    crl: Crl = Crl()


class RegistrationAuthority(Closed):
    certificate: Text
    key: Key
