"""A log line is JSON made of what the code said; an exception's message may quote input and is left out."""

import json
import logging

import pytest

from infra.logs import event, set_up_logs


@pytest.fixture(autouse=True)
def restore_root() -> object:
    root = logging.getLogger()
    kept = (root.handlers, root.level)
    yield
    root.handlers, root.level = kept


def test_an_event_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("INFO")
    event("gateway", logging.INFO, "call_refused", {"code": "unknown_voice"})
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["code"], line["level"]) == ("call_refused", "unknown_voice", "INFO")


def test_an_exception_is_logged_by_type_and_place_only(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("INFO")
    try:
        raise ValueError("the customer said xylophone")
    except ValueError:
        event("gateway", logging.ERROR, "call_failed", {}, error=True)
    text = capsys.readouterr().err
    assert "xylophone" not in text
    assert json.loads(text)["error"] == "ValueError"
    assert "test_logs.py" in json.loads(text)["at"][-1]
