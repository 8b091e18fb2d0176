"""`certwright eab …` and `certwright renewal …`: what there is for ACME, with which options. What it does is imported only when a command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from certwright.cli_options import (
    ConfigOption,
    EndpointOption,
    Output,
    OutputOption,
    finish,
)


def _group(text: str) -> typer.Typer:
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None)


eab = _group("External account binding: keys that bind ACME accounts to somebody you know.")
renewal = _group("Renewals: have clients renew a set of certificates early (ACME Renewal Information).")


@eab.command("create", epilog="Example: certwright eab create --role web --names '*.example.com' --expires 90d")
def eab_create(
    *,
    config: ConfigOption = None,
    endpoint: EndpointOption = "default",
    role: Annotated[
        list[str], typer.Option("--role", help="In place of the endpoint's roles; may be given several times.")
    ] = [],  # noqa: B006  # typer's way; nobody changes it
    names: Annotated[
        list[str],
        typer.Option("--names", metavar="PATTERN", help="Names that the account owns, and no others; several times or none."),
    ] = [],  # noqa: B006  # typer's way; nobody changes it
    profile_name: Annotated[
        list[str], typer.Option("--profile", help="A profile that it may use; default: all of the endpoint's.")
    ] = [],  # noqa: B006  # typer's way; nobody changes it
    expires: Annotated[
        str | None, typer.Option("--expires", help="Until when accounts can be bound, such as 90d. Default: for ever.")
    ] = None,
    reusable: Annotated[bool, typer.Option("--reusable", help="For any number of accounts. Default: for one.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a key and print it with command lines that register; the HMAC key is never shown again."""
    from certwright import admin_eab

    finish(
        lambda: admin_eab.create(
            config,
            endpoint=endpoint,
            roles=role,
            names=names,
            profiles=profile_name,
            expires=expires,
            reusable=reusable,
            form=output,
        )
    )


@eab.command("list", epilog="Example: certwright eab list -o json")
def eab_list(config: ConfigOption = None, output: OutputOption = Output.TABLE) -> None:
    """Every key with what it gives, and how many accounts are bound to it. The HMAC keys are not shown."""
    from certwright import admin_eab

    finish(lambda: admin_eab.show(config, output))


@eab.command("revoke", epilog="Example: certwright eab revoke 0123456789abcdef0123")
def eab_revoke(kid: Annotated[str, typer.Argument(metavar="KID")], config: ConfigOption = None) -> None:
    """End a key, and the rights of every account that is bound to it, at once and on every node."""
    from certwright import admin_eab

    finish(lambda: admin_eab.revoke(config, kid))


@renewal.command(
    "pull",
    epilog="Example: certwright renewal pull --issuer issuing --before 2026-11-23T12:00:00Z --within 24h "
    "--reason-url https://ca.example.com/incident",
)
def renewal_pull(
    *,
    issuer: Annotated[str, typer.Option("--issuer", help="Whose certificates.")],
    config: ConfigOption = None,
    profile_name: Annotated[str, typer.Option("--profile", help="Only those of this profile.")] = "",
    issued_from: Annotated[str | None, typer.Option("--from", help="Issued since then; UTC. Default: ever.")] = None,
    before: Annotated[str | None, typer.Option("--before", help="Issued before then; UTC. Default: now.")] = None,
    within: Annotated[str, typer.Option("--within", help="Clients choose a moment between now and then.")] = "24h",
    reason_url: Annotated[str, typer.Option("--reason-url", help="A page that says why; clients show it.")] = "",
) -> None:
    """Have clients that ask (ARI) renew these certificates soon. It revokes nothing."""
    from certwright import renewals

    finish(
        lambda: renewals.pull(
            config,
            issuer=issuer,
            profile=profile_name,
            issued_from=issued_from,
            before=before,
            within=within,
            explanation_url=reason_url,
        )
    )


@renewal.command("list", epilog="Example: certwright renewal list -o json")
def renewal_list(config: ConfigOption = None, output: OutputOption = Output.TABLE) -> None:
    """Every such decision, oldest first."""
    from certwright import renewals

    finish(lambda: renewals.show(config, output))


@renewal.command("withdraw", epilog="Example: certwright renewal withdraw 2vSJ…")
def renewal_withdraw(pull_id: Annotated[str, typer.Argument(metavar="ID")], config: ConfigOption = None) -> None:
    """End a decision: the certificates have their ordinary windows again."""
    from certwright import renewals

    finish(lambda: renewals.withdraw(config, pull_id))
