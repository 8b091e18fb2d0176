"""CRMF certification requests (RFC 4211)."""

from __future__ import annotations

from typing import Annotated, Literal

from cryptography import x509
from cryptography.hazmat import asn1


@asn1.sequence
class AttributeTypeAndValue:
    type: x509.ObjectIdentifier
    value: asn1.TLV


@asn1.sequence
class CertRequest:
    cert_req_id: int
    cert_template: asn1.TLV
    controls: list[AttributeTypeAndValue] | None


@asn1.sequence
class SubjectPublicKeyInfo:
    algorithm: asn1.TLV
    subject_public_key: asn1.BitString


@asn1.sequence
class POPOSigningKeyInput:
    auth_info: asn1.TLV
    public_key: asn1.TLV


@asn1.sequence
class POPOSigningKey:
    poposk_input: Annotated[POPOSigningKeyInput | None, asn1.Implicit(0)]
    algorithm_identifier: asn1.TLV
    signature: asn1.BitString


# POPOPrivKey is a CHOICE, so its tag is explicit, and which alternative it is stands inside.
ProofOfPossession = (
    Annotated[asn1.Variant[asn1.Null, Literal["raVerified"]], asn1.Implicit(0)]
    | Annotated[asn1.Variant[POPOSigningKey, Literal["signature"]], asn1.Implicit(1)]
    | Annotated[asn1.Variant[asn1.TLV, Literal["keyEncipherment"]], asn1.Explicit(2)]
    | Annotated[asn1.Variant[asn1.TLV, Literal["keyAgreement"]], asn1.Explicit(3)]
)


@asn1.sequence
class CertReqMsg:
    cert_req: CertRequest
    popo: ProofOfPossession | None
    reg_info: list[AttributeTypeAndValue] | None
