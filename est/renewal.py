"""Re-enrolment (RFC 7030 §4.2.2): is a request for the names of the certificate that it renews? Pure.

"The request Subject field and SubjectAltName extension MUST be identical to the corresponding fields in the certificate being
renewed/rekeyed." Identical is octet for octet: two spellings of one name are two names for somebody. Only a ChangeSubjectName
attribute asks for others (RFC 6402 §2.8), and only where the profile takes it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from pki import der
from pki.certificate import tbs_of
from pki.csr import Csr, read_name_change
from pki.identifiers import Identifier, shown
from pki.reasons import Reason, Rejection
from policy.profiles import Profile

CHANGE_SUBJECT_NAME = "1.3.6.1.5.5.7.7.36"
SUBJECT_ALTERNATIVE_NAME = "2.5.29.17"

MAX_SHOWN = 5  # names in one message

_EXTENSIONS = 0xA3
_SHORT = {
    "0.9.2342.19200300.100.1.25": "DC",
    "2.5.4.3": "CN",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """As it was sent: `subject` is a Name and `alternative_names` are GeneralNames (DER), None where there is no such extension."""

    subject: bytes
    alternative_names: bytes | None


@dataclass(frozen=True, slots=True)
class WantedNames:
    """What is asked of the pipeline."""

    identifiers: tuple[Identifier, ...]
    common_name: str | None


def names_of(csr: Csr) -> WantedNames:
    return WantedNames(csr.identifiers, csr.common_name)


def names_to_renew(csr: Csr, certificate: bytes, profile: Profile) -> WantedNames:
    """What a re-enrolment by the holder of `certificate` (DER) asks for. Raises Rejection: FORBIDDEN, BAD_CSR, and those of names."""
    differences = list(
        _differences(asked=Identity(csr.subject, csr.extensions.get(SUBJECT_ALTERNATIVE_NAME)), held=identity(certificate))
    )
    if differences:
        raise Rejection(
            Reason.FORBIDDEN,
            "a re-enrolment is for exactly the subject and subjectAltName of the certificate that is renewed (RFC 7030 "
            f"section 4.2.2), and this request differs: {'; '.join(differences)}",
            suggestions=[
                "make the request from the certificate: openssl x509 -x509toreq -copy_extensions copy -in cert.pem -signkey key.pem",
                "other names are asked for at simpleenroll",
            ],
        )
    change = csr.attributes.get(CHANGE_SUBJECT_NAME)
    if change is None:
        return names_of(csr)
    if not profile.subject_change:
        raise Rejection(
            Reason.FORBIDDEN,
            f"profile {profile.name} keeps the names of a certificate that is renewed; ChangeSubjectName is not taken",
            suggestions=["leave the attribute out, or enrol anew at simpleenroll"],
        )
    return _changed(csr, change)


def refuse_change(csr: Csr) -> None:
    """For an agent: nobody can tell whether the names that a request has are those of a certificate. Raises Rejection(FORBIDDEN)."""
    if CHANGE_SUBJECT_NAME in csr.attributes:
        raise Rejection(
            Reason.FORBIDDEN,
            "an agent's re-enrolment does not say which certificate is renewed, so ChangeSubjectName is not taken",
            suggestions=["ask for the new names in the request itself"],
        )


def _changed(csr: Csr, attribute: bytes) -> WantedNames:
    """What the attribute does not speak of stays. A common name that only repeats an alternative name goes with it."""
    change = read_name_change(attribute)
    identifiers = csr.identifiers if change.identifiers is None else change.identifiers
    if change.subject is not None:
        return WantedNames(identifiers, change.common_name)
    repeats = csr.common_name is not None and csr.common_name.lower() in map(str, csr.identifiers)
    return WantedNames(identifiers, None if repeats else csr.common_name)


def identity(certificate: bytes) -> Identity:
    """Cut out of a certificate (DER) octet by octet. Raises DerError."""
    parts = list(der.children(der.whole(tbs_of(certificate), der.SEQUENCE).content))
    if parts and parts[0].tag == 0xA0:  # version; without it, it is version 1
        parts = parts[1:]
    if len(parts) < 6:
        raise der.DerError("it is no certificate")
    wrapped = next((part for part in parts[6:] if part.tag == _EXTENSIONS), None)
    extensions = () if wrapped is None else der.children(der.whole(wrapped.content, der.SEQUENCE).content)
    for extension in extensions:
        fields = list(der.children(der.expect(extension, der.SEQUENCE).content))
        if fields and der.oid(fields[0]) == SUBJECT_ALTERNATIVE_NAME:
            return Identity(parts[4].raw, der.expect(fields[-1], der.OCTET_STRING).content)
    return Identity(parts[4].raw, None)


# ---------------------------------------------------------------------- for people


def _differences(*, asked: Identity, held: Identity) -> Iterator[str]:
    if asked.subject != held.subject:
        yield _subject_difference(_subject_text(asked.subject), _subject_text(held.subject))
    if asked.alternative_names == held.alternative_names:
        return
    if held.alternative_names is None:
        yield "it has a subjectAltName, and the certificate has none"
    elif asked.alternative_names is None:
        yield f"it has no subjectAltName, and the certificate has {_listed(_names(held.alternative_names))}"
    else:
        yield _names_difference(_names(asked.alternative_names), _names(held.alternative_names))


def _subject_difference(asked: str, held: str) -> str:
    if asked == held:
        return f"its subject ({held}) is written in other string types, or grouped otherwise"
    return f"its subject is {asked}, and the certificate's is {held}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:MAX_SHOWN]) + (f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else "")


def _names_difference(asked: list[str], held: list[str]) -> str:
    added = [name for name in asked if name not in held]
    dropped = [name for name in held if name not in asked]
    if not added and not dropped:
        return f"its subjectAltName has the certificate's names in another order or spelling ({_listed(held)})"
    return " and ".join(
        [
            *([f"its subjectAltName adds {_listed(added)}"] if added else []),
            *([f"{'' if added else 'its subjectAltName '}lacks {_listed(dropped)}"] if dropped else []),
        ]
    )


def _subject_text(name: bytes) -> str:
    texts: list[str] = []
    for rdn in der.children(der.whole(name, der.SEQUENCE).content):
        for attribute in der.children(rdn.content):
            kind, value = der.children(attribute.content)
            dotted = der.oid(kind)
            texts.append(f"{_SHORT.get(dotted, dotted)}={_value_text(value)}")
    return ", ".join(texts) or "empty"


def _value_text(value: der.Element) -> str:
    try:
        return shown(der.text(value))
    except der.DerError:
        return f"#{value.raw[:32].hex()}"


def _names(content: bytes) -> list[str]:
    return [_name_text(name) for name in der.children(der.whole(content, der.SEQUENCE).content)]


def _name_text(name: der.Element) -> str:
    match name.tag:
        case 0x82:
            return shown(name.content.decode("latin-1"))
        case 0x87 if len(name.content) in {4, 16}:
            return str(ipaddress.ip_address(name.content))
        case _:
            return f"#{name.raw[:32].hex()}"
