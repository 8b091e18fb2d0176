"""Servers outside that SCEP endpoints ask: their part of the composition."""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

from certwright.config import Config
from certwright.outbound import MAX_REPLY, Outbound, tls_context
from pki.clock import Clock
from scep.authorization import Observer
from scep.intune import Intune, IntuneWay
from scep.intune_api import Application
from scep.webhook import Webhook, WebhookWay

MAX_LIST = 8 * MAX_REPLY  # octets: Microsoft Graph lists a hundred services before the one that is looked for


def webhook_way(config: Config, *, clock: Clock, observer: Observer, closing: AsyncExitStack) -> WebhookWay:
    """In a running event loop; `closing` ends the connections. Raises Refused."""
    webhooks = {}
    for name, settings in config.scep.items():
        if (given := settings.webhook) is not None:
            client = _client(given.ca_file, given.timeout, closing)
            webhooks[name] = (Webhook(given.url, given.secret, given.timeout, given.roles), client)
    return WebhookWay(webhooks, clock=clock, new_id=lambda: secrets.token_hex(16), observer=observer)


def intune_way(config: Config, *, clock: Clock, observer: Observer, closing: AsyncExitStack) -> IntuneWay:
    """As `webhook_way`."""
    services = {}
    for name, settings in config.scep.items():
        if (given := settings.intune) is not None:
            client = _client(given.ca_file, given.timeout, closing, max_reply=MAX_LIST)
            application = Application(
                tenant=given.tenant,
                client_id=given.client_id,
                client_secret=given.client_secret,
                login_url=given.login_url,
                graph_url=given.graph_url,
            )
            services[name] = (Intune(application, given.timeout, given.roles), client)
    return IntuneWay(services, clock=clock, observer=observer)


def _client(ca_file: Path | None, timeout: timedelta, closing: AsyncExitStack, *, max_reply: int = MAX_REPLY) -> Outbound:
    later = timeout + timedelta(seconds=1)  # whoever asks ends it before
    client = Outbound(tls_context(ca_file), timeout=later, max_reply=max_reply)
    closing.push_async_callback(client.close)
    return client
