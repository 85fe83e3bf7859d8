"""`openapi.json` (OpenAPI 3.1), built from the routes' own endpoints and the wire structs."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from openapi.endpoint import Endpoint, Media
from openapi.wire import ErrorBody

Json = dict[str, Any]

_SCHEMA_PATH = "#/components/schemas/{name}"
_SCHEME_OF = {"key": "apiKey", "staff": "staffKey"}
_SCHEMES: Json = {
    "apiKey": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "aiaas_live_...",
        "description": "A tenant's API key.",
    },
    "staffKey": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "aiaas_staff_...",
        "description": "The key of somebody who works for the vendor: see `aiaas staff add`.",
    },
}
_TAGS = ("Audio", "Intents", "Models", "Usage", "Invoices", "Admin", "Health")
_ERRORS = {
    400: "The request is not acceptable; `param` names the field.",
    401: "The key is missing, malformed, unknown, expired or revoked; `code` says which.",
    402: "A cap of the tenant or the key leaves no room for the call.",
    403: "The key may not do this, or not from this address.",
    404: "There is no such model, call or endpoint.",
    409: "The same request is being answered, or what it is about is in another state; `code` says which.",
    413: "The body is too large.",
    415: "The endpoint takes another content type.",
    422: "The Idempotency-Key was used for another request.",
    429: "Too many requests; `Retry-After` says when to try again.",
    503: "A part is away for now; `Retry-After` says when to try again.",
    504: "The engine did not answer in time.",
}
_REQUEST_ID = {"x-request-id": "Names this request in our logs; send it along when you ask for help."}
_RATE_HEADERS = {
    "x-ratelimit-limit-requests": "Requests allowed in a minute.",
    "x-ratelimit-remaining-requests": "What is left of them.",
    "x-ratelimit-reset-requests": "When the next minute begins, as `12.345s`.",
}
_CHARGE_HEADERS = {
    "x-aiaas-call-id": "The call's id: `GET /v1/calls/{call_id}` is its receipt.",
    "x-aiaas-meter": "What was measured.",
    "x-aiaas-units": "How many units were charged.",
    "x-aiaas-engine": "Which engine answered; `remote:` and a host where it was a remote endpoint.",
    "idempotent-replayed": "`true` where the request had been charged before: it is not charged again.",
}
_IDEMPOTENCY_KEY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": (
        "Names the request: sent again with the same key within 24 hours, it is charged once and JSON is "
        "answered from the first answer. The same key with another request is refused."
    ),
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}


class Route(Struct, frozen=True):
    """One handler of the application: `path` in OpenAPI's notation, `text` its docstring."""

    method: str
    path: str
    text: str
    endpoint: Endpoint


def build_document(routes: Iterable[Route], version: str) -> Json:
    """The whole document, as JSON values; the same routes give the same document."""
    ordered = sorted(routes, key=lambda route: (_TAGS.index(route.endpoint.tag), route.path, route.method))
    refs, components = msgspec.json.schema_components(_structs(ordered), ref_template=_SCHEMA_PATH)
    schemas = dict(zip(_structs(ordered), refs, strict=True))
    paths: Json = {}
    for route in ordered:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AIaaS Gateway",
            "version": version,
            "summary": "Speech and language AI by the call.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in _TAGS],
        "paths": paths,
        "components": {
            "schemas": {name: _tidy(schema) for name, schema in sorted(components.items())},
            "securitySchemes": _SCHEMES,
        },
    }


def _structs(routes: list[Route]) -> list[type]:
    """Every struct that a body names, once each, in a fixed order."""
    found: dict[type, None] = {ErrorBody: None}
    for route in routes:
        for media in (route.endpoint.request or {}, route.endpoint.answer):
            for body in media.values():
                found.update(dict.fromkeys(_kinds(body)))
    return list(found)


def _kinds(body: Json | type | tuple[type, ...]) -> tuple[type, ...]:
    """The structs a body may be; none where it is a JSON Schema."""
    if isinstance(body, dict):
        return ()
    return body if isinstance(body, tuple) else (body,)


def _operation(route: Route, schemas: dict[type, Json]) -> Json:
    endpoint = route.endpoint
    summary, _, description = route.text.partition("\n")
    operation: Json = {
        "operationId": endpoint.operation_id,
        "tags": [endpoint.tag],
        "summary": summary.strip().rstrip("."),
        "responses": _responses(endpoint, schemas),
        "security": [{scheme: []}] if (scheme := _SCHEME_OF.get(endpoint.access)) else [],
    }
    if description.strip():
        operation["description"] = re.sub(r"\s+", " ", description).strip()
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if endpoint.request:
        operation["requestBody"] = {"required": True, "content": _content(endpoint.request, schemas)}
    if endpoint.examples:
        operation["x-codeSamples"] = [
            {"lang": language, "source": source} for language, source in endpoint.examples.items()
        ]
    return operation


def _responses(endpoint: Endpoint, schemas: dict[type, Json]) -> Json:
    headers = _REQUEST_ID | (_RATE_HEADERS if endpoint.access == "key" else {})
    success = headers | (_CHARGE_HEADERS if endpoint.charged else {}) | endpoint.answer_headers
    answers: Json = {
        "200": {
            "description": "Success.",
            "headers": _headers(success),
            "content": _content(endpoint.answer, schemas),
        }
    }
    for status in endpoint.errors:
        content = {"application/json": {"schema": schemas[ErrorBody]}}
        answers[str(status)] = {
            "description": _ERRORS[status],
            "headers": _headers(headers),
            "content": content,
        }
    return answers


def _headers(described: dict[str, str]) -> Json:
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in described.items()}


def _content(media: Media, schemas: dict[type, Json]) -> Json:
    return {kind: {"schema": _schema(body, schemas)} for kind, body in media.items()}


def _schema(body: Json | type | tuple[type, ...], schemas: dict[type, Json]) -> Json:
    if isinstance(body, dict):
        return body
    if isinstance(body, tuple):
        return {"oneOf": [schemas[kind] for kind in body]}
    return schemas[body]


def _parameters(route: Route) -> list[Json]:
    in_path: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    in_query: list[Json] = [
        {"name": query.name, "in": "query", "description": query.description, "schema": query.schema}
        for query in route.endpoint.query
    ]
    in_header = [_IDEMPOTENCY_KEY] if route.endpoint.charged else []
    return in_path + in_query + in_header


def _tidy(schema: Json) -> Json:
    """Fold a docstring's line breaks."""
    if "description" in schema:
        return schema | {"description": re.sub(r"\s+", " ", schema["description"]).strip()}
    return schema
