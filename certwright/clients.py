"""Command lines for real clients, ready to paste. Secrets stay in bootstrap.env: the lines read that file, they never repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from certwright import clients_acme
from certwright.config import Config


def command_for(client: str, config: Config) -> str:
    if client in clients_acme.FILES:
        return clients_acme.FILES[client](config)
    return f"{_environment(config)} && {COMMANDS[client](config)}"


def _environment(config: Config) -> str:
    """Works in sh; `set -a` for clients that read the environment."""
    return f"set -a && . {shlex.quote(str(env_file(config)))} && set +a"


def env_file(config: Config) -> Path:
    return config.file.absolute().parent / "bootstrap.env"


def _curl_est(_config: Config) -> str:
    return (
        "openssl req -new -newkey rsa:2048 -nodes -keyout device.key -subj /CN=device-1 -outform DER | openssl base64 | "
        'curl -fsS --cacert "$CERTWRIGHT_CA_FILE" --user "$CERTWRIGHT_EST_USER:$CERTWRIGHT_EST_PASSWORD" '
        '-H "Content-Type: application/pkcs10" --data-binary @- "$CERTWRIGHT_EST_URL/.well-known/est/simpleenroll" | '
        "base64 -d | openssl pkcs7 -inform DER -print_certs -out device.pem"
    )


def _curl_est_renew(_config: Config) -> str:
    """What `curl-est` has left behind renews itself: same names, same key."""
    return (
        "openssl x509 -x509toreq -copy_extensions copy -in device.pem -signkey device.key | openssl req -outform DER | openssl base64 | "
        'curl -fsS --cacert "$CERTWRIGHT_CA_FILE" --cert device.pem --key device.key '
        '-H "Content-Type: application/pkcs10" --data-binary @- "$CERTWRIGHT_EST_URL/.well-known/est/simplereenroll" | '
        "base64 -d | openssl pkcs7 -inform DER -print_certs -out renewed.pem"
    )


def _strongswan_est(_config: Config) -> str:
    return (
        "pki --gen --type rsa --size 2048 --outform pem > device.key && "
        'pki --req --in device.key --type rsa --dn "CN=device-1" > device.csr && '
        'pki --est --url "$CERTWRIGHT_EST_URL" --in device.csr --cacert "$CERTWRIGHT_CA_FILE" '
        '--userpass "$CERTWRIGHT_EST_USER:$CERTWRIGHT_EST_PASSWORD" --outform pem > device.pem'
    )


def _scep(config: Config) -> str:
    """The challenge goes to nobody but a registration authority that our root has certified."""
    return (
        'pki --scepca --url "$CERTWRIGHT_SCEP_URL" --caout ca.pem --raout ra.pem --outform pem && '
        f'cat {" ".join(_ca_files(config))} > chain.pem && openssl verify -CAfile "$CERTWRIGHT_CA_FILE" -untrusted chain.pem ra.pem && '
        "pki --gen --type rsa --size 2048 --outform pem > router.key && "
        f'{_pki_scep(config)} --in router.key --password "$CERTWRIGHT_SCEP_CHALLENGE" --outform pem > router.pem'
    )


def _scep_renew(config: Config) -> str:
    """What `scep` has left behind renews itself, with a new key."""
    return (
        "pki --gen --type rsa --size 2048 --outform pem > renewed.key && "
        f"{_pki_scep(config)} --in renewed.key --cert router.pem --key router.key --outform pem > renewed.pem"
    )


def _pki_scep(config: Config) -> str:
    authorities = " ".join(f"--cacert {file}" for file in _ca_files(config))
    return (
        'pki --scep --url "$CERTWRIGHT_SCEP_URL" --dn CN=router-1 --cipher aes --digest sha256 '
        f"--cacert-enc ra.pem --cacert-sig ra.pem {authorities}"
    )


def _ca_files(config: Config) -> list[str]:
    """As `pki --scepca --caout ca.pem` names them: the issuing CA and what is above it, in whatever order."""
    settings = config.scep.get("default")
    above = len(config.issuers[config.profiles.get(settings.profile).issuer].chain) if settings is not None else 1
    return ["ca.pem", *(f"ca-{number}.pem" for number in range(1, above + 1))]


def _certmonger(_config: Config) -> str:
    """It reads the CA's certificates when it is told of the CA, and a request before that waits for its next round."""
    return (
        'getcert add-scep-ca -c certwright -u "$CERTWRIGHT_SCEP_URL" && sleep 3 && '
        '(umask 077 && printf %s "$CERTWRIGHT_SCEP_CHALLENGE" > router.challenge) && '
        'getcert request -c certwright -k "$PWD/router.key" -f "$PWD/router.pem" -l "$PWD/router.challenge" '
        "-N CN=router-1 -g 2048 -w -v"
    )


def _rest(config: Config) -> str:
    name = clients_acme.name_of(config)
    return (
        f"openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -subj / "
        f"-addext subjectAltName=DNS:{name} | "
        'curl -fsS --cacert "$CERTWRIGHT_CA_FILE" --oauth2-bearer "$CERTWRIGHT_API_KEY" -H "Accept: application/pem-certificate-chain" '
        f'-H "Content-Type: application/x-pem-file" --data-binary @- -o {name}.pem "$CERTWRIGHT_BASE_URL/api/v1/certificates"'
    )


COMMANDS: Mapping[str, Callable[[Config], str]] = {
    **clients_acme.SHELL,
    "curl-est": _curl_est,
    "curl-est-renew": _curl_est_renew,
    "strongswan-est": _strongswan_est,
    "scep": _scep,
    "scep-renew": _scep_renew,
    "certmonger": _certmonger,
    "rest": _rest,
}


def welcome(config: Config, fingerprint: str, root: Path) -> str:
    """What `up` prints: every URL, and one line for each kind of client."""
    host = urlsplit(config.base_url).hostname or "localhost"
    shown = f"[{host}]" if ":" in host else host
    urls = [
        *[("ACME", f"{config.base_url}/acme/{'' if name == 'default' else name + '/'}directory") for name in config.acme],
        *([("EST", f"https://{shown}:{config.listen.mtls[1]}/.well-known/est")] if config.listen.mtls and config.est else []),
        *[("SCEP", f"{config.http_url}/scep{'' if name == 'default' else '/' + name}") for name in config.scep],
        ("REST", f"{config.base_url}/api/v1/certificates   (described at /api/openapi.json)"),
        ("roots", f"{config.http_url}/roots.pem"),
        *[
            (f"CRL, OCSP {name}", f"{config.http_url}/crl/{name}.crl   {config.http_url}/ocsp/{name}")
            for name in config.issuers
        ],
        ("health", f"{config.http_url}/readyz?verbose"),
        *(
            [("metrics", f"http://{config.listen.metrics[0]}:{config.listen.metrics[1]}/metrics")]
            if config.listen.metrics
            else []
        ),
    ]
    lines = [f"{what:<18} {url}" for what, url in urls]
    lines += [
        "",
        f"{'configuration':<18} {config.file}",
        f"{'root certificate':<18} {root}",
        f"{'root SHA-256':<18} {fingerprint}",
    ]
    for client, text in (
        ("certbot", "ACME, certbot"),
        ("curl-est", "EST, curl"),
        ("scep", "SCEP, strongSwan"),
        ("rest", "REST, curl"),
    ):
        lines += ["", f"# {text}", command_for(client, config)]
    return "\n".join(lines) + "\n"
