"""The URLs of one endpoint, built from the configured base URL and from nothing that a client sent.

Host and X-Forwarded-* are never looked at: an account's URL is its identity (CAA accounturi), and must not be for others to say.
"""

from __future__ import annotations

import re

from acmeserver.endpoint import DEFAULT_ENDPOINT

ID = "[A-Za-z0-9_-]{1,64}"  # of our own making; what is not of this form is not in the database
SERIAL = "[0-9a-f]{1,40}"
CHALLENGE = "[a-z0-9-]{1,32}"
CHAIN = "[1-9][0-9]?"

_ID = re.compile(ID)


class Urls:
    def __init__(self, *, base_url: str, endpoint: str) -> None:
        self._base = base_url.rstrip("/")
        self._root = f"{self._base}/acme/{endpoint}"
        self.directory = f"{self._base}/acme/directory" if endpoint == DEFAULT_ENDPOINT else f"{self._root}/directory"
        self.new_nonce = f"{self._root}/new-nonce"
        self.new_account = f"{self._root}/new-account"
        self.new_order = f"{self._root}/new-order"
        self.new_authz = f"{self._root}/new-authz"
        self.revoke_cert = f"{self._root}/revoke-cert"
        # Names accounts in dns-persist-01 records; nothing is served there.
        self.account_hash_prefix = f"{self._root}/account-hash/"
        self.renewal_info = f"{self._root}/renewal-info"
        self.key_change = f"{self._root}/key-change"

    def absolute(self, path: str) -> str:
        """The URL that a client used for `path` (with its query), if it used ours."""
        return self._base + path

    def account(self, account_id: str) -> str:
        return f"{self._root}/account/{account_id}"

    def account_id(self, kid: str) -> str | None:
        """The inverse of `account`, None for anything else."""
        prefix = f"{self._root}/account/"
        rest = kid.removeprefix(prefix)
        return rest if kid.startswith(prefix) and _ID.fullmatch(rest) else None

    def orders(self, account_id: str, after: str = "") -> str:
        """The list of an account's orders; `after` is the cursor of a further page."""
        return f"{self.account(account_id)}/orders" + (f"?after={after}" if after else "")

    def order(self, order_id: str) -> str:
        return f"{self._root}/order/{order_id}"

    def finalize(self, order_id: str) -> str:
        return f"{self._root}/order/{order_id}/finalize"

    def authorization(self, authorization_id: str) -> str:
        return f"{self._root}/authz/{authorization_id}"

    def challenge(self, authorization_id: str, kind: str) -> str:
        return f"{self._root}/challenge/{authorization_id}/{kind}"

    def certificate(self, serial: str) -> str:
        return f"{self._root}/cert/{serial}"

    def star_certificate(self, order_id: str) -> str:
        return f"{self._root}/star-cert/{order_id}"

    def alternate(self, serial: str, chain: int) -> str:
        return f"{self._root}/cert/{serial}/{chain}"
