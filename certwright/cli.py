"""The command line: what there is, with which options. What it does is in commands.py, imported only when a command runs.

Exit codes: 0 done; 1 refused, or not found, or a check failed; 2 the command line makes no sense; 3 the configuration is not
valid; 4 something that it takes is away (database, signer, a port).
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from certwright.cli_acme import eab, renewal
from certwright.cli_est import est
from certwright.cli_options import (
    ConfigOption,
    ExpiresOption,
    Output,
    OutputOption,
    ProfileOption,
    RoleOption,
    finish,
)
from certwright.cli_scep import scep

EXIT_CODES = """\b
Exit codes: 0 done · 1 refused, not found or a check failed · 2 wrong usage
3 the configuration is not valid · 4 something needed is away (database, signer, port)"""

app = typer.Typer(
    name="certwright",
    help="Certwright issues certificates: one pipeline behind ACME, EST, SCEP and REST.\n\n"
    "A first server, here and now: certwright up\n\n" + EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _group(name: str, text: str) -> typer.Typer:
    group = typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(group, name=name)
    return group


db = _group("db", "The database: is its schema this program's?")
apikey = _group("apikey", "API keys of programs and operators.")
app.add_typer(est, name="est")
app.add_typer(scep, name="scep")
app.add_typer(eab, name="eab")
cert = _group("cert", "Certificates: list, show, revoke.")
requests = _group("requests", "Requests that wait for an approval: list, show, approve, deny.")
app.add_typer(renewal, name="renewal")
profile = _group("profile", "Profiles: what certificates look like.")
keys = _group("keys", "Keys that are refused: lists of compromised ones.")
ca = _group("ca", "The CA: its issuers, its own server certificate.")


class Client(enum.Enum):
    CERTBOT = "certbot"
    LEGO = "lego"
    ACME_SH = "acme.sh"
    ACME_TINY = "acme-tiny"
    DEHYDRATED = "dehydrated"
    UACME = "uacme"
    CADDY = "caddy"
    MOD_MD = "mod_md"
    TRAEFIK = "traefik"
    CERT_MANAGER = "cert-manager"
    NODE = "node"
    CURL_EST = "curl-est"
    CURL_EST_RENEW = "curl-est-renew"
    STRONGSWAN_EST = "strongswan-est"
    SCEP = "scep"
    SCEP_RENEW = "scep-renew"
    CERTMONGER = "certmonger"
    REST = "rest"


class RequestState(enum.Enum):
    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    ISSUED = "issued"
    EXPIRED = "expired"
    ALL = "all"


class RevocationWord(enum.Enum):
    """RFC 5280's reasons that an owner may give, as words."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "key-compromise"
    AFFILIATION_CHANGED = "affiliation-changed"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessation-of-operation"
    PRIVILEGE_WITHDRAWN = "privilege-withdrawn"


BaseUrlOption = Annotated[
    str | None,
    typer.Option(
        "--base-url", help="What clients call, such as https://ca.example.com:8443. Default: https://localhost:<port>."
    ),
]
ListenOption = Annotated[
    str | None, typer.Option("--listen-address", help="Default: localhost when the base URL is there, else every address.")
]
HttpsPortOption = Annotated[int, typer.Option("--https-port", min=1, max=65535, help="ACME, REST, SCEP.")]
MtlsPortOption = Annotated[int, typer.Option("--mtls-port", min=1, max=65535, help="EST.")]
HttpPortOption = Annotated[int, typer.Option("--http-port", min=1, max=65535, help="SCEP, CRL, OCSP.")]
MetricsPortOption = Annotated[int, typer.Option("--metrics-port", min=1, max=65535, help="Prometheus, on 127.0.0.1 only.")]
NameOption = Annotated[
    list[str], typer.Option("--name", help="One more name or address for the server certificate; may be given several times.")
]
DatabaseOption = Annotated[
    str | None,
    typer.Option("--database", help="postgresql://user@host/name, or sqlite:FILE. Default: an SQLite file in the directory."),
]
Http01Option = Annotated[
    int | None,
    typer.Option(
        "--http01-port", min=1, max=65535, help="Where http-01 is validated. Default: 80; 5002 when the base URL is localhost."
    ),
]


