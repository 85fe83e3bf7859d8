"""Structured logs: one JSON object a line, made only of what the code chose to say.

The promise that no key, password, text or audio reaches a log is kept by what is logged (codes, ids,
counts), not by filtering; exceptions are logged as their type and place, never as their message, since
a message from a library may quote its input.
"""

import logging
import sys
import time
import traceback
from collections.abc import Mapping
from types import TracebackType

import msgspec

_FIELDS = "fields"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update(getattr(record, _FIELDS, {}))
        if record.exc_info and record.exc_info[0]:
            line["error"] = record.exc_info[0].__name__
            line["at"] = _place(record.exc_info[2])
        return msgspec.json.encode(line).decode()


def _place(trace: TracebackType | None) -> list[str]:
    """The innermost frames as `file:line function`; no values."""
    frames = traceback.extract_tb(trace)[-4:]
    return [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames]


def set_up_logs(level: str) -> None:
    """Send the product's logs to stderr as JSON. Other libraries' logs stay at WARNING."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel("WARNING")
    logging.getLogger("aiaas").setLevel(level)


def event(logger: str, level: int, name: str, fields: Mapping[str, object], error: bool = False) -> None:
    """Log one event with its fields; `error` adds the type and place of the exception in hand."""
    logging.getLogger(f"aiaas.{logger}").log(level, name, extra={_FIELDS: dict(fields)}, exc_info=error)
