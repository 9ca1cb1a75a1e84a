"""The view of instruction use: numbers of the results, bands with enough controls, the section."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lensdiff import stats
from lensdiff.analyses.instruction_use.section import instruction_use_section
from lensdiff.results import ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.unit import WHOLE
from lensdiff.views.section import Table
from lensdiff.views.widget import Widget
from tests.analyses.instruction_use.results import PROMPTS, RISE, instruction_use
from tests.directories import put
from tests.views.hostile import HOSTILE
from tests.views.pages import given

ENOUGH = {"spectrum": 19, "gradient-noise": 24}


def test_a_row_per_prompt_those_that_rose_most_first():
    result = instruction_use()
    data = given(result.show())
    assert [text["name"] for text in data["texts"]] == [
        "mean of all texts",
        "the base's response",
        "the tuned model's response",
    ]
    assert [model["role"] for model in data["models"]] == ["base", "tuned"]
    mean, base, tuned = data["texts"]
    assert [row["id"] for row in base["rows"]] == list(reversed(PROMPTS))
    for text, start in ((mean, 0.6), (base, 0.5), (tuned, 0.7)):
        for place, row in enumerate(text["rows"]):
            i = len(PROMPTS) - 1 - place
            use = start + 0.05 * i
            assert row["values"] == pytest.approx([use, use + RISE + 0.1 * i], rel=1e-3)
            assert (row["band"], row["controls"]) == (None, [])
        means = np.mean([row["values"] for row in text["rows"]], axis=0)
        assert text["means"] == pytest.approx(means.tolist(), rel=1e-3)
    assert base["facts"] == [f"Over prompts, tuned - base: {result.difference('base')}."]
    assert mean["facts"] == [f"Over prompts, tuned - base: {result.difference()}."]
    assert "3 responses too short" in data["facts"][1]


@pytest.mark.parametrize(("by", "how"), [("swap", "instructions of other prompts"), ("deletion", "deleted from the")])
def test_what_the_response_was_read_without_is_said(by, how):
    widget = instruction_use(by=by).show()
    assert how in given(widget)["facts"][0]
    assert f"by {by}" in widget.title
    assert f"Instruction use by {by}" in widget.fallback
    assert "<td>repeat</td>" in widget.fallback


def test_controls_have_a_band_where_every_kind_has_enough():
    result = instruction_use(controls=ENOUGH)
    (base,) = [text for text in given(result.show())["texts"] if text["name"] == "the base's response"]
    frame = result.to_df().query("text == 'base'")
    for row in base["rows"]:
        own = frame[frame["prompt_id"] == row["id"]]
        uses = {kind: own[own["model"].str.contains(kind)]["use"].to_numpy() for kind in ENOUGH}
        assert [len(found) for found in uses.values()] == list(ENOUGH.values())
        bands = [stats.rank_band(found) for found in uses.values()]
        limits = min(float(band.low) for band in bands), max(float(band.high) for band in bands)
        assert row["band"] == pytest.approx(limits, rel=1e-3)
        assert row["controls"] == []
    effect, controls = result.effects("base")
    of_kinds = {"spectrum": controls[:19], "gradient-noise": controls[19:]}
    assert str(stats.against_controls(effect, of_kinds).envelope) in base["facts"][1]


def test_few_controls_are_dots():
    result = instruction_use(controls={"spectrum": 19, "distilled": 3})
    (base,) = [text for text in given(result.show())["texts"] if text["name"] == "the base's response"]
    for row in base["rows"]:
        own = result.to_df().query("text == 'base' and prompt_id == @row['id']")
        assert row["band"] is None
        assert row["controls"] == pytest.approx(own["use"].tolist()[2:], rel=1e-3)
    assert "too few controls to tell" in base["facts"][1]


def test_one_text_is_no_choice_and_one_model_no_difference():
    (only,) = given(instruction_use(texts=["given"]).show())["texts"]
    assert only["name"] == "given response"
    pair = instruction_use(texts=["given"])
    mine = [i for i, model in enumerate(pair.model.tolist()) if model == 1]
    columns = {name: getattr(pair, name)[mine] for name in ("n_out", "n_draws", "log_prob", "log_prob_without")}
    alone = replace(
        pair,
        models=("a",),
        texts=("own",),
        prompt_id=tuple(pair.prompt_id[i] for i in mine),
        text=("own",) * len(mine),
        model=torch.zeros(len(mine), dtype=torch.int64),
        **columns,
    )
    data = given(alone.show())
    assert data["models"] == [{"role": "tuned", "name": "a"}]
    (text,) = data["texts"]
    assert [row["values"] for row in text["rows"]] == [[pytest.approx(u, rel=1e-3)] for u in (2.95, 2.8, 2.65, 2.5)]
    assert text["facts"] == []


def test_a_prompt_without_a_use_in_every_model_has_no_row():
    result = instruction_use()
    without = result.log_prob_without.clone()
    without[0] = torch.nan  # the first prompt, base's text, base
    data = given(replace(result, log_prob_without=without).show())
    counts = [len(text["rows"]) for text in data["texts"]]
    assert counts == [3, 3, 4]
    assert "1 prompt of which nothing would be left" in data["facts"][1]
    nothing = given(replace(result, log_prob_without=torch.full_like(without, torch.nan)).show())["texts"]
    assert [text["rows"] for text in nothing] == [[], [], []]
    assert all("a difference needs 2" in text["facts"][0] for text in nothing)


def test_names_cannot_break_out():
    ids = [f"{text[:60]}{i}" for i, text in enumerate(HOSTILE)]
    page = instruction_use(ids, model=f"a -> {HOSTILE[0]}", controls={"spectrum": 2}).show().html()
    assert HOSTILE[0] not in page
    assert HOSTILE[1] not in page


def test_the_section_holds_what_a_directory_has(tmp_path):
    store = ResultStore(tmp_path)
    assert instruction_use_section(Found(store)) == []
    use = instruction_use(controls={"spectrum": 2})
    put(store, "instruction_use", WHOLE, use)
    (only,) = instruction_use_section(Found(store))
    assert isinstance(only, Widget)
    put(store, "instruction_use_deletion", WHOLE, instruction_use(by="deletion"))
    store.save_table("instruction_use", use.to_df())
    store.save_table("instruction_use_differences", use.differences())
    swap, deletion, *tables = instruction_use_section(Found(store))
    assert "by swap" in swap.title
    assert "by deletion" in deletion.title
    assert all(isinstance(table, Table) and len(table.frame) for table in tables)
    assert [table.name for table in tables] == ["instruction_use", "instruction_use_differences"]