@app.command(epilog="Example: certwright init --dir /etc/certwright --base-url https://ca.example.com:8443")
def init(
    *,
    directory: Annotated[Path, typer.Option("--dir", help="What to make; must not exist or be empty.")] = Path(
        "var/certwright"
    ),
    base_url: BaseUrlOption = None,
    listen_address: ListenOption = None,
    https_port: HttpsPortOption = 8443,
    mtls_port: MtlsPortOption = 9443,
    http_port: HttpPortOption = 8080,
    metrics_port: MetricsPortOption = 9464,
    name: NameOption = [],  # noqa: B006  # typer's way; nobody changes it
    database: DatabaseOption = None,
    http01_port: Http01Option = None,
) -> None:
    """Make a CA: root, issuing CAs, server certificate, configuration, database, first credentials. All of it or nothing."""
    from certwright import commands
    from certwright.init import Options

    options = Options(
        directory, base_url, listen_address, https_port, mtls_port, http_port, metrics_port, tuple(name), database, http01_port
    )
    finish(lambda: commands.init(options))


@app.command(epilog="Example: certwright up        (then, in another terminal, one of the command lines that it prints)")
def up(
    *,
    directory: Annotated[Path, typer.Option("--dir", help="Where it lives; made when it is not there.")] = Path(
        "var/certwright"
    ),
    base_url: BaseUrlOption = None,
    listen_address: ListenOption = None,
    https_port: HttpsPortOption = 8443,
    mtls_port: MtlsPortOption = 9443,
    http_port: HttpPortOption = 8080,
    metrics_port: MetricsPortOption = 9464,
    name: NameOption = [],  # noqa: B006  # typer's way; nobody changes it
    database: DatabaseOption = None,
    http01_port: Http01Option = None,
) -> None:
    """Init when there is nothing, then serve; prints every URL and a ready command line for each kind of client."""
    from certwright import commands
    from certwright.init import Options

    options = Options(
        directory, base_url, listen_address, https_port, mtls_port, http_port, metrics_port, tuple(name), database, http01_port
    )
    finish(lambda: commands.up(options))


@app.command(epilog="Example: certwright serve --config /etc/certwright/certwright.yaml --workers 2")
def serve(
    config: ConfigOption = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, max=256, help="Instead of `workers` in the file.")] = None,
) -> None:
    """Serve until SIGTERM, which drains. SIGHUP reads the configuration again; a mistake in it changes nothing."""
    from certwright import commands

    finish(lambda: commands.serve(config, workers))


@app.command(epilog="Example: certwright check --config certwright.yaml && systemctl reload certwright")
def check(config: ConfigOption = None) -> None:
    """Is the configuration right, and will a server with it be well? Every finding says what to change."""
    from certwright import commands

    finish(lambda: commands.check(config))


