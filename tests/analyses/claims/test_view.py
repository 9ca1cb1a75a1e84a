"""The views of instruction use and value rotation: numbers of the results, bands with enough controls, sections."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lensdiff import stats
from lensdiff.analyses import ANALYSES
from lensdiff.analyses.instruction_use.section import instruction_use_section
from lensdiff.analyses.value_rotation.section import value_rotation_section
from lensdiff.pipeline.report import in_order
from lensdiff.results import ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.unit import WHOLE
from lensdiff.views.section import Table
from lensdiff.views.widget import Widget
from tests.directories import put
from tests.views.attributions import HOSTILE
from tests.views.claim_results import PROMPTS, RISE, instruction_use, value_rotation

ENOUGH = {"spectrum": 19, "gradient-noise": 24}


# instruction use


def test_a_row_per_prompt_those_that_rose_most_first():
    result = instruction_use()
    data = result.show().data
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
    assert "3 responses that are too short" in data["facts"][1]


@pytest.mark.parametrize(("by", "how"), [("swap", "instructions of other prompts"), ("deletion", "deleted from the")])
def test_what_the_response_was_read_without_is_said(by, how):
    widget = instruction_use(by=by).show()
    assert how in widget.data["facts"][0]
    assert f"by {by}" in widget.title
    assert f"Instruction use by {by}" in widget.fallback
    assert "<td>repeat</td>" in widget.fallback


def test_controls_have_a_band_where_every_kind_has_enough():
    result = instruction_use(controls=ENOUGH)
    (base,) = [text for text in result.show().data["texts"] if text["name"] == "the base's response"]
    frame = result.to_df().query("text == 'base'")
    for row in base["rows"]:
        own = frame[frame["prompt_id"] == row["id"]]
        uses = {kind: own[own["model"].str.contains(kind)]["use"].to_numpy() for kind in ENOUGH}
        assert [len(found) for found in uses.values()] == list(ENOUGH.values())
        band = stats.envelope_band({kind: found[:, None] for kind, found in uses.items()})
        assert row["band"] == pytest.approx([float(band.low[0]), float(band.high[0])], rel=1e-3)
        assert row["controls"] == []
    effect, controls = result.effects("base")
    assert str(stats.envelope(effect, stats.by_kind(controls, result.control_kinds[2:]))) in base["facts"][1]


def test_few_controls_are_dots():
    result = instruction_use(controls={"spectrum": 19, "distilled": 3})
    (base,) = [text for text in result.show().data["texts"] if text["name"] == "the base's response"]
    for row in base["rows"]:
        own = result.to_df().query("text == 'base' and prompt_id == @row['id']")
        assert row["band"] is None
        assert row["controls"] == pytest.approx(own["use"].tolist()[2:], rel=1e-3)
    assert "too few controls to tell" in base["facts"][1]


def test_one_text_is_no_choice_and_one_model_no_difference():
    (only,) = instruction_use(texts=["given"]).show().data["texts"]
    assert only["name"] == "given response"
    pair = instruction_use(texts=["given"])
    mine = [i for i, model in enumerate(pair.model.tolist()) if model == 1]
    columns = {name: getattr(pair, name)[mine] for name in ("n_out", "n_draws", "log_prob", "log_prob_without")}
    alone = replace(
        pair,
        models=("a",),
        control_kinds=("",),
        texts=("own",),
        prompt_id=tuple(pair.prompt_id[i] for i in mine),
        text=("own",) * len(mine),
        model=torch.zeros(len(mine), dtype=torch.int64),
        **columns,
    )
    data = alone.show().data
    assert data["models"] == [{"role": "tuned", "name": "a"}]
    (text,) = data["texts"]
    assert [row["values"] for row in text["rows"]] == [[pytest.approx(u, rel=1e-3)] for u in (2.95, 2.8, 2.65, 2.5)]
    assert text["facts"] == []


def test_a_prompt_without_a_use_in_every_model_has_no_row():
    result = instruction_use()
    without = result.log_prob_without.clone()
    without[0] = torch.nan  # the first prompt, base's text, base
    data = replace(result, log_prob_without=without).show().data
    counts = [len(text["rows"]) for text in data["texts"]]
    assert counts == [3, 3, 4]
    assert "1 prompts of which nothing would be left" in data["facts"][1]
    nothing = replace(result, log_prob_without=torch.full_like(without, torch.nan)).show().data["texts"]
    assert [text["rows"] for text in nothing] == [[], [], []]
    assert all("a difference needs 2" in text["facts"][0] for text in nothing)


# value rotation


def test_the_curve_has_a_band_for_each_kind_with_enough_controls():
    result = value_rotation(controls=ENOUGH | {"distilled": 4}, changed=True)
    data = result.show().data
    assert data["shares"] == pytest.approx(result.shares.tolist(), rel=1e-3)
    assert [band["name"] for band in data["bands"]] == ["spectrum controls (19)", "gradient-noise controls (24)"]
    for band, kind in zip(data["bands"], ENOUGH, strict=True):
        low, high = result.band(kind)
        assert band["low"] == pytest.approx(low.tolist(), rel=1e-3)
        assert band["high"] == pytest.approx(high.tolist(), rel=1e-3)
    (dots,) = data["dots"]
    assert dots["name"] == "distilled controls (4)"
    assert np.array(dots["values"]).T.tolist() == pytest.approx(result.of_kind("distilled").numpy(), rel=1e-3)
    said = " ".join(data["facts"])
    assert "too few controls to tell" in said
    assert "18 neurons stand in another place" in said
    assert "basis was changed" in said
    assert "Share by layer" in result.show().fallback


def test_what_is_said_of_the_mean_is_the_envelope():
    result = value_rotation(controls=ENOUGH)
    assert result.show().data["facts"] == [f"Mean share over 6 layers: {result.beside()}."]
    alone = value_rotation().show().data
    assert alone["facts"][0] == "Mean over 6 layers: share 0.45."
    assert "Without controls nothing says" in alone["facts"][1]
    assert (alone["bands"], alone["dots"]) == ([], [])
    still = replace(value_rotation(), change=torch.zeros(6, dtype=torch.float64)).show().data
    assert "6 layers have no change." in still["facts"]


# pages and sections


def test_names_cannot_break_out():
    ids = [f"{text[:60]}{i}" for i, text in enumerate(HOSTILE)]
    for widget in (
        instruction_use(ids, model=f"a -> {HOSTILE[0]}", controls={"spectrum": 2}).show(),
        value_rotation(model=f"a -> {HOSTILE[0]}", controls={"spectrum": 2}).show(),
    ):
        assert HOSTILE[0] not in widget.html()
        assert HOSTILE[1] not in widget.html()


def test_sections_hold_what_a_directory_has(tmp_path):
    store = ResultStore(tmp_path)
    found = Found(store)
    assert instruction_use_section(found) == value_rotation_section(found) == []
    use, rotation = instruction_use(controls={"spectrum": 2}), value_rotation(controls={"spectrum": 2})
    put(store, "instruction_use", WHOLE, use)
    (only,) = instruction_use_section(found)
    assert isinstance(only, Widget)
    put(store, "instruction_use_deletion", WHOLE, instruction_use(by="deletion"))
    store.save_table("instruction_use", use.to_df())
    store.save_table("instruction_use_differences", use.differences())
    swap, deletion, *tables = instruction_use_section(found)
    assert "by swap" in swap.title
    assert "by deletion" in deletion.title
    assert [table.name for table in tables] == ["instruction_use", "instruction_use_differences"]
    put(store, "value_rotation", WHOLE, rotation)
    store.save_table("value_rotation", rotation.to_df())
    store.save_table("value_rotation_controls", rotation.controls())
    widget, *tables = value_rotation_section(found)
    assert isinstance(widget, Widget)
    assert all(isinstance(table, Table) and len(table.frame) for table in tables)
    assert [table.name for table in tables] == ["value_rotation", "value_rotation_controls"]
    names = [analysis.name for analysis, _ in in_order(ANALYSES)]
    assert names.index("instruction_use") < names.index("attribute")
    assert names.index("mlp") < names.index("value_rotation")
