"""The certwright.yaml that `init` writes: complete, commented, meant to be edited."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Template:
    base_url: str
    http_url: str
    listen: str
    https_port: int
    mtls_port: int
    http_port: int
    metrics_port: int
    database: str | None  # None: the URL has a password and lies in the file database.url
    http01_port: int
    loopback: bool


BY_CERTIFICATE = "authenticate: [basic, certificate], client_certificates: {roles: [device]}"
CHALLENGES = "challenges: [http-01, dns-01, tls-alpn-01]"


def render(given: Template) -> str:
    def quoted(text: str) -> str:
        return json.dumps(text)  # every JSON string is a YAML string

    database = f"database: {quoted(given.database)}" if given.database else 'database_file: "database.url"'
    networks = '["127.0.0.0/8", "::1/128"]' if given.loopback else "[]"
    networks_why = (
        "# This CA serves its own machine, so it may validate names that lead to it. Take the ranges out when it moves."
        if given.loopback
        else '# Special-purpose ranges that validation may reach nevertheless, e.g. ["10.0.0.0/8"] for a private network.'
    )
    return f"""\
# Certwright. After a change: certwright check, then send SIGHUP to the server; a mistake leaves the old one working.
# Relative paths start at this file. Durations: 90d, 24h, 15m, 30s. ${{NAME}} is replaced by the environment variable NAME.

base_url: {quoted(given.base_url)}      # what clients call; every URL in answers begins with it
http_url: {quoted(given.http_url)}      # plain HTTP, in every certificate: CRL, OCSP and issuer certificates
data_dir: .
{database}      # sqlite:FILE, or postgresql://user@host/name
secrets_key_file: secrets.key      # seals the secrets in the database that have to be read back; keep a copy apart from it

listen:
  https: {quoted(f"{given.listen}:{given.https_port}")}      # ACME, REST, SCEP
  mtls: {quoted(f"{given.listen}:{given.mtls_port}")}      # EST and REST; a client certificate is taken, not demanded
  http: {quoted(f"{given.listen}:{given.http_port}")}      # SCEP, CRL, OCSP, issuer certificates, health
  metrics: {quoted(f"127.0.0.1:{given.metrics_port}")}

tls:      # of the listeners themselves; renew with: certwright ca renew-server
  certificate: tls/server.pem
  key_file: tls/server.key

issuers:      # the root's key (ca/root.key, ca/root.passphrase) is not needed here: move both to a safe place
  issuing:
    certificate: ca/issuing.pem
    chain: [ca/root.pem]
    key: {{software: {{file: ca/issuing.key, passphrase_file: ca/passphrase}}}}
    crl: {{refresh: 24h, lifetime: 4d}}
  devices:      # RSA, as its root is: what every device can verify
    certificate: ca/devices.pem
    chain: [ca/root.pem]
    key: {{software: {{file: ca/devices.key, passphrase_file: ca/passphrase}}}}
    crl: {{refresh: 24h, lifetime: 4d}}

registration_authorities:      # whom SCEP clients encrypt to, and who signs for EST (CMC, keys made here)
  scep:
    certificate: ca/scep-ra.pem
    key: {{software: {{file: ca/scep-ra.key, passphrase_file: ca/passphrase}}}}
  est:
    certificate: ca/est-ra.pem
    key: {{software: {{file: ca/est-ra.key, passphrase_file: ca/passphrase}}}}

profiles:      # what a certificate looks like
  tls-server:
    issuer: issuing
    validity: 47d
    key_usage: [digital_signature]
    extended_key_usage: [serverAuth]
    common_name: san      # the first DNS name that fits; none: no common name at all
  short-lived:
    issuer: issuing
    validity: 24h
    key_usage: [digital_signature]
    extended_key_usage: [serverAuth]
    common_name: none
  tls-client:
    issuer: issuing
    validity: 47d
    key_usage: [digital_signature]
    extended_key_usage: [clientAuth]
    common_name: device
    require_san: false
  device:
    issuer: devices
    validity: 365d
    key_usage: [digital_signature, key_encipherment]      # the second is left out for keys that cannot do it
    extended_key_usage: [clientAuth]
    common_name: device      # the name that the device asks for, if a policy grants it
    require_san: false

policies:      # who may have what; what no policy allows is refused
  acme:      # any name, for an ACME client has to prove each one by a challenge
    roles: [acme]
    allowed_profiles: [tls-server, short-lived]
    allowed_sans: ["*"]
  # "*" means every name, on nobody's word but the requester's. Before you hand these credentials to others, narrow both:
  # allowed_sans: ["*.example.com", "10.1.0.0/16"], allowed_common_names: ["router-*"]
  operators:
    roles: [operator]
    allowed_profiles: [tls-server, short-lived, tls-client, device]
    allowed_sans: ["*"]
    allowed_common_names: ["*"]
  devices:
    roles: [device]
    allowed_profiles: [device]
    allowed_sans: ["*"]
    allowed_common_names: ["*"]

endpoints:
  acme:
    # More (external accounts, CAA, limits, profiles of its own ...): docs/acme.md. renewal_info tells clients when to renew.
    default: {{profiles: [tls-server, short-lived], {CHALLENGES}, identifiers: [dns, ip], renewal_info: {{}}}}
  est:
    default: {{profile: device, registration_authority: est, {BY_CERTIFICATE}}}      # who enrolled renews itself; all of it: docs/est.md
  scep:
    default:
      profile: device
      challenge: [static, one-time]      # one-time: certwright scep challenge create
      registration_authority: scep
      renewal: {{roles: [device]}}      # who enrolled renews itself
      # AES and SHA-256 alone, for DES can be read and SHA-1 forged. What old devices speak is for an endpoint of their own:
      # legacy: [sha1, des-cbc, des-ede3-cbc]

validation:
  resolver: system      # or ["127.0.0.1:53"]
  http01_port: {given.http01_port}      # the port at which http-01 challenges are fetched; the world expects 80
  {networks_why}
  allow_networks: {networks}
"""
