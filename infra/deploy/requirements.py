"""Print the project's requirements, one a line, less those named: what an image without engines installs.

    python requirements.py pyproject.toml torch transformers

It runs in an image where nothing is installed yet: the standard library is all that it leans on.
"""

import re
import sys
import tomllib
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9._-]+")


def requirements(project: str, without: set[str]) -> list[str]:
    """The requirements in the text of a `pyproject.toml`.

    Raises:
        ValueError: one of `without` is not among them: it was renamed, or it went.
    """
    listed: list[str] = tomllib.loads(project)["project"]["dependencies"]
    named = {_name(requirement): requirement for requirement in listed}
    if unknown := without - named.keys():
        raise ValueError(f"pyproject.toml does not require {', '.join(sorted(unknown))}.")
    return [requirement for name, requirement in named.items() if name not in without]


def _name(requirement: str) -> str:
    found = _NAME.match(requirement)
    assert found is not None
    return found.group()


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]).read_text("utf-8"), set(sys.argv[2:]))))
