"""Money is integers: no float and no Decimal anywhere in billing, seconds of waiting excepted."""

import ast
from pathlib import Path

import billing

SOURCES = sorted(Path(next(iter(billing.__path__))).rglob("*.py"))


def _is_seconds(name: str) -> bool:
    return name.lower().endswith("_s")


def _names_of_seconds(tree: ast.Module) -> set[int]:
    """The ids of the nodes that write the type or the value of a duration in seconds."""
    excused: set[int] = set()
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        if isinstance(node, ast.arg) and _is_seconds(node.arg):
            parts = [node.annotation]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            parts = [node.annotation, node.value] if _is_seconds(node.target.id) else []
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args]
            defaults = list(zip(arguments[::-1], node.args.defaults[::-1], strict=False))
            defaults += list(zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True))
            parts = [default for argument, default in defaults if _is_seconds(argument.arg)]
        excused |= {id(inner) for part in parts if part is not None for inner in ast.walk(part)}
    return excused


def _offences(source: str) -> list[str]:
    tree = ast.parse(source)
    excused = _names_of_seconds(tree)
    found: list[str] = []
    for node in ast.walk(tree):
        if id(node) in excused:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
            found.append(f"{node.lineno}: the literal {node.value}")
        elif isinstance(node, ast.Name | ast.Attribute | ast.alias):
            name = {ast.Name: "id", ast.Attribute: "attr", ast.alias: "name"}[type(node)]
            if getattr(node, name).rpartition(".")[2] in ("float", "Decimal", "decimal", "round"):
                found.append(f"{node.lineno}: {getattr(node, name)}")
        elif isinstance(node, ast.Div):
            found.append("a true division")
    return found


def test_billing_holds_no_float_and_no_decimal() -> None:
    assert len(SOURCES) > 10
    assert {path.name: found for path in SOURCES if (found := _offences(path.read_text()))} == {}


def test_the_check_sees_what_it_looks_for() -> None:
    for source in (
        "x = 0.5",
        "y = a / b",
        "from decimal import Decimal",
        "def f(price: float): ...",
        "round(x)",
    ):
        assert _offences(source), source
    assert _offences("def f(timeout_s: float = 0.5): ...\n_PAUSE_S: Final = 0.02") == []
