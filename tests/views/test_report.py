"""The report as text: what it says of the pair, the run, the claims and the sections. In a browser: tests/browser."""

import base64
import gzip
import io
import itertools
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lensdiff.analyses.claims import NAMES, Claim, ControlNumbers, claims
from lensdiff.analyses.evidence import claims_of, instruction_evidence
from lensdiff.analyses.stats import Test
from lensdiff.results import InputError, Provenance, ResultStore
from lensdiff.views import report as report_module
from lensdiff.views.claims import VERDICTS, show_claims
from lensdiff.views.report import Report
from lensdiff.views.section import LONGEST_CELL, Section, Table, cell, compressed_csv, in_prompt_order, sections
from lensdiff.views.widget import bundle
from tests.views.attributions import HOSTILE
from tests.views.directories import instruction_scores, with_attribution
from tests.views.test_widget import embedded

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
    assert "no chat template" in text
    assert "at most 24 tokens" in text
    assert "spectrum-matched meaningless changes of the base (3 for prompts, 99 for rotation)" in text


def test_a_notice_about_the_pair_is_the_first_line(tmp_path):
    store = with_attribution(tmp_path / "run")
    assert "ld-warning" not in Report(store).html().split("<main>")[1].split("</header>")[0]
    with store.writing(store.manifest.config):
        store.describe_pair(store.manifest.pair | {"notice": "equal <script>x</script>"})
        row = {"what": "equal weights", "base": "all", "tuned": "all", "meaning": "said above"}
        store.save_table("differences", pd.DataFrame([row, *store.load_table("differences").to_dict("records")]))
    header = Report(store).html().split("<main>")[1].split("</header>")[0]
    assert header.index('<p class="ld-warning">') < header.index("<h1>")
    assert "equal &lt;script&gt;x" in header
    assert "<script>" not in header
    assert "said above" not in header  # once is enough
    assert "eos: tiny" in text_of(header)


def test_the_claims_are_the_first_widget_and_say_what_the_table_says(store, html):
    first = embedded(html)[0]["claims"]
    assert [c["verdict"] for c in first] == ["shown", "not-testable", "not-testable"]
    assert first[0]["statement"] == claims_of(store).claims[0].statement
    assert first[1]["statement"] == "Its analysis was not run."
    assert first[0]["picture"]["n"] == 3


def test_every_section_has_its_words_its_widgets_and_its_tables(store, html):
    (section,) = (s for s in sections() if s.name == "attribution")
    assert '<section id="attribution"' in html
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
    assert "instruction_scores done 1.2 s" in text or "instruction_scoresdone1.2 s" in text
    assert "&#34;max_new_tokens&#34;: 24" in html


