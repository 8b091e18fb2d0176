"""Keys made here (RFC 7030 §4.4): handed out once, and kept nowhere."""

from __future__ import annotations

from aiohttp import web

from est.errors import HttpRefusal
from est.exchange import Exchange


class KeyGeneration:
    async def handle(self, _exchange: Exchange) -> web.Response:
        raise HttpRefusal(501, "keys are not made here; make one and enrol at simpleenroll\n")
