"""What ACME clients are told, client by client. Where the name is this machine's, each can be pasted as it is and works.

Law of this file: interop/test_readme_commands.py runs every one whose client Debian, PyPI or npm have, as it is printed.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from certwright.config import Config
from certwright.init import is_loopback

_REPLACED = "www.example.com"
_CHALLENGES = ".well-known/acme-challenge"


def name_of(config: Config) -> str:
    """A name that this server can validate at once, or one to be replaced."""
    host = urlsplit(config.base_url).hostname or ""
    return "localhost" if is_loopback(host) else _REPLACED


def _webroot(config: Config, line: str) -> str:
    """`line` with $WWW, which a web server shows at the port that is validated: the one that is there, else one for a moment."""
    port = config.validation.http01_port
    if port == 80:
        return f"( WWW=/var/www/html && {line} )"
    serving = f'python3 -m http.server --directory www {port} >www.log 2>&1 & trap "kill $!" EXIT; sleep 1'
    return f"( WWW=www && mkdir -p www/{_CHALLENGES} && {{ {serving}; }} && {line} )"


def certbot(config: Config) -> str:
    port = config.validation.http01_port
    return (
        'REQUESTS_CA_BUNDLE="$CERTWRIGHT_CA_FILE" certbot certonly --standalone --server "$CERTWRIGHT_ACME_DIRECTORY" '
        f"--http-01-port {port} -d {name_of(config)} --non-interactive --agree-tos --register-unsafely-without-email "
        "--config-dir certbot --work-dir certbot --logs-dir certbot"
    )


def lego(config: Config) -> str:
    port = config.validation.http01_port
    return (
        'LEGO_CA_CERTIFICATES="$CERTWRIGHT_CA_FILE" lego --server "$CERTWRIGHT_ACME_DIRECTORY" --email you@example.com --accept-tos '
        f"--http --http.port :{port} --path lego --domains {name_of(config)} run"
    )


def acme_sh(config: Config) -> str:
    """Its standalone server needs socat or Python."""
    port = config.validation.http01_port
    return (
        f"acme.sh --issue --standalone --httpport {port} -d {name_of(config)} "
        '--server "$CERTWRIGHT_ACME_DIRECTORY" --ca-bundle "$CERTWRIGHT_CA_FILE"'
    )


def acme_tiny(config: Config) -> str:
    name = name_of(config)
    return (
        f"openssl genrsa -out account.key 2048 && openssl req -new -newkey rsa:2048 -nodes -keyout {name}.key -subj / "
        f"-addext subjectAltName=DNS:{name} -out {name}.csr && "
    ) + _webroot(
        config,
        'SSL_CERT_FILE="$CERTWRIGHT_CA_FILE" acme-tiny --directory-url "$CERTWRIGHT_ACME_DIRECTORY" --account-key account.key '
        f'--csr {name}.csr --acme-dir "$WWW/{_CHALLENGES}" --disable-check > {name}.pem',
    )


def dehydrated(config: Config) -> str:
    settings = (
        r"""printf '%s\n' "CA=$CERTWRIGHT_ACME_DIRECTORY" "CURL_OPTS='--cacert $CERTWRIGHT_CA_FILE'" "BASEDIR=$PWD" """
        f'"WELLKNOWN=$WWW/{_CHALLENGES}" > dehydrated.conf'
    )
    run = "dehydrated --config dehydrated.conf"
    return _webroot(config, f"{settings} && {run} --register --accept-terms && {run} --cron --domain {name_of(config)}")


def uacme(config: Config) -> str:
    """It asks no variable and no option whom to trust, and takes no name without a dot."""
    run = 'uacme -y -a "$CERTWRIGHT_ACME_DIRECTORY" -c uacme'
    line = _webroot(
        config,
        f"{run} new && UACME_CHALLENGE_PATH=$WWW/{_CHALLENGES} {run} -h /usr/share/uacme/uacme.sh issue {_REPLACED}",
    )
    return f"{line}\n{_TRUST_NOTE}"


_TRUST_NOTE = (
    "# It trusts the system's CAs only. Before, as root: "
    "install -m 644 ca/root.pem /usr/local/share/ca-certificates/certwright.crt && update-ca-certificates"
)


def caddy(config: Config) -> str:
    port = config.validation.http01_port
    return f"""\
