"""The description of the API (OpenAPI 3.1), made from the models that parse and render it."""

from __future__ import annotations

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from rest import messages
from rest.accept import PEM_TYPES
from rest.problems import CONTENT_TYPE, Kind

_MODELS: tuple[type[BaseModel], ...] = (
    messages.IssueBody,
    messages.RevokeBody,
    messages.IssuedAnswer,
    messages.CertificateSummary,
    messages.CertificateDetail,
    messages.CertificateList,
    messages.PendingAnswer,
    messages.ChallengeBody,
    messages.NewChallenge,
    messages.ChallengeList,
    messages.ChallengeSummary,
)
_REF = "#/components/schemas/{model}"
_PROBLEM: dict[str, object] = {
    "type": "object",
    "description": "RFC 9457, except that `status` is a word; the number is in the HTTP status line.",
    "required": ["type", "title", "status", "detail", "error", "retry_allowed", "suggestions"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "string", "enum": [kind.value for kind in Kind]},
        "detail": {"type": "string"},
        "error": {"type": "string", "description": "The same as detail."},
        "retry_allowed": {"type": "boolean"},
        "suggestions": {"type": "array", "items": {"type": "string"}},
        "subproblems": {"type": "array", "items": {"type": "object"}},
        "request_id": {"type": "string"},
    },
}
_PEM = {name: {"schema": {"type": "string"}} for name in PEM_TYPES}
_SERIAL = {"name": "serial", "in": "path", "required": True, "schema": {"type": "string"}, "description": "Hex."}
_CHALLENGE_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}

Document = dict[str, object]


def _schema(model: type[BaseModel]) -> Document:
    return {"schema": {"$ref": _REF.format(model=model.__name__)}}


def _operation(
    summary: str,
    responses: dict[str, tuple[str, Document]],
    *,
    parameters: list[Document] | None = None,
    body: Document | None = None,
) -> Document:
    refused: Document = {CONTENT_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}
    operation: Document = {
        "summary": summary,
        "responses": {
            **{status: {"description": text, "content": content} for status, (text, content) in responses.items()},
            "default": {"description": "Refused, or failed.", "content": refused},
        },
    }
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = body
    return operation


def _query(name: str, schema: Document, description: str) -> Document:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _paths() -> Document:
    json, text = "application/json", {"schema": {"type": "string"}}
    issue = _operation(
        "Issue a certificate.",
        {
            "201": ("Issued.", {json: _schema(messages.IssuedAnswer), **_PEM}),
            "202": ("Not decided yet.", {json: _schema(messages.PendingAnswer)}),
        },
        parameters=[
            _query("profile", {"type": "string"}, "For a plain request; JSON names it inside."),
            {
                "name": "Idempotency-Key",
                "in": "header",
                "schema": {"type": "string", "maxLength": 128},
                "description": "The same key and the same request give the same certificate, and a conflict once that is revoked or expired.",
            },
        ],
        body={
            "required": True,
            "content": {json: _schema(messages.IssueBody), "application/pkcs10": text, "application/x-pem-file": text},
        },
    )
    paging = [
        _query("limit", {"type": "integer", "minimum": 1, "maximum": messages.MAX_PAGE}, "Page size."),
        _query("cursor", {"type": "string"}, "`next` of the page before."),
    ]
    listing = _operation(
        "List certificates, newest first.",
        {"200": ("A page.", {json: _schema(messages.CertificateList)})},
        parameters=paging,
    )
    show = _operation("Show a certificate.", {"200": ("The certificate.", {json: _schema(messages.CertificateDetail), **_PEM})})
    revoke = _operation(
        "Revoke a certificate.",
        {"200": ("Revoked.", {json: _schema(messages.CertificateSummary)})},
        body={"required": False, "content": {json: _schema(messages.RevokeBody)}},
    )
    new_challenge = _operation(
        "Make a SCEP challenge that opens once. The key needs a role of the endpoint's one_time.makers.",
        {"201": ("Made.", {json: _schema(messages.NewChallenge)})},
        body={"required": True, "content": {json: _schema(messages.ChallengeBody)}},
    )
    challenges = _operation(
        "List SCEP challenges that open once, newest first: one's own, or with the role admin everybody's.",
        {"200": ("A page.", {json: _schema(messages.ChallengeList)})},
        parameters=paging,
    )
    disable = _operation("End a SCEP challenge that still opens.", {"204": ("Ended.", {})})
    return {
        "/api/v1/certificates": {"post": issue, "get": listing},
        "/api/v1/certificates/{serial}": {"parameters": [_SERIAL], "get": show},
        "/api/v1/certificates/{serial}/revoke": {"parameters": [_SERIAL], "post": revoke},
        "/api/v1/scep/challenges": {"post": new_challenge, "get": challenges},
        "/api/v1/scep/challenges/{id}": {"parameters": [_CHALLENGE_ID], "delete": disable},
    }


def describe(base_url: str) -> Document:
    """The document at /api/openapi.json."""
    _, schemas = models_json_schema([(model, "serialization") for model in _MODELS], ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Certwright", "version": "1"},
        "servers": [{"url": base_url}],
        "security": [{"api_key": []}, {"bearer": []}],
        "paths": _paths(),
        "components": {
            "schemas": {**schemas["$defs"], "Problem": _PROBLEM},
            "securitySchemes": {
                "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }
