"""What may know what: the rooms, the analyses within theirs, and nothing below the analyses names one."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from lensdiff.analyses import ANALYSES
from lensdiff.pipeline.graph import steps_of, tables_of

PACKAGE = Path(__file__).parents[1] / "lensdiff"
ROOMS = ("results", "inputs", "stats", "models", "views", "steps", "analyses", "pipeline", "cli")
SEEN = ("results/result.py", "results/diff.py", "results/many.py")  # a result knows how to be seen
EXCEPTIONS = {(name, "views") for name in SEEN} | {("inputs/prompts.py", "models")}  # and a prompt how to be rendered
FILES = [p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.stem in ROOMS]


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports(path: Path) -> set[str]:
    """Every module that a file imports, and what it imports of it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides the room it goes to"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


# rooms
def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "lensdiff" else None


def violations(path: Path, name: str) -> list[str]:
    here = ROOMS.index(name.split("/")[0].removesuffix(".py"))
    rooms = {room for room in map(room_of, imports(path)) if room in ROOMS}
    return [room for room in rooms if ROOMS.index(room) > here and (name, room) not in EXCEPTIONS]


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_go_one_way(path):
    assert violations(path, relative(path)) == []


def test_a_violation_would_be_seen(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("from lensdiff.views import show\n")
    assert violations(bad, "models/bad.py") == ["views"]


def test_every_room_is_known():
    found = {relative(path).split("/")[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert found - {"__init__", "__main__", "defaults"} == set(ROOMS)


@pytest.mark.parametrize("room", ["analyses", "views", "steps", "pipeline", "cli"])
def test_nothing_outside_models_knows_the_wrappers(room):
    found = {name for path in (PACKAGE / room).rglob("*.py") for name in imports(path)}
    inner = ("transformer_lens", "lensdiff.models.inside.wrapper", "lensdiff.models.inside.hooked")
    assert not [name for name in found if name.startswith((*inner, "lensdiff.models.inside.bridge"))]


# the analyses' folders
ANALYSED = [path for path in (PACKAGE / "analyses").rglob("*.py") if path.parent.name != "analyses"]
FOLDERS = sorted({path.parent.name for path in ANALYSED})


def role(module: str) -> str:
    """What a module of a folder does: it runs, reports, draws, says what the analysis is, or measures."""
    if module in ("steps", "section", "__init__"):
        return module
    return "view" if module == "view" or module.startswith("view_") else "measure"


MAY_IMPORT = {
    "measure": (),
    "view": ("views",),
    "section": ("views", "steps"),
    "steps": ("steps",),
    "__init__": ("steps",),
}


def roles_broken(path: Path) -> list[str]:
    """The imports of a file of an analysis' folder that its role does not allow."""
    folder, own = path.parent.name, role(path.stem)
    broken = []
    for name in sorted(imports(path)):
        parts = name.split(".")
        if room_of(name) in ("views", "steps") and parts[1] not in MAY_IMPORT[own]:
            broken.append(name)
        if parts[:2] == ["lensdiff", "analyses"] and len(parts) > 3 and parts[2] in FOLDERS:
            its = role(parts[3])
            apart = its != "measure" and parts[2] != folder
            upwards = {"measure": ("steps", "section", "view"), "view": ("steps", "section")}.get(own, ("section",))
            if apart or (its in upwards and path.stem != parts[3]):
                broken.append(name)
    return broken


@pytest.mark.parametrize("path", ANALYSED, ids=relative)
def test_measuring_neither_draws_nor_runs_and_no_analysis_reads_another_ones_drawing(path):
    assert roles_broken(path) == []


@pytest.mark.parametrize(
    ("file", "line", "seen"),
    [
        ("measure.py", "from lensdiff.views.show import show", True),
        ("measure.py", "from lensdiff.steps.step import Step", True),
        ("measure.py", "from lensdiff.analyses.heads.view import show_heads", True),
        ("measure.py", "from lensdiff.analyses.heads.verb_shift import VerbShift", False),
        ("measure.py", "from lensdiff.analyses.mlp.view_concepts import show_concepts", True),
        ("view.py", "from lensdiff.views.show import show", False),
        ("view.py", "from lensdiff.steps.found import Found", True),
        ("view_concepts.py", "from lensdiff.analyses.heads.view_pairs import PairData", True),
        ("section.py", "from lensdiff.steps.found import Found", False),
        ("section.py", "from lensdiff.analyses.heads.section import SECTION", True),
        ("steps.py", "from lensdiff.analyses.heads.steps import STEPS", True),
        ("steps.py", "from lensdiff.views.show import show", True),
        ("__init__.py", "from lensdiff.views.show import show", True),
    ],
)
def test_a_broken_role_would_be_seen(tmp_path, file, line, seen):
    path = tmp_path / "mlp" / file
    path.parent.mkdir()
    path.write_text(f"{line}\n")
    assert bool(roles_broken(path)) == seen


def arrows() -> dict[str, set[str]]:
    """Which folders each analysis' folder imports from."""
    found: dict[str, set[str]] = {folder: set() for folder in FOLDERS}
    for path in ANALYSED:
        modules = [name.split(".") for name in imports(path) if name.startswith("lensdiff.analyses.")]
        found[path.parent.name] |= {parts[2] for parts in modules if parts[2] in FOLDERS} - {path.parent.name}
    return found


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """The folders that are left when those that need none of the others are taken away again and again."""
    left = {name: set(needed) for name, needed in graph.items()}
    while free := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def test_the_folders_form_no_circle():
    assert circle(arrows()) == []
    assert arrows()["claims"] >= {"heads", "instruction_use", "value_rotation"}
    assert circle({"a": ["b"], "b": ["c"], "c": ["b"], "d": []}) == ["a", "b", "c"]


# nothing below the analyses, and nothing that is composed of them, names one
HOMONYMS = {  # words that mean something else, too
    "weights": "how a checkpoint's weights are loaded, and the weights themselves",
    "mlp": "TransformerLens's name of a part of a layer",
    "heads": "of attention",
    "attention": "a part of a layer",
    "outputs": "of a model",
    "responses": "of models, which every analysis of prompts shares",
    "pair": "the two models",
    "control_responses": "likewise",
    "control_validity": "of controls, which every analysis with controls shares",
    "differences": "of the pair",
}
NAMES = {
    *(analysis.name for analysis in ANALYSES),
    *(step.name for step in steps_of(ANALYSES)),
    *(table.name for table in tables_of(ANALYSES)),
} - HOMONYMS.keys()
WITHOUT_NAMES = ("results", "inputs", "stats", "models", "views", "steps", "pipeline", "cli")
NAMED = {  # commands that are not derived from the list, and a config
    "cli/annotating.py": "annotates the concepts of a directory, by a command of its own",
    "cli/series.py": "measures along several models, by a command of its own",
    "cli/whole.py": "holds the demo's config, and the command about the paper's own files",
}


def named(path: Path) -> Iterator[str]:
    """Yield the names of analyses, their steps and tables that a file holds: texts, attributes and imports.

    `annotate` is a command of its own, which `lensdiff.cli` registers as such.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in NAMES:
            yield node.value
        if isinstance(node, ast.Attribute) and node.attr in NAMES - {"annotate"}:
            yield f".{node.attr}"
    yield from (name for name in imports(path) if name.startswith("lensdiff.analyses.") and "ANALYSES" not in name)


NAMELESS = [path for room in WITHOUT_NAMES for path in (PACKAGE / room).rglob("*.py") if relative(path) not in NAMED]


@pytest.mark.parametrize("path", NAMELESS, ids=relative)
def test_no_module_beside_the_analyses_names_one(path):
    assert list(named(path)) == []


def test_templates_and_shared_scripts_name_none():
    for path in (PACKAGE / "views" / "static").iterdir():
        text = path.read_text(encoding="utf-8")
        assert [name for name in NAMES if f"#{name}" in text or f'"{name}"' in text or f".{name}" in text] == []


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("step = 'verb_shift'", ["verb_shift"]),
        ("config.value_rotation", [".value_rotation"]),
        ("from lensdiff.analyses.heads import HeadOptions", ["lensdiff.analyses.heads.HeadOptions"]),
        ("from lensdiff.analyses import ANALYSES", []),
        ("weights = 'weights'", []),
    ],
)
def test_a_name_would_be_seen(tmp_path, text, seen):
    path = tmp_path / "module.py"
    path.write_text(text)
    assert set(seen) <= set(named(path))
    assert bool(list(named(path))) == bool(seen)
