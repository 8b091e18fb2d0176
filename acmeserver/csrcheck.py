"""Is the CSR of a finalize the order's (RFC 8555 §7.4)? Every refusal is `badCSR` and names its cause. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from acmeserver.authentication import Acting
from acmeserver.problems import Problem, ProblemType
from pki.csr import Csr, parse_csr
from pki.identifiers import DnsName, Identifier, is_address, parse_dns, shown
from pki.onion import is_onion, onion_spki
from pki.reasons import Reason, Rejection

# What pki.csr says of a CSR that it read: to an ACME client all of it is about the CSR, none about an identifier it sent.
_ABOUT_THE_CSR = frozenset({Reason.REJECTED_IDENTIFIER, Reason.UNSUPPORTED_IDENTIFIER, Reason.MALFORMED})


def read_csr(der: bytes) -> Csr:
    """A CSR that holds together: proof of possession, no SHA-1, no SAN of a type that we do not issue. Raises Problem, Rejection."""
    try:
        return parse_csr(der)
    except Rejection as rejection:
        if rejection.reason not in _ABOUT_THE_CSR:
            raise
        raise Problem(ProblemType.BAD_CSR, f"the CSR is refused: {rejection.detail}") from rejection


def check_csr(csr: Csr, identifiers: Sequence[Identifier], acting: Acting) -> None:
    """The names of a CSR are its SANs, and the CN if there is one: together the order's, no more and no less. Its key is not the
    account's. Raises Problem(badCSR).
    """
    asked, ordered = set(csr.identifiers), set(identifiers)
    if csr.common_name is not None:
        asked.add(_host(csr.common_name))
    if asked != ordered:
        detail = "the CSR is not for the names of the order"
        for names, verb in ((ordered - asked, "it lacks"), (asked - ordered, "it has besides")):
            if names:
                detail += f"; {verb}: {', '.join(sorted(str(name) for name in names))}"
        raise Problem(ProblemType.BAD_CSR, detail)
    if csr.public_key == acting.jwk.key:
        raise Problem(ProblemType.BAD_CSR, "the CSR's key is the account's own key; make another for the certificate")
    for name in identifiers:  # RFC 9799 §3.2
        if isinstance(name, DnsName) and is_onion(name.name) and csr.spki == onion_spki(name.name):
            raise Problem(ProblemType.BAD_CSR, f"the CSR's key is that of {name} itself; make another for the certificate")


def _host(common_name: str) -> Identifier:
    if is_address(common_name):  # readers of CNs take it for a host name (BR 7.1.2.7.2 has it only as a copy of a SAN)
        detail = (
            f"the CSR's common name {shown(common_name)} is an IP address; put it into the subjectAltName and leave out the CN"
        )
        raise Problem(ProblemType.BAD_CSR, detail)
    try:
        return parse_dns(common_name)
    except Rejection as rejection:
        detail = f"the CSR's common name {shown(common_name)} is not one of the order's names"
        raise Problem(ProblemType.BAD_CSR, detail) from rejection
