"""The vocabulary of SCEP's messages (RFC 8894 §3.2.1): their signed attributes, as OBJECT IDENTIFIER elements, and closed values."""

from __future__ import annotations

import enum

from pki.cms.fields import oid

MESSAGE_TYPE = oid("2.16.840.1.113733.1.9.2")
PKI_STATUS = oid("2.16.840.1.113733.1.9.3")
FAIL_INFO = oid("2.16.840.1.113733.1.9.4")
SENDER_NONCE = oid("2.16.840.1.113733.1.9.5")
RECIPIENT_NONCE = oid("2.16.840.1.113733.1.9.6")
TRANSACTION_ID = oid("2.16.840.1.113733.1.9.7")
FAIL_INFO_TEXT = oid("1.3.6.1.5.5.7.24.1")


class MessageType(enum.Enum):
    """RFC 8894 §3.2.1.2; the values as they stand on the wire. Closed: what is not here is refused."""

    CERT_REP = "3"
    RENEWAL_REQ = "17"
    PKCS_REQ = "19"
    CERT_POLL = "20"  # GetCertInitial
    GET_CERT = "21"
    GET_CRL = "22"


class PkiStatus(enum.Enum):
    """RFC 8894 §3.2.1.3."""

    SUCCESS = "0"
    FAILURE = "2"
    PENDING = "3"
