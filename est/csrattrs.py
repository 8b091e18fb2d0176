"""Which attributes a certification request should have (RFC 7030 §4.5.2, RFC 8951 §3.5, RFC 9908). Pure.

A client that cannot give what is listed gives up, and some servers refuse such a request. So nothing is listed that we would issue
without: no key type where several will do, no proof of possession where it is optional.
"""

from __future__ import annotations

from cryptography import x509

from est.endpoint import CsrAttributes, EstEndpoint, ProofLinking
from pki import der
from pki.cms.fields import integer, null, octet_string, oid, sequence, set_of, tlv
from pki.cms.types import RSA_ENCRYPTION
from pki.plan import SUBJECT_ATTRIBUTES, key_usage_extension
from policy import keys
from policy.profiles import CommonName, Profile

CHALLENGE_PASSWORD = oid("1.2.840.113549.1.9.7")
EXTENSION_REQUEST = oid("1.2.840.113549.1.9.14")
REQUEST_TEMPLATE = oid("1.2.840.113549.1.9.16.2.61")  # id-aa-certificationRequestInfoTemplate
EXTENSION_TEMPLATE = oid("1.2.840.113549.1.9.16.2.62")  # id-aa-extensionReqTemplate
COMMON_NAME = oid("2.5.4.3")
KEY_USAGE = oid("2.5.29.15")
SUBJECT_ALTERNATIVE_NAME = oid("2.5.29.17")
EXTENDED_KEY_USAGE = oid("2.5.29.37")

_TRUE = b"\x01\x01\xff"
_SUBJECT_PKI, _ATTRIBUTES = 0xA0, 0xA1  # [0] and [1] IMPLICIT, of constructed types


def csr_attributes(endpoint: EstEndpoint, profile: Profile) -> bytes | None:
    """CsrAttrs (DER), or None where the label asks for nothing."""
    match endpoint.csr_attributes:
        case CsrAttributes.NONE:
            return None
        case CsrAttributes.OIDS:
            return sequence(*_oids(endpoint, profile))
        case CsrAttributes.TEMPLATE:
            # RFC 9908 §4: who knows the template looks at nothing else; who does not knows the rest.
            return sequence(*_oids(endpoint, profile), _attribute(REQUEST_TEMPLATE, _template(profile)))


def _oids(endpoint: EstEndpoint, profile: Profile) -> list[bytes]:
    """What has to be there, without values: libest and BouncyCastle read these."""
    wanted = (
        (CHALLENGE_PASSWORD, endpoint.proof_linking is ProofLinking.REQUIRED),  # §3.5: libest links when it finds this
        (RSA_ENCRYPTION, keys.needs_rsa(profile.key_usage)),
        (COMMON_NAME, _wants_common_name(profile)),
        (SUBJECT_ALTERNATIVE_NAME, _wants_names(profile)),
    )
    return [identifier for identifier, wants in wanted if wants]


def _wants_common_name(profile: Profile) -> bool:
    return profile.common_name is CommonName.DEVICE


def _wants_names(profile: Profile) -> bool:
    """Where a device's own name will do, alternative names are welcome and not asked for."""
    return profile.require_san or not _wants_common_name(profile)


def _attribute(identifier: bytes, value: bytes) -> bytes:
    return sequence(identifier, tlv(der.SET, value))


def _template(profile: Profile) -> bytes:
    """CertificationRequestInfoTemplate (RFC 9908 §3.4): what is absent in it is for the client to choose."""
    return sequence(
        integer(0),
        *_subject(profile),
        *([tlv(_SUBJECT_PKI, sequence(RSA_ENCRYPTION, null()))] if keys.needs_rsa(profile.key_usage) else []),
        set_of([_extensions(profile)], tag=_ATTRIBUTES),
    )


def _subject(profile: Profile) -> list[bytes]:
    """NameTemplate: a CN without a value is for the client to fill in. "Otherwise it MUST be absent"."""
    names = (x509.Name([x509.NameAttribute(SUBJECT_ATTRIBUTES[name], value)]) for name, value in profile.subject)
    fixed = [der.whole(name.public_bytes(), der.SEQUENCE).content for name in names]
    open_ = [tlv(der.SET, sequence(COMMON_NAME))] if _wants_common_name(profile) else []
    return [sequence(*fixed, *open_)] if fixed or open_ else []


def _extensions(profile: Profile) -> bytes:
    """`extensionRequest` where every extension has its value, as §3.4 demands, and else its template."""
    usage = keys.usage_of_any(profile.key_usage)
    extended = x509.ExtendedKeyUsage([x509.ObjectIdentifier(one) for one in profile.extended_key_usage])
    templates = [
        sequence(KEY_USAGE, _TRUE, *([] if usage is None else [octet_string(key_usage_extension(usage).public_bytes())])),
        sequence(EXTENDED_KEY_USAGE, octet_string(extended.public_bytes())),
    ]
    if _wants_names(profile):
        templates.append(sequence(SUBJECT_ALTERNATIVE_NAME))
    partial = usage is None or _wants_names(profile)
    return _attribute(EXTENSION_TEMPLATE if partial else EXTENSION_REQUEST, sequence(*templates))
