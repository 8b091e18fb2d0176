"""The directory (RFC 8555 §7.1.1): what an endpoint can do. Pure; made once, for it never changes while the server runs.

Law of this file: only what is there is in it. A client that finds a name here may use it, and one that does not find it cannot.
"""

from __future__ import annotations

from datetime import timedelta

import orjson

from acmeserver.endpoint import AcmeEndpoint, AutoRenewalRules
from acmeserver.urls import Urls
from policy.profiles import Profile, Profiles

_DAY = timedelta(days=1)


def directory(endpoint: AcmeEndpoint, urls: Urls, profiles: Profiles) -> bytes:
    content: dict[str, object] = {
        "newNonce": urls.new_nonce,
        "newAccount": urls.new_account,
        "newOrder": urls.new_order,
        **({"newAuthz": urls.new_authz} if endpoint.pre_authorization else {}),
        "revokeCert": urls.revoke_cert,
        "keyChange": urls.key_change,
    }
    if endpoint.renewal_info is not None:
        content["renewalInfo"] = urls.renewal_info  # without a slash at its end: clients add one (RFC 9773 §4.1)
    meta = _meta(endpoint, urls, profiles)
    if meta:
        content["meta"] = meta
    return orjson.dumps(content)


def advertises_profiles(endpoint: AcmeEndpoint, profiles: Profiles) -> bool:
    """Where there is a choice, or something to say about the only one (draft-ietf-acme-profiles §3)."""
    return len(endpoint.profiles) > 1 or any(profiles.get(name).description for name in endpoint.profiles)


def _meta(endpoint: AcmeEndpoint, urls: Urls, profiles: Profiles) -> dict[str, object]:
    meta: dict[str, object] = {}
    if endpoint.terms_of_service is not None:
        meta["termsOfService"] = endpoint.terms_of_service
    if endpoint.website is not None:
        meta["website"] = endpoint.website
    if endpoint.caa_identities:
        meta["caaIdentities"] = list(endpoint.caa_identities)
    if "dns-persist-01" in endpoint.challenges:  # what a record needs, before there is any order (its draft, §3.2, §4.1)
        meta["issuerDomainNames"] = list(endpoint.caa_identities)
        meta["accountHashPrefix"] = urls.account_hash_prefix
    if endpoint.external_account == "required":
        meta["externalAccountRequired"] = True
    if endpoint.subdomains:
        meta["subdomainAuthAllowed"] = True  # RFC 9444 §4.4
    if advertises_profiles(endpoint, profiles):
        # lego and acmez refuse a name that is not listed, so all are.
        meta["profiles"] = {profile.name: _described(profile) for profile in map(profiles.get, endpoint.profiles)}
    if endpoint.auto_renewal is not None:
        meta["auto-renewal"] = _auto_renewal(endpoint.auto_renewal)
    return meta


def _auto_renewal(rules: AutoRenewalRules) -> dict[str, object]:
    """RFC 8739 §3.2, in seconds."""
    content: dict[str, object] = {
        "min-lifetime": int(rules.min_lifetime.total_seconds()),
        "max-duration": int(rules.max_duration.total_seconds()),
    }
    if rules.allow_get:
        content["allow-certificate-get"] = True
    return content


def _described(profile: Profile) -> str:
    """The operator's words, else the one thing that people choose by."""
    if profile.description:
        return profile.description
    if profile.validity % _DAY:
        return f"valid for {profile.validity.total_seconds() / 3600:g} hours"
    days = profile.validity // _DAY
    return f"valid for {days} days" if days > 1 else "valid for 24 hours"
