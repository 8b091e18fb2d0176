"""`certwright est …`: what there is, with which options. What it does is in admin_est.py, imported only when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from certwright.cli_options import (
    ConfigOption,
    EndpointOption,
    ExpiresOption,
    Output,
    OutputOption,
    ProfileOption,
    RoleOption,
    finish,
)

est = typer.Typer(help="EST: who may come, by password, token, secret or key.", no_args_is_help=True, rich_markup_mode=None)


def _group(name: str, text: str) -> typer.Typer:
    group = typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None)
    est.add_typer(group, name=name)
    return group


user = _group("user", "Users of an EST endpoint: HTTP Basic, and Digest where the endpoint takes it.")
token = _group("token", "Bearer tokens of an EST endpoint.")
secret = _group("secret", "Shared secrets, by which CMC clients prove who they are (RFC 5272 identityProofV2).")
key = _group("key", "Keys that private keys made here are encrypted to on their way (RFC 7030 section 4.4.1.1).")

UserArgument = Annotated[str, typer.Argument(metavar="NAME")]
IdentificationOption = Annotated[str, typer.Option("--identification", help="By which its client names it.")]
KeyIdOption = Annotated[str, typer.Option("--id", metavar="HEX", help="What the device sends as DecryptKeyIdentifier.")]


@user.command("add", epilog="Example: certwright est user add printer-7 --role device --profile device")
def user_add(
    name: UserArgument,
    *,
    config: ConfigOption = None,
    endpoint: EndpointOption = "default",
    role: RoleOption = ["device"],  # noqa: B006  # typer's way; nobody changes it
    profile_name: ProfileOption = "",
    password_file: Annotated[
        Path | None, typer.Option("--password-file", help="Default: a new one is made and printed.")
    ] = None,
) -> None:
    """Add a user, or change the password of one."""
    from certwright import admin_est

    finish(
        lambda: admin_est.user_add(
            config, name, endpoint=endpoint, roles=role, profile=profile_name, password_file=password_file
        )
    )


@user.command("list", epilog="Example: certwright est user list -o json")
def user_list(config: ConfigOption = None, output: OutputOption = Output.TABLE) -> None:
    """Every user of every endpoint, with their roles and whether they still open anything."""
    from certwright import admin_est

    finish(lambda: admin_est.user_list(config, output))


@user.command("disable", epilog="Example: certwright est user disable printer-7 --endpoint default")
def user_disable(name: UserArgument, config: ConfigOption = None, endpoint: EndpointOption = "default") -> None:
    """End a user's password at once, on every node. What was issued to them stays valid."""
    from certwright import admin_est

    finish(lambda: admin_est.user_disable(config, name, endpoint))


@token.command("create", epilog="Example: certwright est token create --endpoint default --role device --expires 90d")
def token_create(
    *,
    config: ConfigOption = None,
    endpoint: EndpointOption = "default",
    role: RoleOption = ["device"],  # noqa: B006  # typer's way; nobody changes it
    profile_name: ProfileOption = "",
    expires: ExpiresOption = None,
) -> None:
    """Make a token and print it; it is never shown again. Clients send it as Authorization: Bearer."""
    from certwright import admin_est

    finish(lambda: admin_est.token_create(config, endpoint=endpoint, roles=role, profile=profile_name, expires=expires))


@token.command("list", epilog="Example: certwright est token list")
def token_list(config: ConfigOption = None, output: OutputOption = Output.TABLE) -> None:
    """Every token by its id, with its endpoint and whether it still opens anything."""
    from certwright import admin_est

    finish(lambda: admin_est.token_list(config, output))


@token.command("disable", epilog="Example: certwright est token disable 0123456789abcdef")
def token_disable(token_id: Annotated[str, typer.Argument(metavar="ID")], config: ConfigOption = None) -> None:
    """End a token at once, on every node."""
    from certwright import admin_est

    finish(lambda: admin_est.token_disable(config, token_id))


@secret.command("create", epilog="Example: certwright est secret create --identification router-7 --role device")
def secret_create(
    *,
    identification: IdentificationOption,
    config: ConfigOption = None,
    endpoint: EndpointOption = "default",
    role: RoleOption = ["device"],  # noqa: B006  # typer's way; nobody changes it
    profile_name: ProfileOption = "",
    expires: ExpiresOption = None,
    secret_file: Annotated[Path | None, typer.Option("--secret-file", help="Default: a new one is made and printed.")] = None,
) -> None:
    """Make a shared secret and print it, or replace one; it is never shown again."""
    from certwright import admin_est

    finish(
        lambda: admin_est.secret_create(
            config, identification, endpoint=endpoint, roles=role, profile=profile_name, expires=expires, file=secret_file
        )
    )


@secret.command("list", epilog="Example: certwright est secret list")
def secret_list(config: ConfigOption = None, output: OutputOption = Output.TABLE) -> None:
    """Every shared secret by its identification. The secrets are not shown."""
    from certwright import admin_est

    finish(lambda: admin_est.secret_list(config, output))


@secret.command("disable", epilog="Example: certwright est secret disable --identification router-7")
def secret_disable(
    *, identification: IdentificationOption, config: ConfigOption = None, endpoint: EndpointOption = "default"
) -> None:
    """End a shared secret at once, on every node."""
    from certwright import admin_est

    finish(lambda: admin_est.secret_disable(config, identification, endpoint))


@key.command("create", epilog="Example: certwright est key create --id 0badcafe")
def key_create(
    *,
    key_id: KeyIdOption,
    config: ConfigOption = None,
    endpoint: EndpointOption = "default",
    expires: ExpiresOption = None,
    key_file: Annotated[
        Path | None, typer.Option("--key-file", help="An AES key in hex. Default: a new one is made and printed.")
    ] = None,
) -> None:
    """Make a key-encryption key and print it, or replace one; it is never shown again."""
    from certwright import admin_est

    finish(lambda: admin_est.key_create(config, key_id, endpoint=endpoint, expires=expires, file=key_file))


@key.command("list", epilog="Example: certwright est key list")
def key_list(config: ConfigOption = None, output: OutputOption = Output.TABLE) -> None:
    """Every key-encryption key by its id. The keys are not shown."""
    from certwright import admin_est

    finish(lambda: admin_est.key_list(config, output))


@key.command("disable", epilog="Example: certwright est key disable --id 0badcafe")
def key_disable(*, key_id: KeyIdOption, config: ConfigOption = None, endpoint: EndpointOption = "default") -> None:
    """End a key-encryption key at once, on every node."""
    from certwright import admin_est

    finish(lambda: admin_est.key_disable(config, key_id, endpoint))
