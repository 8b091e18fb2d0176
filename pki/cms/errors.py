"""The one way in which a CMS message can be wrong."""

from __future__ import annotations

import enum


class CmsProblem(enum.Enum):
    """What is wrong with a message. Closed, so that a front end can map every member."""

    TOO_LARGE = "too-large"  # octets or elements
    TOO_DEEP = "too-deep"
    ENCODING = "encoding"  # not BER
    STRUCTURE = "structure"  # BER, but not the structure that was expected
    SIGNER = "signer"  # not exactly one signer, or its certificate is not in the message
    ATTRIBUTE = "attribute"  # a signed attribute is missing, repeated or has several values
    ALGORITHM = "algorithm"  # one that we do not do; the detail names it
    KEY = "key"  # a public key of a type or size that we do not do
    DIGEST = "digest"  # messageDigest is not the digest of the content
    SIGNATURE = "signature"
    RECIPIENT = "recipient"  # encrypted to somebody else
    DECRYPT = "decrypt"  # always with the same text


class CmsError(Exception):
    """`detail` is safe to show: it holds nothing that was decrypted."""

    def __init__(self, problem: CmsProblem, detail: str) -> None:
        super().__init__(problem, detail)
        self.problem = problem
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.problem.value}: {self.detail}"
