"""The report as text: what it says of the pair, the run, the claims and the sections. In a browser: tests/browser."""

import base64
import gzip
import html as html_module
import io
import itertools
import re
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch

from lensdiff import stats
from lensdiff.analyses import ANALYSES
from lensdiff.analyses.claims.evidence import INSTRUCTION, ROTATION
from lensdiff.analyses.claims.measure import NAMES, Claims, Evidence, Verdict, Way, claims
from lensdiff.analyses.claims.view import VERDICTS, show_claims
from lensdiff.analyses.claims.words import Made
from lensdiff.pipeline import report as report_module
from lensdiff.pipeline.config import ASKED
from lensdiff.pipeline.report import Report, in_order
from lensdiff.results import InputError, Provenance, ResultStore
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.found import Found
from lensdiff.steps.options import Options
from lensdiff.steps.responses import SaidResponse
from lensdiff.steps.unit import WHOLE, Unit
from lensdiff.views.section import LONGEST_CELL, Section, Table, cell, compressed_csv
from lensdiff.views.widget import bundle
from tests.analyses.attribute.results import instruction_scores
from tests.analyses.claims.results import answers
from tests.analyses.instruction_use.results import instruction_use
from tests.analyses.value_rotation.results import value_rotation
from tests.directories import ask, put, record
from tests.views.directories import said, with_attribution
from tests.views.hostile import HOSTILE
from tests.views.pages import embedded, given

SIX_MEGABYTES = 6_000_000