caddy run --adapter caddyfile --config - <<EOF
{{
    acme_ca $CERTWRIGHT_ACME_DIRECTORY
    acme_ca_root $CERTWRIGHT_CA_FILE
    http_port {port}
    https_port {_https(config)}
    storage file_system caddy
    skip_install_trust
    admin off
}}
{name_of(config)} {{
    tls {{
        issuer acme {{
            disable_tlsalpn_challenge
        }}
    }}
    respond "served by {name_of(config)}"
}}
EOF"""


def _https(config: Config) -> int:
    """Where a web server may listen that must not take the port from this one."""
    port = config.validation.tlsalpn01_port
    return 5001 if port == 443 and config.validation.http01_port != 80 else port


def mod_md(config: Config) -> str:
    """For Apache's configuration, not for a shell. Apache serves the name at both ports; mod_md answers the challenges."""
    name = name_of(config)
    return f"""\
# in Apache's configuration; modules: md, ssl
MDCertificateAuthority {directory(config)}
MDCACertificateFile {_root(config)}
MDCertificateAgreement accepted
MDContactEmail you@example.com
MDPortMap http:{config.validation.http01_port} https:{_https(config)}
MDCAChallenges http-01
MDomain {name}"""


def cert_manager(config: Config) -> str:
    """For Kubernetes."""
    root = _root(config)
    bundle = base64.b64encode(root.read_bytes()).decode() if root.exists() else "BASE64-OF-ca/root.pem"
    return f"""\
# kubectl apply -f -
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata:
  name: certwright
spec:
  acme:
    server: {directory(config)}
    caBundle: {bundle}
    email: you@example.com
    privateKeySecretRef:
      name: certwright-account
    solvers:
      - http01:
          ingress:
            ingressClassName: nginx"""


def traefik(config: Config) -> str:
    resolver = "--certificatesresolvers.certwright.acme"
    return (
        'LEGO_CA_CERTIFICATES="$CERTWRIGHT_CA_FILE" traefik --entrypoints.web.address=:'
        f'{config.validation.http01_port} {resolver}.caserver="$CERTWRIGHT_ACME_DIRECTORY" {resolver}.email=you@example.com '
        f"{resolver}.storage=acme.json {resolver}.httpchallenge.entrypoint=web"
    )


def node(config: Config) -> str:
    name = name_of(config)
    program = f"""\
const acme = require("acme-client"), fs = require("fs"), path = require("path");
(async () => {{
  const client = new acme.Client({{
    directoryUrl: process.env.CERTWRIGHT_ACME_DIRECTORY,
    accountKey: await acme.crypto.createPrivateEcdsaKey(),
  }});
  const file = (challenge) => path.join(process.argv[1], "{_CHALLENGES}", challenge.token);
  const [key, csr] = await acme.crypto.createCsr({{ altNames: ["{name}"] }});
  const chain = await client.auto({{
    csr,
    termsOfServiceAgreed: true,
    skipChallengeVerification: true,
    challengeCreateFn: async (authz, challenge, proof) => fs.writeFileSync(file(challenge), proof),
    challengeRemoveFn: async (authz, challenge) => fs.unlinkSync(file(challenge)),
  }});
  fs.writeFileSync("{name}.key", key);
  fs.writeFileSync("{name}.pem", chain);
}})();"""
    return _webroot(config, f'NODE_EXTRA_CA_CERTS="$CERTWRIGHT_CA_FILE" node -e \'\n{program}\' "$WWW"')


def directory(config: Config) -> str:
    """As bootstrap.env has it."""
    return f"{config.base_url}/acme/directory"


def _root(config: Config) -> Path:
    return config.file.absolute().parent / "ca" / "root.pem"


# In a shell that has read bootstrap.env; the second kind goes into a file of the client's.
SHELL: Mapping[str, Callable[[Config], str]] = {
    "certbot": certbot,
    "lego": lego,
    "acme.sh": acme_sh,
    "acme-tiny": acme_tiny,
    "dehydrated": dehydrated,
    "uacme": uacme,
    "caddy": caddy,
    "traefik": traefik,
    "node": node,
}
FILES: Mapping[str, Callable[[Config], str]] = {
    "mod_md": mod_md,
    "cert-manager": cert_manager,
}
