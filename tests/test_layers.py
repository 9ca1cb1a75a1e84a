"""Data flows one way: a room imports only rooms before it. The one exception is `show` of Result, Results and Diff."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lensdiff"
ROOMS = ("results", "inputs", "stats", "models", "views", "steps", "analyses", "pipeline", "cli")
EXCEPTIONS = {(f"results/{module}.py", "views") for module in ("result", "many", "diff")}


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "lensdiff" else None


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides the room it goes to"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def violations(path: Path, relative: str) -> list[str]:
    here = ROOMS.index(relative.split("/")[0].removesuffix(".py"))
    rooms = {room for room in map(room_of, imports(path)) if room in ROOMS}
    return [room for room in rooms if ROOMS.index(room) > here and (relative, room) not in EXCEPTIONS]


FILES = [p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.stem in ROOMS]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_go_one_way(path):
    assert violations(path, path.relative_to(PACKAGE).as_posix()) == []


def test_a_violation_would_be_seen(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("from lensdiff.views import show\n")
    assert violations(bad, "models/bad.py") == ["views"]


@pytest.mark.parametrize("room", ["analyses", "views", "pipeline", "cli"])
def test_nothing_outside_models_knows_the_wrappers(room):
    found = {name for path in (PACKAGE / room).rglob("*.py") for name in imports(path)}
    inner = ("transformer_lens", "lensdiff.models.inside.wrapper", "lensdiff.models.inside.hooked")
    assert not [name for name in found if name.startswith((*inner, "lensdiff.models.inside.bridge"))]


def test_every_room_is_known():
    found = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in PACKAGE.rglob("*.py")}
    assert found - {"__init__", "__main__"} <= set(ROOMS)