def text_of(html):
    """What a reader sees outside of widgets: no tags, no scripts, white space as one space."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", html.replace(bundle(), ""), flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", body))


def unpacked(html, name):
    (text,) = re.findall(rf'data-name="{name}.csv" data-csv="([^"]+)"', html)
    return pd.read_csv(io.BytesIO(gzip.decompress(base64.b64decode(text))))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return with_attribution(tmp_path_factory.mktemp("run"), effect=1.5)


@pytest.fixture(scope="module")
def html(store):
    return Report(store).html()


# the page


def test_the_first_screen_names_the_pair_and_what_differs(html):
    text = text_of(html)
    assert "base tiny → tuned tiny" in text
    assert "layers 2 (base), 3 (tuned)" in text
    assert "parameters 1,234,567" in text
    assert "Comparable: same architecture, shapes and tokens. They differ beside their weights in:" in text
    assert "eos: tiny (base), 3 (tuned); responses end differently" in text
    assert "Differences are always tuned − base" in text  # and nothing of renderings: no result has any
    assert "at most 24 tokens" in text
    assert "controls, meaningless" not in text  # the config asks for some, and no result has any


def test_a_notice_about_the_pair_is_the_first_line(tmp_path):
    store = with_attribution(tmp_path / "run")
    assert "ld-warning" not in Report(store).html().split("<main>")[1].split("</header>")[0]
    with store.writing():
        store.update(pair=store.manifest.pair | {"notice": "equal <script>x</script>"})
        row = {"what": "equal weights", "base": "all", "tuned": "all", "meaning": "said above"}
        store.save_table("differences", pd.DataFrame([row, *store.load_table("differences").to_dict("records")]))
    header = Report(store).html().split("<main>")[1].split("</header>")[0]
    assert header.index('<p class="ld-warning">') < header.index("<h1>")
    assert "equal &lt;script&gt;x" in header
    assert "<script>" not in header
    assert "said above" not in header  # once is enough
    assert "eos: tiny" in text_of(header)


def test_the_claims_follow_the_responses_and_say_what_the_table_says(store, html):
    first = embedded(html)[1]["claims"]
    assert [c["verdict"] for c in first] == ["shown", "not-testable", "not-testable"]
    found = store.load_result("claims", Claims)
    assert first[0]["statement"] == found.claims[0].statement
    assert first[1]["statement"] == "Its analysis was not run."
    assert [(kind["name"], len(kind["values"])) for kind in first[0]["picture"]["kinds"]] == [
        ("spectrum", 59),
        ("gradient-noise", 59),
    ]
    table = unpacked(html, "claims")
    assert table.verdict.tolist() == ["shown", "not testable", "not testable"]
    assert table.p_adjusted[0] == pytest.approx(found.claims[0].p_adjusted, rel=1e-5)
    kinds = unpacked(html, "claim_controls")
    assert kinds[["claim", "kind", "n", "made"]].values.tolist() == [
        ["instruction", "spectrum", 59, 59],
        ["instruction", "gradient-noise", 59, 59],
    ]


def test_every_section_has_its_words_its_widgets_and_its_tables(store, html):
    (section,) = (section for analysis, section in in_order(ANALYSES) if analysis.name == "attribute")
    assert '<section id="attribute"' in html
    assert section.how in text_of(html).replace("&#39;", "'")
    for name in ("instruction_scores", "attribution"):
        frame = store.load_table(name)
        found = unpacked(html, name)
        assert found.columns.tolist() == frame.columns.tolist()
        assert len(found) == len(frame)
    np.testing.assert_allclose(unpacked(html, "attribution").score, store.load_table("attribution").score, rtol=1e-5)


def test_the_page_holds_circuitsvis_once_and_asks_for_nothing(html):
    assert html.count(bundle()) == 1
    assert "default-src 'none'" in html
    assert not re.findall(r"<(?:link|iframe|img|object|embed)\b|<script[^>]+src", html.replace(bundle(), ""))


def test_provenance_is_in_the_footer(html):
    text = text_of(html)
    assert re.search(r"python 3\.\d+.*torch \d.*Seed 3\.", text)
    assert "attribution done 3.0 s" in text or "attributiondone3.0 s" in text
    assert "&#34;max_new_tokens&#34;: 24" in html


def test_headings_descend_by_one(html):
    levels = [int(n) for n in re.findall(r"<h([1-6])", html.replace(bundle(), ""))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_navigation_leads_to_what_is_there(html):
    targets = set(re.findall(r'href="#([^"]+)"', html))
    assert {"claims", "attribute", "provenance", "pair"} <= targets
    assert targets <= set(re.findall(r'id="([^"]+)"', html))


def test_hostile_names_are_escaped_everywhere(tmp_path):
    names = "".join(HOSTILE[:5])
    html = Report(with_attribution(tmp_path, tokens=(HOSTILE, HOSTILE), name=names[:180])).html()
    allowed = html.replace(bundle(), "")
    assert "<img" not in allowed
    assert "<svg onload" not in allowed
    assert (
        re.findall(r"<script\b[^>]*>", allowed)
        == ['<script type="application/json">'] * len(embedded(html)) + ["<script>"] * 2
    )
    assert embedded(html)[2]["prompts"][0]["sides"][0]["in_tokens"] == list(HOSTILE)


def test_sixty_prompts_stay_below_six_megabytes(tmp_path):
    tokens = ([f" word{i}" for i in range(40)], [f" answer{i}" for i in range(24)])
    html = Report(with_attribution(tmp_path, prompts=62, tokens=tokens, name="q")).html()
    assert len(html.encode()) < SIX_MEGABYTES
    assert len(embedded(html)[2]["prompts"]) == 62


# what is missing or went wrong


def test_nothing_but_a_manifest_is_a_report_too(tmp_path):
    store = ResultStore(tmp_path)
    with store.writing():
        pass
    text = text_of(Report(store).html())
    assert "was not recorded" in text
    for analysis, section in in_order(ANALYSES):
        told = f"{section.title}: not run" in html_module.unescape(text)
        assert told == (analysis.done == "asked")  # what no run does is not missing from one
    assert "The answers are written when the run has ended." in text
    assert 'data-view="claims"' not in Report(store).html()


def test_answers_of_an_earlier_run_are_said_to_be_that(tmp_path):
    store, told = with_attribution(tmp_path), "The run has not ended: these answers are of what was done before."
    assert told not in text_of(Report(store).html())
    with store.writing():
        store.update(ended=False)
    assert told in text_of(Report(store).html())


def test_failures_and_reasons_are_told(tmp_path):
    store = with_attribution(tmp_path)
    with store.writing():
        store.update(ended=False)
        for i in range(7):
            record(store, "attribution", Unit("base", f"p{i}"), outcome="failed", reason="too long")
        ask(store, "responses", *(Unit("base", f"later-{i}") for i in range(3)))
    html = Report(store).html()
    text = text_of(html)
    assert "attribution, base/p0: too long" in text
    assert "attribution: 2 more units failed" in text
    assert "responses: not finished, 12 of 15 units done" in text


def test_what_is_shared_is_told_only_where_it_was_needed(tmp_path):
    store = with_attribution(tmp_path)
    with store.writing():
        record(store, "responses", Unit("base", "long"), outcome="failed", reason="1200 tokens")
    told = [section.title for analysis, section in in_order(ANALYSES) if report_module._notes(store, analysis)]
    assert told == ["Which prompt words drive the response"]


def test_run_facts_are_those_of_the_results_whatever_the_config_says(tmp_path):
    def facts(name: str, **responses: Any) -> list[str]:
        store = ResultStore(tmp_path / name)
        controls = {"instruction_use": 5, "value_rotation": 99}
        with store.writing():
            store.update(config={"max_new_tokens": 9, "analyses": list(ASKED), "controls": controls})
            for prompt, response in responses.items():
                put(store, "responses", Unit("base", prompt), response)
            return report_module._run_facts(store)

    assert facts("nothing") == []  # asked for, and not made
    assert facts("own", sea=said("sea")) == [
        "prompts are raw, without a chat template",
        "each model's own greedy response, at most 24 tokens",
    ]
    given = replace(said("sea"), given=True, provenance=Provenance("responses", "tiny"))
    assert facts("given", sea=given) == ["prompts are raw, without a chat template"]
    chat = replace(given, provenance=Provenance("responses", "tiny", options={"template": "chat"}))
    rendered = "both models read the prompts in the tuned model's chat template"
    assert facts("chat", sea=chat) == [rendered]
    # of two runs: what is there is told, each once
    assert facts("both", sea=chat, moon=given) == [rendered, "prompts are raw, without a chat template"]


def test_controls_are_told_as_results_have_them_whatever_the_config_says(tmp_path):
    store = ResultStore(tmp_path)
    with store.writing():
        store.update(config={"controls": {"kinds": ["norm"], "instruction_use": 7, "value_rotation": 99}})
        put(store, "instruction_use", WHOLE, instruction_use(controls={"spectrum": 3, "distilled": 1}))
        put(store, "value_rotation", WHOLE, value_rotation(controls={"gradient-noise": 2}))
        (fact,) = report_module._run_facts(store)
        assert fact == (
            "controls, meaningless changes of the base: 3 spectrum, 1 distilled for instruction use; "
            "2 gradient-noise for rotation"
        )
        assert fact in text_of(Report(store).html())
        put(store, "instruction_use", WHOLE, instruction_use())
        (fact,) = report_module._run_facts(store)
        assert fact == "controls, meaningless changes of the base: 2 gradient-noise for rotation"


def test_pairs_without_differences_are_said_to_have_none(tmp_path):
    store = with_attribution(tmp_path)
    store.save_table("differences", store.load_table("differences").head(0))
    assert "Beside their weights they do not differ." in text_of(Report(store).html())


def test_a_directory_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"is no results directory of lensdiff: it has no manifest\.json"):
        Report(tmp_path)


def test_saving_here_and_elsewhere(store, tmp_path, html):
    assert Report(store.root).save() == store.root / "report.html"
    elsewhere = Report(str(store.root)).save(tmp_path / "new" / "page.html")
    ids = re.compile(r'id="ld-\d+"')
    assert ids.sub("", elsewhere.read_text(encoding="utf-8")) == ids.sub("", html)


def test_an_analysis_of_the_list_joins_the_page(store, monkeypatch, tmp_path):
    table = Table("t", pd.DataFrame({"x": [1]}), "c")
    mine = ModuleType("mine.section")
    vars(mine)["SECTION"] = Section("Mine <b>", "Read it. So.", 99, lambda found: ["a & b", table])
    steps = ModuleType("mine.steps")
    vars(steps).update(STEPS=(), TABLES=())
    for module in (mine, steps):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    analysis = Analysis("mine", "What is mine", Options, package="mine")
    monkeypatch.setattr(report_module, "ANALYSES", (*ANALYSES, analysis))
    html = Report(store).html()
    assert '<section id="mine"' in html
    assert "Mine &lt;b&gt;" in html
    assert "<p>a &amp; b</p>" in html


def test_a_unit_that_the_last_run_did_not_ask_for_is_not_shown(tmp_path):
    store = with_attribution(tmp_path, prompts=3)
    with store.writing():
        state = store.step("attribution")
        left = [name for name in state.wanted if not name.endswith("p-1")]
        store.update(steps=store.manifest.steps | {"attribution": state.model_copy(update={"wanted": left})})
    shown = embedded(Report(store).html())[2]["prompts"]
    assert [prompt["label"].split(":")[0] for prompt in shown] == ["p-0", "p-2"]


def test_prompts_come_in_the_order_in_which_they_were_asked_for(tmp_path):
    store = ResultStore(tmp_path)
    names = ["z", "b/c", "a"]
    with store.writing():
        for name in names:
            put(store, "responses", Unit("base", name), said(name))
    assert Found(store).prompts("responses", "base") == names
    assert [response.prompt_id for response in Found(store).each("responses", SaidResponse, "base")] == names


# tables and cells


def test_a_table_that_is_too_large_is_named_with_its_file():
    noise = pd.DataFrame({"x": np.random.default_rng(0).random(200_000)})
    found = Table("some/table", noise, "noise").html()
    assert "200,000 rows, too many for this page: tables/some/table.parquet" in found
    assert "data-csv" not in found
    assert found.count("<tr>") == 31


def test_compressed_tables_are_the_same_each_time():
    frame = pd.DataFrame({"a": [1.23456789, np.nan], "b": ['x,"y"\n', "😀"]})
    assert compressed_csv(frame) == compressed_csv(frame)
    back: Any = pd.read_csv(io.BytesIO(gzip.decompress(base64.b64decode(compressed_csv(frame)))))
    assert back["b"].tolist() == frame["b"].tolist()
    assert back["a"][0] == pytest.approx(1.23457)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.23456, "1.235"),
        (float("nan"), "–"),
        (None, "–"),
        (pd.NA, "–"),
        (True, "yes"),
        (np.False_, "no"),
        (7, "7"),
        ("a\n\tb\r", "a⏎⇥b␍"),
        ("x" * 500, "x" * (LONGEST_CELL - 1) + "…"),
    ],
)
def test_cells(value, shown):
    assert cell(value) == shown


# the claims' cards


BAND = {"spectrum": np.linspace(-1, 1, 59).tolist(), "gradient-noise": np.linspace(-2, 0.5, 59).tolist()}
FEW = {kind: values[::3][:19] for kind, values in BAND.items()}
RUINED = (Made("spectrum", 59, 59, 59), Made("gradient-noise", 59, 59, 0))
OTHERWISE = (Way("on the base text", -0.3, "the text"),)
CASES: dict[str, tuple[Evidence | str, str, str, str]] = {
    "shown": (Evidence(9.0, INSTRUCTION, BAND), "✓", "Shown for this pair", "The response depends more on"),
    "opposite": (Evidence(-9.0, INSTRUCTION, BAND), "⇄", "The opposite is shown", "The response depends less on"),
    "beyond, too few": (
        Evidence(9.0, INSTRUCTION, FEW),
        "△",
        "Beyond all controls, too few for a corrected p",
        "The response depends more on its instruction than after meaningless changes",
    ),
    "within controls": (
        Evidence(0.1, INSTRUCTION, BAND),
        "≈",
        "No more than meaningless changes",
        "Instruction use, tuned less base, +0.1 nats per token; the 95 % bands of meaningless",
    ),
    "not shown": (
        Evidence(9.0, INSTRUCTION, BAND, beside={"permuted labels": 0.4}),
        "○",
        "Not shown",
        "Instruction use, tuned less base, +9 nats per token; the 95 % bands of meaningless",
    ),
    "depends": (
        Evidence(9.0, INSTRUCTION, BAND, ways=OTHERWISE),
        "∼",
        "Depends on how it is asked",
        "It depends on the text (on the base text -0.3 nats per token)",
    ),
    "too few controls": (
        Evidence(9.0, INSTRUCTION, {"spectrum": [0.1, 0.2]}),
        "?",
        "Too few controls to tell",
        "Instruction use, tuned less base, +9 nats per token; 2 spectrum were made",
    ),
    "not testable": (
        Evidence(9.0, INSTRUCTION, BAND, RUINED),
        "–",
        "Not testable on this pair",
        "A change of this size ruins the base, whatever it means (59 of 59 spectrum controls",
    ),
}


def card_of(evidence: Evidence | str) -> dict[str, Any]:
    """The first claim's card."""
    return given(show_claims(claims(Provenance("claims", "a"), {"instruction": evidence})))["claims"][0]


