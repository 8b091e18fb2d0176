"""The shape of a SCEP endpoint in certwright.yaml. What its keys mean together: config_scep.py."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from certwright.config_values import Closed, Duration, Rate, ServiceUrl, Text
from policy.limits import Limit


class ScepRenewal(Closed):
    """Renewal by a certificate that this endpoint issued; without roles there is none."""

    roles: list[Text] = []  # of whoever renews; policy decides by them
    grace: Annotated[Duration, Field(ge=timedelta(0), le=timedelta(days=365))] = timedelta(0)


class ScepOneTime(Closed):
    makers: list[Text] = []  # roles of the API keys that may make challenges by REST


class ScepChallengePage(Closed):
    """What Windows calls NDES: a page that gives whoever logs in a one-time challenge for any name."""

    roles: Annotated[list[Text], Field(min_length=1)]  # of those challenges
    expires: Annotated[Duration, Field(ge=timedelta(minutes=1), le=timedelta(days=7))] = timedelta(hours=1)


class ScepWebhook(Closed):
    url: ServiceUrl
    secret_file: Text  # signs what we send
    ca_file: Text | None = None  # who may have certified its server; else the system's CAs
    timeout: Annotated[Duration, Field(ge=timedelta(seconds=1), le=timedelta(seconds=30))] = timedelta(seconds=10)
    roles: Annotated[list[Text], Field(min_length=1)]  # of whom it lets in


class ScepIntune(Closed):
    """Microsoft Intune checks the challenge; an application of the tenant with the permission scep_challenge_provider asks it."""

    tenant: Text
    client_id: Text
    client_secret_file: Text
    roles: Annotated[list[Text], Field(min_length=1)]  # of whom it lets in
    timeout: Annotated[Duration, Field(ge=timedelta(seconds=1), le=timedelta(seconds=30))] = timedelta(seconds=10)
    login_url: ServiceUrl = "https://login.microsoftonline.com"
    graph_url: ServiceUrl = "https://graph.microsoft.com"
    ca_file: Text | None = None


class ScepLimits(Closed):
    """null is no limit."""

    failures_per_user: Rate | None = Limit(10, timedelta(minutes=15))  # of the challenge page
    failures_per_address: Rate | None = Limit(100, timedelta(minutes=15))
    enrollments_per_caller: Rate | None = None
    enrollments_per_address: Rate | None = None


class ScepEndpoint(Closed):
    profile: Text
    registration_authority: Text | None = None
    encryption_authority: Text | None = None  # where clients encrypt to another certificate than the one that signs
    next_registration_authority: Text | None = None  # shown beside the issuer's `next`
    use_ca_key: bool = False  # no registration authority: the issuing CA's own key signs and decrypts
    challenge: Annotated[list[Literal["static", "one-time", "webhook", "intune"]], Field(min_length=1)] = ["static"]
    chain: bool = True  # in GetCACert: what is above the issuing CA
    include_root: bool = True  # in GetCACert: certmonger and strongSwan verify up to it
    legacy: list[Literal["sha1", "md5", "des-ede3-cbc", "des-cbc"]] = []
    renewal: ScepRenewal = ScepRenewal()
    one_time: ScepOneTime = ScepOneTime()
    challenge_page: ScepChallengePage | None = None
    webhook: ScepWebhook | None = None
    intune: ScepIntune | None = None
    require_approval: bool = False
    limits: ScepLimits = ScepLimits()