def test_headings_descend_by_one(html):
    levels = [int(n) for n in re.findall(r"<h([1-6])", html.replace(bundle(), ""))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_navigation_leads_to_what_is_there(html):
    targets = set(re.findall(r'href="#([^"]+)"', html))
    assert {"claims", "attribution", "provenance", "pair"} <= targets
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
    assert embedded(html)[1]["prompts"][0]["sides"][0]["in_tokens"] == list(HOSTILE)


def test_sixty_prompts_stay_below_six_megabytes(tmp_path):
    tokens = ([f" word{i}" for i in range(40)], [f" answer{i}" for i in range(24)])
    html = Report(with_attribution(tmp_path, prompts=62, tokens=tokens, name="q")).html()
    assert len(html.encode()) < SIX_MEGABYTES
    assert len(embedded(html)[1]["prompts"]) == 62


# what is missing or went wrong


def test_nothing_but_a_manifest_is_a_report_too(tmp_path):
    store = ResultStore(tmp_path)
    with store.writing({}):
        pass
    text = text_of(Report(store).html())
    assert "was not recorded" in text
    for section in sections():
        assert f"{section.title}: not run" in text
    assert [c["verdict"] for c in embedded(Report(store).html())[0]["claims"]] == ["not-testable"] * 3


def test_failures_and_reasons_are_told(tmp_path):
    store = with_attribution(tmp_path)
    with store.writing(store.manifest.config):
        store.update_step("attribution", failures={f"base/p{i}": "too long" for i in range(7)})
        store.update_step("responses", state="running", units=9, done=["a"])
        store.update_step("verb_shift", state="skipped", note="only 3 verbs stand in the list.")
    html = Report(store).html()
    text = text_of(html)
    assert "attribution, base/p0: too long" in text
    assert "attribution: 2 more units failed" in text
    assert "responses: not finished, 1 of 9 units are done" in text
    assert embedded(html)[0]["claims"][1]["statement"] == "Only 3 verbs stand in the list."


def test_what_is_shared_is_told_only_where_it_was_needed(tmp_path):
    store = with_attribution(tmp_path)
    with store.writing(store.manifest.config):
        store.update_step("responses", state="done", failures={"base/long": "1200 tokens"})
    told = [s.title for s in sections() if report_module._notes(store, s)]
    assert told == ["Which prompt words drive the response"]


def test_run_facts_are_those_of_the_analyses_that_were_asked_for():
    config = {"max_new_tokens": 9, "controls": {"prompts": 5, "heads": 4, "rotation": 99}}
    facts = report_module._run_facts
    assert facts(config | {"analyses": ["weights"]}) == []
    assert facts(config | {"analyses": ["outputs"]}) == ["each model's own greedy response, at most 9 tokens"]
    assert "(4 for heads)" in facts(config | {"analyses": ["heads"]})[0]
    assert "(5 for prompts, 99 for rotation)" in facts(config | {"analyses": ["attention", "mlp"]})[1]


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


def test_a_section_that_is_registered_joins_the_page(store, monkeypatch):
    mine = Section(
        "mine",
        "Mine <b>",
        "Read it. So.",
        99,
        ("nothing",),
        lambda _: ["a & b", Table("t", pd.DataFrame({"x": [1]}), "c")],
    )
    monkeypatch.setattr(report_module, "sections", lambda: [*sections(), mine])
    html = Report(store).html()
    assert '<section id="mine"' in html
    assert "Mine &lt;b&gt;" in html
    assert "<p>a &amp; b</p>" in html


def test_prompts_come_in_the_order_in_which_they_were_given(tmp_path):
    store = ResultStore(tmp_path)
    names = ["outputs/a", "outputs/b/c", "outputs/z", "outputs/later"]
    assert in_prompt_order(store, names) == names
    with store.writing({}):
        for unit in ("base/z", "base/b/c", "tuned/z", "base/a"):
            store.unit_done("responses", unit, 0.0)
    assert in_prompt_order(store, names) == ["outputs/z", "outputs/b/c", "outputs/a", "outputs/later"]
    assert in_prompt_order(store, ["attribution/base/a", "attribution/base/b/c"])[0] == "attribution/base/b/c"


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


def test_every_verdict_has_words_and_a_sign():
    signs = [sign for sign, _ in VERDICTS.values()]
    assert len(set(signs)) == len(signs)
    assert "not testable" in VERDICTS


def test_a_card_draws_interval_and_band_or_the_band_alone():
    test = Test("t", 0.3, 0.1, 0.5, 0.95, 3.0, (9,), 0.01)
    control = ControlNumbers("spectrum", 99, 8.0, 6.0, 10.0)
    one = Claim("instruction", "p", "shown", "s", test, ControlNumbers("norm", 2, 0.0, None, None))
    two = Claim("rotation", "p", "shown", "s", test, control, " degrees", 8.3, True)
    origin = Provenance("claims", "a")
    pictures = [card["picture"] for card in show_claims(report_claims(origin, one, two)).data["claims"]]
    assert pictures[0] | {"effect": 0.3, "interval": [0.1, 0.5], "control": 0.0, "band": None, "n": 2} == pictures[0]
    assert pictures[1] | {"effect": 8.3, "interval": None, "control": 8.0, "band": [6.0, 10.0]} == pictures[1]
    assert pictures[1]["unit"] == " degrees"


def report_claims(origin, *given):
    from lensdiff.analyses.claims import Claims

    return Claims(origin, given)


def test_claims_without_scripts_are_sentences():
    found = claims(
        Provenance("claims", "a"), {"instruction": instruction_evidence(instruction_scores(["a", "b", "c"]))}
    )
    fallback = found.show().fallback
    assert fallback.count("<p>") == len(NAMES)
    assert "Not testable on this pair" in fallback


def test_scores_of_unequal_prompts_are_shown_where_both_are():
    from lensdiff.views.attribution import scores_widget

    table: Any = instruction_scores(["a", "b", "c"])
    kept = table[~((table["model"] == "tuned") & (table["prompt_id"] == "b"))]
    points = scores_widget(kept).data["points"]
    assert [p["id"] for p in points] == ["a", "c"]
    assert torch.tensor([p["base"] for p in points]).isfinite().all()