def test_every_verdict_has_words_and_a_sign_of_its_own():
    assert set(VERDICTS) == set(get_args(Verdict)) == set(CASES)
    assert len({sign for sign, _ in VERDICTS.values()}) == len({text for _, text in VERDICTS.values()}) == len(VERDICTS)


@pytest.mark.parametrize("verdict", CASES)
def test_a_card_says_what_the_claims_verdict_is_once(verdict):
    evidence, sign, said, beginning = CASES[verdict]
    card = card_of(evidence)
    assert card["verdict"] == verdict.replace(",", "").replace(" ", "-")
    assert (card["sign"], card["answer"]) == (sign, said)
    assert card["statement"].startswith(beginning)
    assert not card["statement"].startswith(said)
    (claim, *_) = claims(Provenance("claims", "a"), {"instruction": evidence}).claims
    assert claim.verdict == verdict
    assert claim.statement.lower().endswith(card["statement"].lower())


def test_a_card_draws_the_effect_and_every_control_with_a_band_where_there_are_enough():
    controls = {"spectrum": BAND["spectrum"], "norm": [0.12345678, -3.0]}
    picture = card_of(Evidence(0.3, INSTRUCTION, controls, interval=(0.1, 0.5)))["picture"]
    assert (picture["effect"], picture["interval"], picture["unit"]) == (0.3, [0.1, 0.5], " nats per token")
    first, second = picture["kinds"]
    assert (first["name"], second["name"]) == ("spectrum", "norm")
    assert first["values"] == pytest.approx(BAND["spectrum"], rel=1e-3)
    expected = stats.against_controls(0.3, {"spectrum": BAND["spectrum"]}).envelope
    assert first["band"] == list(expected.band or ())
    assert -1 <= first["band"][0] < -0.9
    assert 0.9 < first["band"][1] <= 1
    assert first["median"] == pytest.approx(0, abs=1e-12)
    assert (second["values"], second["band"]) == ([0.1235, -3.0], None)
    alone = card_of(Evidence(0.3, INSTRUCTION))["picture"]
    assert (alone["interval"], alone["kinds"]) == (None, [])
    assert card_of("no prompt marks an instruction")["picture"] is None