@app.command(
    epilog="Example: certwright perspective --listen 0.0.0.0:9444 --certificate agent.pem --key agent.key --client-ca ca.pem"
)
def perspective(
    *,
    listen: Annotated[str, typer.Option("--listen", metavar="ADDRESS:PORT", help="Where the server's questions come in.")],
    certificate: Annotated[Path, typer.Option("--certificate", help="The agent's own, PEM, leaf first.")],
    key: Annotated[Path, typer.Option("--key", help="Its key, PEM, not encrypted.")],
    client_ca: Annotated[Path, typer.Option("--client-ca", help="Who asks must have a certificate of this CA (PEM).")],
    resolver: Annotated[
        list[str], typer.Option("--resolver", metavar="ADDRESS[:PORT]", help="A DNS server. Default: the system's.")
    ] = [],  # noqa: B006  # typer's way; nobody changes it
    require_dnssec: Annotated[
        bool, typer.Option("--require-dnssec", help="Believe only what the resolver says that DNSSEC proved.")
    ] = False,
    http01_port: Annotated[int, typer.Option("--http01-port", min=1, max=65535)] = 80,
    tlsalpn01_port: Annotated[int, typer.Option("--tlsalpn01-port", min=1, max=65535)] = 443,
    allow_network: Annotated[
        list[str], typer.Option("--allow-network", help="A special-purpose network that may be validated, such as 10.0.0.0/8.")
    ] = [],  # noqa: B006  # typer's way; nobody changes it
    at_once: Annotated[int, typer.Option("--at-once", min=1, max=4096, help="Questions answered at the same time.")] = 1024,
) -> None:
    """Validate on behalf of a server elsewhere, from where this machine is. Needs no configuration, database or CA key."""
    from certwright.perspective import Options, run

    options = Options(
        listen=listen,
        certificate=certificate,
        key=key,
        client_ca=client_ca,
        resolvers=tuple(resolver),
        require_dnssec=require_dnssec,
        http01_port=http01_port,
        tlsalpn01_port=tlsalpn01_port,
        allow_networks=tuple(allow_network),
        at_once=at_once,
    )
    finish(lambda: run(options))


@db.command("status", epilog="Example: certwright db status -o json")
def db_status(config: ConfigOption = None, output: OutputOption = Output.TABLE) -> None:
    """Which migrations the database has, and which it lacks."""
    from certwright import commands

    finish(lambda: commands.db_status(config, output))


@db.command("upgrade", epilog="Example: certwright db upgrade")
def db_upgrade(config: ConfigOption = None) -> None:
    """Bring the database to this program's schema."""
    from certwright import commands

    finish(lambda: commands.db_upgrade(config))


@apikey.command("create", epilog="Example: certwright apikey create --role operator --profile tls-server --expires 90d")
def apikey_create(
    config: ConfigOption = None,
    role: RoleOption = ["operator"],  # noqa: B006  # typer's way; nobody changes it
    profile_name: ProfileOption = "",
    expires: ExpiresOption = None,
) -> None:
    """Make a key and print it; it is never shown again."""
    from certwright import admin

    finish(lambda: admin.apikey_create(config, role, profile_name, expires))


@apikey.command("list", epilog="Example: certwright apikey list")
def apikey_list(config: ConfigOption = None, output: OutputOption = Output.TABLE) -> None:
    """Every key by its id, with its roles and whether it still opens anything."""
    from certwright import admin

    finish(lambda: admin.apikey_list(config, output))


@apikey.command("disable", epilog="Example: certwright apikey disable 0123456789abcdef")
def apikey_disable(key_id: Annotated[str, typer.Argument(metavar="ID")], config: ConfigOption = None) -> None:
    """End a key at once, on every node."""
    from certwright import admin

    finish(lambda: admin.apikey_disable(config, key_id))


@cert.command("list", epilog="Example: certwright cert list --limit 20 -o json")
def cert_list(
    config: ConfigOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000)] = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """The newest certificates."""
    from certwright import admin

    finish(lambda: admin.cert_list(config, limit, output))


@cert.command("show", epilog="Example: certwright cert show 2f6c9a… -o json")
def cert_show(
    serial: Annotated[str, typer.Argument(help="In hex; colons do not matter.")],
    config: ConfigOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """One certificate, with its chain in PEM."""
    from certwright import admin

    finish(lambda: admin.cert_show(config, serial, output))


@cert.command("revoke", epilog="Example: certwright cert revoke 2f6c9a… --reason key-compromise")
def cert_revoke(
    serial: Annotated[str, typer.Argument(help="In hex; colons do not matter.")],
    config: ConfigOption = None,
    reason: Annotated[RevocationWord, typer.Option("--reason")] = RevocationWord.UNSPECIFIED,
) -> None:
    """Revoke for good. OCSP says so at once, the next CRL within seconds."""
    from certwright import admin

    finish(lambda: admin.cert_revoke(config, serial, reason.name))


@requests.command("list", epilog="Example: certwright requests list --state all -o json")
def requests_list(
    config: ConfigOption = None,
    state: Annotated[RequestState, typer.Option("--state", help="Only those that are in this state.")] = RequestState.PENDING,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000)] = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """What waits for an approval, or what became of it; the newest first."""
    from certwright import admin_requests

    finish(lambda: admin_requests.show_list(config, state.value, limit, output))


