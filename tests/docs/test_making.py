"""What the site takes from the code: nothing is left out, and what is wrong ends a strict build."""

import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
import yaml
from pydantic import ValidationError

import lensdiff
from lensdiff.analyses import ANALYSES
from lensdiff.cli import main
from lensdiff.pipeline.config import TABLES, WholeConfig, parse
from tests.docs.blocks import ROOT

pytest.importorskip("mkdocs", reason="what builds the documentation is not installed")

from docs.making import api, commands, configuration, families, gallery, hooks, links, navigation, tables

REQUIRED = {"base": "b", "tuned": "t", "prompts": "p.jsonl"}


def rows(page: str, section: str) -> dict[str, list[str]]:
    """The rows of the first table of a section, by their first cell."""
    part = page.split(f"{{ #{section} }}", 1)[1] if section else page
    found = re.search(r"(?:^\|.*\n?)+", part, re.MULTILINE)
    lines = [re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |")) for line in found[0].splitlines()[2:]]
    return {line[0].strip("`"): line[1:] for line in lines}


# tables
def test_the_page_of_tables_has_every_table_and_every_column():
    page = tables.page_of_tables({"weights": ["layer", "matrix", "another"]})
    for analysis in ANALYSES:
        for doc in analysis.tables:
            found = rows(page, doc.name)
            assert set(doc.columns) <= set(found), doc.name
    assert list(rows(page, "weights"))[:3] == ["layer", "matrix", "another"], "those of a run come first, in its order"


def test_every_place_of_a_page_has_a_name_of_its_own():
    for page in (tables.page_of_tables({}), configuration.page_of_keys(), commands.page_of_commands()):
        places = re.findall(r"\{ #(\S+) \}", page)
        assert len(places) > 10
        assert sorted(set(places)) == sorted(places)


def test_a_column_that_nobody_describes_is_told():
    said = ["the column another of the table weights is not described"]
    assert tables.undescribed({"weights": ["layer", "another"]}) == said


def test_the_table_of_the_pair_itself_is_on_the_page():
    assert set(rows(tables.page_of_tables({}), "differences")) == {"what", "base", "tuned", "meaning"}
    assert tables.undescribed({"differences": ["what", "base", "tuned", "meaning"]}) == []


# configuration
def test_the_page_of_keys_has_every_key_with_its_default():
    page = configuration.page_of_keys()
    whole = rows(page, "")
    own = {analysis.name for analysis in TABLES}
    assert set(whole) == set(WholeConfig.model_fields) - own - {"prompt", "controls", "ray"}
    assert set(rows(page, "controls")) > {"kinds", "data", "instruction_use"}
    assert rows(page, "ray")["gpus_per_actor"][1:] == ["number, &gt;= 0, &lt;= 1000000, finite", "`0.0`"]
    assert whole["dtype"][1:] == ['"float32" or "float64" or "bfloat16" or "float16"', '`"float32"`']
    assert whole["base"][1:] == ["text, not empty", "must be given"]
    config = parse(REQUIRED)
    for analysis in TABLES:
        found = rows(page, analysis.name)
        assert set(found) == set(analysis.options.model_fields)
        for name, (help, _, default) in found.items():
            value = getattr(getattr(config, analysis.name), name)
            if analysis.options.model_fields[name].get_default(call_default_factory=True) is None:
                assert (default, "by default" in help) == ("", True), name
                continue
            assert default == f"`{json.dumps(value, ensure_ascii=False)}`", name
            assert help


def test_a_bound_of_the_page_is_the_one_that_is_refused():
    page, seen = configuration.page_of_keys(), 0
    for analysis in TABLES:
        for name, (_, kind, _) in rows(page, analysis.name).items():
            if limit := re.match(r"whole number, &gt;= (\d+)", kind):
                seen += 1
                for value, is_refused in ((int(limit[1]) - 1, True), (int(limit[1]), False)):
                    try:
                        parse(REQUIRED | {analysis.name: {name: value}})
                        wrong = []
                    except ValidationError as error:
                        wrong = [item["loc"] for item in error.errors() if item["type"].startswith("greater_than")]
                    assert ((analysis.name, name) in wrong) == is_refused, (analysis.name, name, value)
    assert seen > 20


# commands
@pytest.mark.parametrize("verb", ["demo", "run", "attribute", "heads", "annotate"])
def test_the_page_of_commands_says_what_the_help_says(verb: str, capsys: pytest.CaptureFixture[str]):
    assert main([verb, "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    page = commands.page_of_commands().split(f"## lensdiff {verb} {{", 1)[1].split("\n## ", 1)[0]
    flags = set(re.findall(r"(?<!\S)--[a-z][a-z-]+", told))
    assert len(flags) >= 3
    assert flags <= set(re.findall(r"--[a-z][a-z-]+", page))


# API
def test_every_public_name_has_its_place():
    text = "".join(api.pages().values())
    for name in lensdiff.__all__:
        assert f"::: lensdiff.{name}\n" in text
    assert "::: lensdiff.analyses.instruction_use.result.InstructionUse\n" in text, "what a public function gives"


class Planted:
    def silent(self, x: int) -> int:
        return x

    @property
    def also(self) -> int:
        return 1

    def told(self, x: int) -> int:
        """Return x.

        Args:
            x, y: numbers.
        """
        return x


def test_a_name_that_says_nothing_is_told(monkeypatch: pytest.MonkeyPatch):
    assert api.undocumented() == []
    assert api.misnamed() == []
    monkeypatch.setattr(api, "_documented", lambda: [Planted])
    name = f"{__name__}.Planted"
    assert api.undocumented() == [f"{name}{end} has no docstring" for end in ("", ".silent", ".also")]
    assert api.misnamed() == [f"{name}.told has no parameter y"]


def test_what_is_told_ends_a_strict_build(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(api, "undocumented", lambda: ["x has no docstring"])
    with caplog.at_level(logging.WARNING, "mkdocs"):
        hooks.on_config(SimpleNamespace(nav=[], docs_dir=str(ROOT / "docs")))
    (record,) = caplog.records
    assert (record.getMessage(), record.levelno) == ("x has no docstring", logging.WARNING)
    assert record.name.startswith("mkdocs."), "mkdocs counts the warnings of its own loggers"
    assert re.search(r"^strict: true$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    target = re.search(r"^docs: .*?(?=\n\n)", (ROOT / "Makefile").read_text(), re.MULTILINE | re.DOTALL)[0]
    assert "mkdocs build\n" in f"{target}\n", "with --quiet mkdocs counts no warning"


# families
def test_the_record_of_families_is_shown_row_by_row():
    record = (
        "| family | wrapper | loads | logits | patterns |\n| --- | --- | --- | --- | --- |\n"
        "| gpt2 | hooked | yes | 9e-16 | 2e-15 |\n| next | bridge | yes | 0e+00 | hook_pattern refused |\n"
        "| none | bridge | cannot hold it |  |  |\n\nMade by hand.\n"
    )
    lines = [families._line(row) for row in families.rows(record)]
    assert lines[0] == ("`gpt2`", "hooked", "yes", "2e-15 (patterns)", "")
    assert lines[1][2:] == ("yes", "0e+00 (logits)", "patterns: hook&#95;pattern refused")
    assert lines[2][2:] == ("no", "", "cannot hold it")


def test_the_page_of_families_has_every_row_of_the_record():
    page = families.filled((ROOT / "docs" / "families.md").read_text(encoding="utf-8"))
    record = families.rows(families.RECORD.read_text(encoding="utf-8"))
    assert len(record) > 40
    for row in record:
        assert f"| `{row['family']}` | {row['wrapper']} |" in page
    assert "Made by `python -m experiments.families` with" in page


# links, gallery, navigation
def test_a_link_out_of_the_pages_is_a_path_and_a_lost_one_is_told(monkeypatch: pytest.MonkeyPatch):
    files: Any = SimpleNamespace(src_uris={"notebooks/01_quickstart.ipynb": None})
    notebook = "[e](../notebooks/01_quickstart.ipynb)"
    text = f"[a](../CHANGELOG.md) [b](nowhere.md) [c](../nowhere.md#x) [d](https://x.y) {notebook}"
    monkeypatch.setattr(links, "repository", lambda: "")
    mended, lost = links.mended(text, "page.md", files)
    assert mended == (
        "a (`CHANGELOG.md`) [b](nowhere.md) c (`nowhere.md`) [d](https://x.y) [e](notebooks/01_quickstart.ipynb)"
    )
    assert lost == ["page.md has a link to ../nowhere.md#x, and there is no nowhere.md"]
    monkeypatch.setattr(links, "repository", lambda: "https://x.y/z")
    assert links.mended("[a](../CHANGELOG.md#b)", "page.md", files)[0] == "[a](https://x.y/z/blob/main/CHANGELOG.md#b)"
    assert links.mended("```\n[a](../CHANGELOG.md)\n```", "page.md", files)[0] == "```\n[a](../CHANGELOG.md)\n```"


def test_what_a_page_loads_from_the_network_is_told():
    html = '<script src="https://a.b/c.js"></script><link href=//d.e/f.css rel=stylesheet><a href="https://g.h">i</a>'
    assert links.asked_for(html) == ["https://a.b/c.js", "//d.e/f.css"]
    drawn = "<script>f(await import('https://a.b/mermaid.js'))</script><script>g()</script>"
    assert links.without_diagrams(drawn) == "<script>g()</script>"
    assert links.asked_for(drawn) == ["https://a.b/mermaid.js"]
    assert links.asked_for("<script>const s = x; s.src = 'https://a.b/c.js';</script>") == ["https://a.b/c.js"]


def test_a_place_that_the_report_lacks_is_told():
    page = f"[x]({gallery.page_of('toy-pair')}#there) [y]({gallery.page_of('toy-pair')}#gone)"
    reports = {"toy-pair": '<section id="there">', "gemma3-sft": ""}
    assert gallery.lost(page, reports) == ["the report of toy-pair has no place 'gone'"]


def test_a_report_that_was_not_made_is_no_link():
    page = "[a](gallery/toy-pair.html#x) [b](gallery/gemma3-sft.html#x)\n[Open](gallery/gemma3-sft.html){ .md-button }"
    assert gallery.filled(page, dict.fromkeys(("toy-pair", *gallery.RUNS), "")) == page
    assert gallery.filled(page, {"toy-pair": ""}) == f"[a](gallery/toy-pair.html#x) b\n{gallery.NOT_HERE}"


def test_a_new_page_of_a_folder_is_found(tmp_path: Path):
    for name in ("weights", "outputs", "a-general-one", "published", "index"):
        (tmp_path / "understand").mkdir(exist_ok=True)
        (tmp_path / "understand" / f"{name}.md").write_text("# x\n")
    (nav,) = navigation.filled([{"Understand": "understand/*"}], tmp_path)
    names = [page.removeprefix("understand/").removesuffix(".md") for page in nav["Understand"]]
    assert list(dict.fromkeys(names)) == ["index", "a-general-one", "weights", "outputs", "published"]


def test_the_list_of_how_tos_names_every_page_by_its_title():
    folder = ROOT / "docs" / "how-to"
    listed = re.findall(r"^- \[(.+)\]\((.+)\)$", (folder / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    there = {path.name: path for path in folder.glob("*.md") if path.stem != "index"}
    assert {name for _, name in listed} == set(there)
    for title, name in listed:
        assert there[name].read_text(encoding="utf-8").startswith(f"# {title}\n"), name


def test_search_works_from_the_disk_without_a_script_from_elsewhere():
    config = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)
    assert [name for name in config["extra"]["polyfills"] if "iframe-worker" in name] == ["assets/iframe-worker.js"]
    assert (ROOT / "docs" / "assets" / "iframe-worker.js").exists()


def test_colab_is_offered_where_the_repository_is_known(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(navigation, "repository", lambda: "")
    assert "Colab" not in navigation.opening("a.ipynb")
    monkeypatch.setattr(navigation, "repository", lambda: "https://github.com/x/y")
    assert 'href="https://colab.research.google.com/github/x/y/blob/main/notebooks/a.ipynb"' in navigation.opening(
        "a.ipynb"
    )


# notebooks
@pytest.mark.parametrize("path", navigation.notebooks(), ids=lambda path: path.stem)
def test_the_first_cell_of_code_installs_what_is_missing(path: Path, monkeypatch: pytest.MonkeyPatch):
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    first = code[0].source
    assert "    %pip install --quiet lensdiff" in first
    ran: list[str] = []
    names = {"install": lambda: ran.append("pip")}
    source = first.replace("%pip install --quiet lensdiff", "install()")
    exec(source, dict(names))
    assert ran == [], "it is installed here"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(source, dict(names))
    assert ran == ["pip"]


@pytest.mark.parametrize("path", navigation.notebooks(), ids=lambda path: path.stem)
def test_a_stored_notebook_holds_no_widget_that_a_page_would_load(path: Path):
    notebook = nbformat.read(path, as_version=4)
    assert "widgets" not in notebook.metadata
    shown = [kind for cell in notebook.cells for output in cell.get("outputs", []) for kind in output.get("data", {})]
    assert shown
    assert not [kind for kind in shown if "widget" in kind]
