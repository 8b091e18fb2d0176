"""JSON or PEM? What a client's Accept header prefers (RFC 9110 §12.5.1). Pure."""

from __future__ import annotations

import re

PEM_TYPES = ("application/pem-certificate-chain", "application/x-pem-file", "text/plain")
_QUALITY = re.compile(r"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)", re.IGNORECASE)


def pem_type(accept: str) -> str | None:
    """The PEM media type to answer with, or None for JSON, which is also for those who say nothing or only `*/*`.

    JSON by name wins over PEM of the same weight: browsers' and libraries' defaults list `text/plain` beside it.
    """
    weights = dict(_weighted(item) for item in accept.lower().split(","))
    best = max(PEM_TYPES, key=lambda name: weights.get(name, 0.0))  # the first of equals
    pem = weights.get(best, 0.0)
    if "application/json" in weights:
        return best if pem > weights["application/json"] else None
    anything = max(weights.get("application/*", 0.0), weights.get("*/*", 0.0))
    return best if pem > 0 and pem >= anything else None


def _weighted(item: str) -> tuple[str, float]:
    name, *parameters = (part.strip() for part in item.split(";"))
    for parameter in parameters:
        if quality := _QUALITY.fullmatch(parameter):
            return name, float(quality[1])
    return name, 1.0
