"""`certwright scep …`: what there is, with which options. What it does is in admin_scep.py, imported only when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from certwright.cli_options import ConfigOption, EndpointOption, Output, OutputOption, ProfileOption, RoleOption, finish
from certwright.cli_scep_users import user

scep = typer.Typer(help="SCEP: challenge passwords, and who may get them.", no_args_is_help=True, rich_markup_mode=None)
challenge = typer.Typer(
    help="Challenge passwords of a SCEP endpoint: static ones, which open until they end, and those that open once.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
scep.add_typer(challenge, name="challenge")
scep.add_typer(user, name="user")


@challenge.command("set", epilog="Example: certwright scep challenge set --endpoint default --name printers --role printer")
def challenge_set(
    *,
    config: ConfigOption = None,
    endpoint: EndpointOption = "default",
    name: Annotated[str, typer.Option("--name", help="Of several. Default: the one without a name.")] = "",
    role: RoleOption = ["device"],  # noqa: B006  # typer's way; nobody changes it
    profile_name: ProfileOption = "",
    challenge_file: Annotated[
        Path | None, typer.Option("--challenge-file", help="Default: a new one is made and printed.")
    ] = None,
) -> None:
    """Set a static challenge password; the one of this name before it ends."""
    from certwright import admin_scep

    finish(
        lambda: admin_scep.challenge_set(
            config, endpoint, name=name, roles=role, profile=profile_name, challenge_file=challenge_file
        )
    )


@challenge.command(
    "create", epilog="Example: certwright scep challenge create --subject CN=router7 --san router7.example.com --expires 1h"
)
def challenge_create(
    *,
    config: ConfigOption = None,
    endpoint: EndpointOption = "default",
    subject: Annotated[
        str | None, typer.Option("--subject", metavar="DN", help="The request's subject, such as CN=router7,O=Example.")
    ] = None,
    san: Annotated[
        list[str], typer.Option("--san", metavar="NAME", help="dns:NAME, ip:ADDRESS, or either bare. All of them, one each.")
    ] = [],  # noqa: B006  # typer's way; nobody changes it
    any_name: Annotated[bool, typer.Option("--any-name", help="For whatever the policies grant to its roles.")] = False,
    role: RoleOption = ["device"],  # noqa: B006  # typer's way; nobody changes it
    profile_name: Annotated[str, typer.Option("--profile", help="Of its certificate. Default: the endpoint's.")] = "",
    expires: Annotated[str, typer.Option("--expires", help="A duration such as 1h, at most 30d.")] = "1h",
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a challenge that opens once, for one request, and print it; it is never shown again.

    With another request than the one it was made for, it opens nothing, and nothing any more.
    """
    from certwright import admin_scep

    finish(
        lambda: admin_scep.challenge_create(
            config,
            endpoint,
            subject=subject,
            names=san,
            any_name=any_name,
            roles=role,
            profile=profile_name,
            expires=expires,
            form=output,
        )
    )


@challenge.command("list", epilog="Example: certwright scep challenge list -o json")
def challenge_list(
    config: ConfigOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Of those that open once.")] = 100,
    output: OutputOption = Output.TABLE,
) -> None:
    """The static ones, then the newest of those that open once, with what became of each. The challenges are not shown."""
    from certwright import admin_scep

    finish(lambda: admin_scep.challenge_list(config, limit, output))


@challenge.command("disable", epilog="Example: certwright scep challenge disable default:printers")
def challenge_disable(
    challenge_id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")], config: ConfigOption = None
) -> None:
    """End a challenge at once, on every node. What was issued by it stays valid."""
    from certwright import admin_scep

    finish(lambda: admin_scep.challenge_disable(config, challenge_id))
