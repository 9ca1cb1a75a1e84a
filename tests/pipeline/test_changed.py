"""What changed: the lines of all analyses, which come first, and that page, terminal and Python show the same ones."""

import html
import re
from dataclasses import replace

import pandas as pd
import pytest

from lensdiff.analyses import ANALYSES
from lensdiff.cli import main
from lensdiff.pipeline.changed import KINDS, MEANING, as_text, composed
from lensdiff.pipeline.execute import execute
from lensdiff.pipeline.report import Report
from lensdiff.results import ResultStore
from lensdiff.steps.headline import MOST, NO_CONTROL, Headline, Kind
from tests.pipeline.conftest import config_for
from tests.steps.test_said import CAPTAIN, PLAIN, store_of

ALWAYS_OR_APART = {"claims", "annotate"}
WITHOUT = {  # what gives no line, and why
    "template_effects": "it is about the template, not the tuning",
}


def line(name: str, beyond: bool | None, kind: Kind = "heads") -> Headline:
    return Headline(kind, name, 0.0, beyond=beyond)


def names(lines) -> list[str]:
    return [one.text for one in lines]


def test_lines_beyond_controls_come_first_then_the_first_of_each_source():
    one = [line("a1", True), line("a2", True), line("a3", False)]
    two = [line("b1", None), line("b2", True)]
    assert names(composed([one, two])) == ["a1", "a2", "b2", "b1", "a3"]
    assert names(composed([two, one])) == ["a1", "b2", "a2", "b1", "a3"]


def test_a_kind_has_at_most_five_lines_and_kinds_keep_their_order():
    many = [line(f"h{i}", True) for i in range(9)]
    layers = [line("l", None, "layers")]
    said = [line(f"r{i}", None, "responses") for i in range(7)]
    found = composed([layers, many, said])
    assert names(found) == [*(f"r{i}" for i in range(7)), *(f"h{i}" for i in range(MOST)), "l"]
    assert composed([]) == ()


def test_lines_about_responses_are_not_ranked_by_controls():
    about, depends = [line("they differ", None, "responses")], [line("they depend", True, "responses")]
    assert names(composed([about, depends])) == ["they differ", "they depend"]


def test_the_terminals_text_has_a_mark_a_sentence_and_a_control():
    text = as_text([line("moved", True), replace(line("stayed", False), control="controls 0 to 1"), line("x", None)])
    assert text.split("\n") == [
        "What changed",
        "Heads",
        "  ● moved; no control",
        "  ○ stayed; controls 0 to 1",
        "  – x; no control",
        MEANING,
    ]
    assert as_text([]) == ""


@pytest.fixture(scope="module")
def report(finished) -> Report:
    store, _ = finished
    return Report(store)


def test_every_analysis_that_finds_a_shift_gives_lines(report: Report):
    from lensdiff.steps.found import Found

    found = Found(report.store)
    given = {analysis.name: list(analysis.headlines(found)) for analysis in ANALYSES}
    silent = {name for name, lines in given.items() if not lines}
    assert silent <= ALWAYS_OR_APART | WITHOUT.keys() | {"heads", "mlp", "instruction_use"}  # of a model of noise
    for lines in given.values():
        assert all(one.kind in KINDS and one.text and not one.text.endswith(".") for one in lines)
        assert all(isinstance(one.number, float) for one in lines)
        assert all(one.control.startswith(("too few controls for a band (", NO_CONTROL)) for one in lines)


def test_page_terminal_and_python_show_the_same_lines(report: Report):
    lines = report.summary()
    assert lines
    assert {one.link for one in lines} <= {"changed", *(analysis.name for analysis in ANALYSES)}
    page = report.html()
    section = page[page.index('<section id="changed"') : page.index('<section id="claims"')]
    shown = re.findall(r"<li.*?</li>", section, flags=re.DOTALL)
    assert len(shown) == len(lines)
    for one, item in zip(lines, shown, strict=True):
        text = html.unescape(re.sub(r"<[^>]*>", "", item))
        assert str(one) in text
        assert one.link == "changed" or f'href="#{one.link}"' in item
        assert f'id="{one.link}"' in page
    assert [row.strip()[2:] for row in as_text(lines).split("\n") if row.startswith("  ")] == [
        str(one) for one in lines
    ]
    assert pd.DataFrame(lines).columns.tolist() == ["kind", "text", "number", "unit", "control", "beyond", "link"]


def test_a_run_of_one_analysis_has_just_its_lines(models, tmp_path, capsys):
    config = config_for(models, tmp_path / "out") | {"analyses": ["weights"]}
    lines = Report(execute(config)).summary()
    assert {one.link for one in lines} == {"weights"}
    assert {one.control for one in lines} == {NO_CONTROL}
    biggest = ResultStore(tmp_path / "out").load_table("weights").nlargest(MOST, "relative_norm")
    assert [one.number for one in lines] == pytest.approx(biggest.relative_norm.tolist())


def test_the_command_prints_them_before_the_pages_path(models, tmp_path, capsys):
    text = (
        f'base = "{models / "base"}"\ntuned = "{models / "tuned"}"\nout = "out"\n'
        'device = "cpu"\nanalyses = ["weights"]\n'
    )
    (tmp_path / "run.toml").write_text(text)
    assert main(["run", str(tmp_path / "run.toml")]) == 0
    out, _ = capsys.readouterr()
    summary = as_text(Report(tmp_path / "out").summary())
    assert summary.startswith("What changed\nMatrices\n  – W_")
    assert out == f"{summary}\n{tmp_path / 'out' / 'report.html'}\n"
    assert main(["run", str(tmp_path / "run.toml"), "--quiet"]) == 0
    assert capsys.readouterr()[0] == f"{tmp_path / 'out' / 'report.html'}\n"


def test_a_tuning_that_begins_every_response_alike_leads_the_page(tmp_path):
    report = Report(store_of(tmp_path, [(), *PLAIN[1:]], CAPTAIN))
    texts = names(report.summary())
    assert texts[0] == "1 of 4 base responses is empty, and 0 of the tuned model's"
    assert texts[2] == "Where they part, the tuned model says “AYE” in 4 of 4 prompts, the base in 0"
    assert texts[3] == "4 of 4 responses of the tuned model begin with “AYE AYE CAPTAIN!”, and 0 of the base"
    page = report.html()
    assert page.index("AYE AYE CAPTAIN!") < page.index('id="provenance"')


def test_a_directory_without_responses_or_lines_has_no_such_section(tmp_path):
    store = ResultStore(tmp_path)
    with store.writing():
        store.update(config={})
    page = Report(store).html()
    assert 'id="changed"' not in page
    assert Report(store).summary() == ()


# what the pair is


def test_the_page_says_what_the_pair_is_in_the_configs_words(tmp_path):
    store = ResultStore(tmp_path)
    side = {"architecture": "LlamaForCausalLM", "n_layers": 4, "parameters": 2_410_176}
    with store.writing():
        store.update(config={"about": "One <b>pair</b>."}, pair={"base": side, "tuned": side})
    assert "One &lt;b&gt;pair&lt;/b&gt;." in Report(store).html()
    with store.writing():
        store.update(config={"about": ""}, pair={"base": side, "tuned": side})
    said = "is taken to be the base (LlamaForCausalLM, 2.41 million parameters in 4 layers) after further training."
    assert said in Report(store).html()
    with store.writing():
        store.update(config={}, pair={"base": side, "tuned": side | {"n_layers": 5}})
    assert "is taken to be the base" not in Report(store).html()
