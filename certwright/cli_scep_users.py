"""`certwright scep user …`: what there is, with which options. What it does is in admin_scep_users.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from certwright.cli_options import ConfigOption, EndpointOption, Output, OutputOption, finish

user = typer.Typer(
    help="Users of a SCEP endpoint's challenge page, which Windows calls mscep_admin.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

UserArgument = Annotated[str, typer.Argument(metavar="NAME")]


@user.command("add", epilog="Example: certwright scep user add portal-1 --endpoint default")
def user_add(
    name: UserArgument,
    *,
    config: ConfigOption = None,
    endpoint: EndpointOption = "default",
    password_file: Annotated[
        Path | None, typer.Option("--password-file", help="Default: a new one is made and printed.")
    ] = None,
) -> None:
    """Add a user, or change the password of one: that ends the old one, and the challenges that were given for it."""
    from certwright import admin_scep_users

    finish(lambda: admin_scep_users.user_add(config, name, endpoint=endpoint, password_file=password_file))


@user.command("list", epilog="Example: certwright scep user list -o json")
def user_list(config: ConfigOption = None, output: OutputOption = Output.TABLE) -> None:
    """Every user of every endpoint, and whether they still open anything."""
    from certwright import admin_scep_users

    finish(lambda: admin_scep_users.user_list(config, output))


@user.command("disable", epilog="Example: certwright scep user disable portal-1 --endpoint default")
def user_disable(name: UserArgument, config: ConfigOption = None, endpoint: EndpointOption = "default") -> None:
    """End a user's password at once, on every node, and with it the challenges that they were given."""
    from certwright import admin_scep_users

    finish(lambda: admin_scep_users.user_disable(config, name, endpoint))
