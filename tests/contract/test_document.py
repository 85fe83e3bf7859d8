"""`openapi.json` is what the application says, valid OpenAPI 3.1, and readable without another host."""

import json
import re
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.app import create_app
from infra.settings import load_settings
from tests.stack import Stack

FILE = Path(__file__).parents[2] / "openapi" / "openapi.json"


@pytest.fixture(scope="module")
def document() -> dict[str, object]:
    return create_app(load_settings({}), database_url="", ray_address="").state["document"]


def test_the_file_in_the_repository_is_what_the_application_says(document: dict[str, object]) -> None:
    assert json.loads(FILE.read_text()) == json.loads(json.dumps(document)), (
        "openapi.json is stale: run `aiaas openapi > openapi/openapi.json`"
    )


def test_the_document_is_valid_openapi_3_1(document: dict[str, object]) -> None:
    OpenAPIV31SpecValidator(json.loads(json.dumps(document))).validate()


def test_every_route_of_the_api_is_described() -> None:
    app = create_app(load_settings({}), database_url="", ray_address="")
    paths = {route.path_format for route in app.routes if route.path_format.startswith("/v1")}
    assert paths <= set(app.state["document"]["paths"])


def test_the_running_gateway_serves_the_same_document(stack: Stack) -> None:
    with stack.http() as http:
        assert http.get("/openapi.json").json() == json.loads(FILE.read_text())


def test_the_reference_page_fetches_nothing_from_another_host(stack: Stack) -> None:
    with stack.http() as http:
        page = http.get("/docs")
        assert page.status_code == 200
        assert "createTranscription" in page.text
        linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert all(link.startswith(("/", "#")) for link in linked)
        assert "<script" not in page.text
        for link in {link for link in linked if link.startswith("/")}:
            assert http.get(link).status_code == 200