@requests.command("show", epilog="Example: certwright requests show 0123456789abcdef0123456789abcdef")
def requests_show(
    request_id: Annotated[str, typer.Argument(metavar="ID")], config: ConfigOption = None, output: OutputOption = Output.TABLE
) -> None:
    """One request: who asks, from where, with which key, and what the certificate would look like."""
    from certwright import admin_requests

    finish(lambda: admin_requests.show(config, request_id, output))


@requests.command(
    "approve", epilog="Example: certwright requests approve 0123456789abcdef0123456789abcdef --comment 'ticket 4711'"
)
def requests_approve(
    request_id: Annotated[str, typer.Argument(metavar="ID")],
    config: ConfigOption = None,
    comment: Annotated[str, typer.Option("--comment", help="Kept with the decision.")] = "",
) -> None:
    """Agree: the client gets its certificate when it asks again. One approval is for one certificate."""
    from certwright import admin_requests

    finish(lambda: admin_requests.approve(config, request_id, comment))


@requests.command("deny", epilog="Example: certwright requests deny 0123456789abcdef0123456789abcdef --reason 'no such device'")
def requests_deny(
    request_id: Annotated[str, typer.Argument(metavar="ID")],
    reason: Annotated[str, typer.Option("--reason", help="Kept with the decision; the client is told.")],
    config: ConfigOption = None,
) -> None:
    """Refuse: the client is told so, and why, for 30 days."""
    from certwright import admin_requests

    finish(lambda: admin_requests.deny(config, request_id, reason))


@profile.command("list", epilog="Example: certwright profile list -o yaml")
def profile_list(config: ConfigOption = None, output: OutputOption = Output.TABLE) -> None:
    """Every profile: issuer, validity and usages, with the defaults filled in."""
    from certwright import admin

    finish(lambda: admin.profile_list(config, output))


@keys.command("block", epilog="Example: certwright keys block compromised.txt")
def keys_block(
    file: Annotated[Path, typer.Argument(help="SHA-256 of an SPKI (hex) on each line, or PEM public keys and certificates.")],
    config: ConfigOption = None,
    reason: Annotated[str, typer.Option("--reason", help="Where they come from; kept with each.")] = "listed",
) -> None:
    """Refuse these keys from now on, for certificates and accounts. Names the valid certificates that have one."""
    from certwright import admin_keys

    finish(lambda: admin_keys.block(config, file, reason))


@ca.command("list", epilog="Example: certwright ca list")
def ca_list(config: ConfigOption = None, output: OutputOption = Output.TABLE) -> None:
    """The issuers: names, expiry, fingerprints."""
    from certwright import admin

    finish(lambda: admin.ca_list(config, output))


@ca.command("renew-server", epilog="Example: certwright ca renew-server && systemctl reload certwright")
def ca_renew_server(config: ConfigOption = None) -> None:
    """Make a new key and certificate for our own listeners, with the names of the old one, by the issuer `issuing`."""
    from certwright import admin

    finish(lambda: admin.ca_renew_server(config))


@app.command("client-config", epilog="Example: certwright client-config certbot")
def client_config(client: Annotated[Client, typer.Argument()], config: ConfigOption = None) -> None:
    """A command line for a client, with this server's URLs and names in it."""
    from certwright import commands

    finish(lambda: commands.client_config(config, client.value))


def main() -> None:
    """`certwright`, as installed."""
    app(prog_name="certwright")


if __name__ == "__main__":
    main()
