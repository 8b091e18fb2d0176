"""What the signer process is told at its start: JSON on stdin or in a file, never arguments or environment."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import cast

import orjson

from signer.api import Envelope, KeyConfig, KeyUse, Pkcs11Key, SoftwareKey


class ConfigurationError(Exception):
    """The signer cannot start, or a key cannot be served, until somebody changes something. The text says what."""


@dataclass(frozen=True, slots=True)
class ProcessConfig:
    """All that the signer process knows about the world.

    `listen` is the path of a socket to make (mode 0600) or the number of an inherited listening descriptor. Peers whose uid
    is neither ours, root's nor in `allowed_uids` are turned away. With `parent`, a process id, the signer ends as soon as
    that process has ended.
    """

    listen: Path | int
    keys: tuple[KeyConfig, ...]
    allowed_uids: frozenset[int] = frozenset()
    parent: int | None = None


def dump(config: ProcessConfig) -> bytes:
    """JSON; what `parse` reads."""
    return orjson.dumps(
        {
            "listen": config.listen if isinstance(config.listen, int) else str(config.listen),
            "allowed_uids": sorted(config.allowed_uids),
            "parent": config.parent,
            "keys": [_dump_key(key) for key in config.keys],
        }
    )


def _dump_key(key: KeyConfig) -> dict[str, object]:
    source: dict[str, object]
    match key.source:
        case SoftwareKey(file, passphrase_file):
            source = {"software": {"file": str(file), "passphrase_file": str(passphrase_file) if passphrase_file else None}}
        case Pkcs11Key(module, token, label, pin_file):
            source = {"pkcs11": {"module": str(module), "token": token, "label": label, "pin_file": str(pin_file)}}
    envelope = key.envelope and {
        "issuer_certificate": base64.b64encode(key.envelope.issuer_certificate).decode("ascii"),
        "max_validity": int(key.envelope.max_validity.total_seconds()),
        "extended_key_usages": sorted(key.envelope.extended_key_usages),
        "messages": key.envelope.messages,
        "announcements": [base64.b64encode(content).decode("ascii") for content in sorted(key.envelope.announcements)],
    }
    return {"name": key.name, "use": key.use.value, "source": source, "envelope": envelope}


def parse(data: bytes) -> ProcessConfig:
    """Raises ConfigurationError, which names the key that is missing, unknown or of the wrong kind."""
    try:
        root = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ConfigurationError(f"the configuration is no JSON: {error}") from None
    fields = _object(root, "the configuration", {"listen", "allowed_uids", "parent", "keys"})
    listen = fields["listen"]
    if type(listen) is not int and not (isinstance(listen, str) and listen):
        raise ConfigurationError("listen: must be the path of a socket or the number of an open descriptor")
    keys = tuple(_parse_key(entry, f"keys[{at}]") for at, entry in enumerate(_list(fields["keys"], "keys")))
    names = [key.name for key in keys]
    if not keys or len(set(names)) != len(names):
        raise ConfigurationError("keys: there must be at least one, and each with its own name")
    return ProcessConfig(
        listen=listen if isinstance(listen, int) else Path(listen),
        keys=keys,
        allowed_uids=frozenset(_integer(uid, "allowed_uids", 0) for uid in _list(fields["allowed_uids"], "allowed_uids")),
        parent=None if fields["parent"] is None else _integer(fields["parent"], "parent", 1),
    )


def _parse_key(entry: object, where: str) -> KeyConfig:
    fields = _object(entry, where, {"name", "use", "source", "envelope"})
    name = _text(fields["name"], f"{where}.name")
    try:
        use = KeyUse(fields["use"])
    except ValueError:
        raise ConfigurationError(f"{where}.use: must be one of {', '.join(use.value for use in KeyUse)}") from None
    envelope = None if fields["envelope"] is None else _parse_envelope(fields["envelope"], f"{where}.envelope")
    if (envelope is not None) is not (use is KeyUse.ISSUER):
        raise ConfigurationError(f"{where}.envelope: an issuer key has one, an RA key has none")
    return KeyConfig(name=name, use=use, source=_parse_source(fields["source"], f"{where}.source"), envelope=envelope)


def _parse_source(entry: object, where: str) -> SoftwareKey | Pkcs11Key:
    match entry:
        case {"software": inner, **others} if not others:
            at = f"{where}.software"
            fields = _object(inner, at, {"file", "passphrase_file"})
            passphrase = fields["passphrase_file"]
            return SoftwareKey(
                file=Path(_text(fields["file"], f"{at}.file")),
                passphrase_file=None if passphrase is None else Path(_text(passphrase, f"{at}.passphrase_file")),
            )
        case {"pkcs11": inner, **others} if not others:
            at = f"{where}.pkcs11"
            fields = _object(inner, at, {"module", "token", "label", "pin_file"})
            return Pkcs11Key(
                module=Path(_text(fields["module"], f"{at}.module")),
                token=_text(fields["token"], f"{at}.token"),
                label=_text(fields["label"], f"{at}.label"),
                pin_file=Path(_text(fields["pin_file"], f"{at}.pin_file")),
            )
        case _:
            raise ConfigurationError(f"{where}: must be {{software: …}} or {{pkcs11: …}}")


def _parse_envelope(entry: object, where: str) -> Envelope:
    needed = {"issuer_certificate", "max_validity", "extended_key_usages"}
    fields = _object(entry, where, needed, frozenset({"messages", "announcements"}))
    announcements = _list(fields.get("announcements", []), f"{where}.announcements")
    usages = _list(fields["extended_key_usages"], f"{where}.extended_key_usages")
    return Envelope(
        issuer_certificate=_der(fields["issuer_certificate"], f"{where}.issuer_certificate"),
        max_validity=timedelta(seconds=_integer(fields["max_validity"], f"{where}.max_validity", 1)),
        extended_key_usages=frozenset(_text(usage, f"{where}.extended_key_usages") for usage in usages),
        messages=_switch(fields.get("messages", False), f"{where}.messages"),
        announcements=frozenset(_der(content, f"{where}.announcements") for content in announcements),
    )


def _object(value: object, where: str, names: set[str], optional: frozenset[str] = frozenset()) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{where}: must be an object")
    fields = cast("dict[str, object]", value)
    if wrong := (fields.keys() - optional) ^ names:
        raise ConfigurationError(f"{where}: {min(wrong)} is {'missing' if min(wrong) in names else 'unknown'}")
    return fields


def _list(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        raise ConfigurationError(f"{where}: must be a list")
    return cast("list[object]", value)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{where}: must be a text")
    return value


def _der(value: object, where: str) -> bytes:
    try:
        return base64.b64decode(_text(value, where), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationError(f"{where}: must be base64 of DER") from None


def _switch(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{where}: must be true or false")
    return value


def _integer(value: object, where: str, low: int) -> int:
    if type(value) is not int or not low <= value < 1 << 40:
        raise ConfigurationError(f"{where}: must be a number of at least {low}")
    return value
