"""What an operator does where requests wait for a person."""

from __future__ import annotations

import orjson

from interop.support import Site
from tests.helpers.server import run as certwright


class Operator:
    """Of one site; requests are found by their common name."""

    __slots__ = ()
    site: Site

    def approve(self, common_name: str) -> None:
        self._requests("approve", self._the_only(common_name))

    def deny(self, common_name: str, reason: str) -> None:
        self._requests("deny", self._the_only(common_name), "--reason", reason)

    def is_waiting(self, common_name: str) -> bool:
        return bool(self._waiting(common_name))

    def _the_only(self, common_name: str) -> str:
        [found] = self._waiting(common_name)
        return found

    def _waiting(self, common_name: str) -> list[str]:
        return [str(row["id"]) for row in orjson.loads(self._requests("list", "-o", "json")) if common_name in str(row)]

    def _requests(self, *arguments: str) -> str:
        return certwright("requests", *arguments, "--config", self.site.config).stdout
