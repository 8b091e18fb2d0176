"""What several commands of the command line take, and how each of them ends."""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer


class Output(enum.Enum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The configuration. Default: $CERTWRIGHT_CONFIG, ./certwright.yaml, ./var/certwright/certwright.yaml, "
        "/etc/certwright/certwright.yaml.",
    ),
]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="How to print it.")]
EndpointOption = Annotated[str, typer.Option("--endpoint", help="Which endpoint.")]
RoleOption = Annotated[list[str], typer.Option("--role", help="A role of the policies; may be given several times.")]
ProfileOption = Annotated[str, typer.Option("--profile", help="The default profile of its requests.")]
ExpiresOption = Annotated[str | None, typer.Option("--expires", help="A duration such as 90d. Default: never.")]


def finish(command: Callable[[], int]) -> None:
    """Every expected way to fail, with its exit code; the text goes to stderr."""
    from certwright import failures

    raise typer.Exit(failures.run(command))