def test_a_share_is_drawn_and_said_without_a_sign():
    found = claims(Provenance("claims", "a"), {"rotation": Evidence(0.3, ROTATION, BAND, signed=False)})
    card = given(show_claims(found))["claims"][2]
    assert "is a rotation 0.3;" in card["statement"]
    assert card["picture"]["unit"] == ""


def test_a_cards_facts_are_how_it_was_tested():
    made = (Made("spectrum", 60, 60, 1),)
    evidence = Evidence(9.0, INSTRUCTION, {"spectrum": BAND["spectrum"]}, made, facts=("12 prompts",), ways=OTHERWISE)
    facts = card_of(evidence)["facts"]
    assert facts[0] == "12 prompts"
    assert facts[1] == "on the base text: -0.3 nats per token"
    assert facts[2].startswith("60 spectrum controls made; of 60 run on text 1 predict the base's own text worse")


def test_claims_without_scripts_are_sentences():
    fallback = answers(1.5).show().fallback
    assert fallback.count("<p>") == len(NAMES)
    assert "<p>Shown for this pair: The response depends more on its instruction" in fallback
    assert "Not testable on this pair" in fallback
    hostile = answers(1.5, kinds=HOSTILE[:5]).show()
    assert HOSTILE[0] not in hostile.fragment()
    assert HOSTILE[1] not in hostile.fragment()


def test_scores_of_unequal_prompts_are_shown_where_both_are():
    from lensdiff.analyses.attribute.view import scores_widget

    table: Any = instruction_scores(["a", "b", "c"])
    kept = table[~((table["model"] == "tuned") & (table["prompt_id"] == "b"))]
    points = given(scores_widget(kept))["points"]
    assert [p["id"] for p in points] == ["a", "c"]
    assert torch.tensor([p["base"] for p in points]).isfinite().all()
