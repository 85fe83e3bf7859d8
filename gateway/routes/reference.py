"""`GET /openapi.json` and `GET /docs`: the API's document, for programs and for people.

The page is rendered here from the document; it runs no script and fetches nothing from another host.
"""

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import MediaType, Response, get
from markupsafe import Markup, escape

from gateway.bodies import AnyRequest
from openapi.document import Json

_POLICY = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'"


@get("/openapi.json", include_in_schema=False)
async def get_document(request: AnyRequest) -> Response[Json]:
    """The API as OpenAPI 3.1."""
    return Response(request.app.state["document"], media_type="application/vnd.oai.openapi+json")


@get("/docs", include_in_schema=False)
async def get_reference(request: AnyRequest) -> Response[str]:
    """The API reference."""
    return Response(
        render_reference(request.app.state["document"]),
        media_type=MediaType.HTML,
        headers={"content-security-policy": _POLICY},
    )


def render_reference(document: Json) -> str:
    """The document as a page."""
    environment = Environment(
        loader=PackageLoader("gateway"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["kind"] = describe_kind
    environment.filters["prose"] = _prose
    operations = [
        {"method": method.upper(), "path": path, **operation}
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    return environment.get_template("reference.html").render(
        document=document, operations=operations, resolve=lambda schema: _resolve(document, schema)
    )


def describe_kind(schema: Json) -> str:
    """A schema in a few words: `integer, 1 to 500`, `one of: json, text`, `list of RankedIntent`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return "one of: " + ", ".join(str(value) for value in schema["enum"])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(describe_kind(member) for member in schema[union])
    if schema.get("format") == "binary":
        return "file"
    if schema.get("type") == "array":
        return f"list of {describe_kind(schema['items'])}"
    return str(schema.get("type", "object")) + _bounds(schema)


def _prose(text: str) -> Markup:
    """A description with its `code` set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 (escaped first)


def _bounds(schema: Json) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    return f", {least:g} to {most:g}" if least is not None and most is not None else ""


def _resolve(document: Json, schema: Json) -> Any:
    """The object schemas behind a body: one, or one for each alternative."""
    if "oneOf" in schema:
        return [found for member in schema["oneOf"] for found in _resolve(document, member)]
    if "$ref" in schema:
        name = describe_kind(schema)
        return [document["components"]["schemas"][name] | {"title": name}]
    return [schema] if "properties" in schema else []
