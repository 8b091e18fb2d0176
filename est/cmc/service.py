"""Full CMC requests over EST (RFC 7030 §4.3)."""

from __future__ import annotations

from aiohttp import web

from est.errors import HttpRefusal
from est.exchange import Exchange


class FullCmc:
    async def handle(self, _exchange: Exchange) -> web.Response:
        raise HttpRefusal(501, "full CMC requests are not served here; enrol at simpleenroll\n")
