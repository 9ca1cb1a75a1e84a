"""The maps of patches: cells, scales and totals of the results, what lies beyond the controls, the section."""

import pytest
import torch

from lensdiff.analyses.patch.section import patch_section
from lensdiff.results import ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.unit import WHOLE
from lensdiff.views.section import Table
from tests.analyses.patch.results import GROUPS, HEADS, LAYERS, PLANTED, PROMPTS, TOTAL, patched, set_patch
from tests.directories import put
from tests.views.hostile import HOSTILE
from tests.views.pages import given

ENOUGH = {"spectrum": 19}


def test_a_map_has_layers_down_and_a_column_for_the_mlp():
    result = patched(controls=ENOUGH)
    data = given(result.show())
    assert data["prompts"] == [f"mean of {len(PROMPTS)} prompts", *PROMPTS]
    parts, stream = data["grids"]
    assert parts["layers"] == [f"layer {layer}" for layer in range(LAYERS)]
    assert parts["columns"] == [*map(str, range(HEADS)), "MLP"]
    assert parts["scales"] == ["heads"] * HEADS + ["MLP"]
    assert stream["layers"] == [f"layer {layer}" for layer in range(LAYERS + 1)]
    assert stream["columns"] == list(GROUPS)
    for side, sign in zip(parts["directions"], (1, -1), strict=True):
        assert side["totals"] == [sign * TOTAL] * 3
        layer, head = PLANTED
        effects = [cells[layer][head][0] for cells in side["cells"]]
        assert effects == pytest.approx([sign * x for x in (1.55, 1.5, 1.6)])
        assert side["cells"][0][layer][head][1] == pytest.approx(1.55 / TOTAL, abs=1e-3)
    first = result.means().iloc[0]
    band = parts["directions"][0]["cells"][0][0][0][2:4]
    assert band == pytest.approx(first[["control_low", "control_high"]].tolist(), rel=1e-2)
    assert parts["directions"][1]["cells"][0][0][0][2:] == [None, None, False]
    assert "do not add up" in data["note"]
    assert "19 control models (19 spectrum)" in data["facts"][0]
    assert data["top"]["rows"][0][:2] == ["base", f"layer {PLANTED[0]}, head {PLANTED[1]}"]


def test_one_prompt_is_no_choice_and_what_is_estimated_is_said():
    data = given(patched(PROMPTS[:1], estimated=True).show())
    assert data["prompts"] == [PROMPTS[0]]
    cells = data["grids"][0]["directions"][0]["cells"][0]
    assert cells[0][0] == [pytest.approx(0.21), None, None, None, True]
    assert cells[0][1][-1] is False
    assert "into base: 16 runs, correlation 1" in data["facts"][1]
    assert "No controls were made" in data["facts"][0]


def test_a_set_stands_before_random_sets_and_controls():
    data = given(set_patch(controls=ENOUGH).show())
    base, tuned = data["directions"]
    assert (base["effect"], base["total"]) == (1.0, 2.0)
    assert (tuned["effect"], tuned["total"]) == (-0.5, -2.0)
    assert [lane["name"] for lane in base["lanes"]] == ["random heads", "spectrum controls"]
    assert [lane["name"] for lane in tuned["lanes"]] == ["random heads"]
    assert len(base["lanes"][0]["values"]) == 19
    assert "layer 0 head 1, layer 1 head 0" in data["facts"][0]
    assert "p = 0.05" in base["told"]


def test_names_cannot_break_out():
    ids = [f"{text[:60]}{i}" for i, text in enumerate(HOSTILE)]
    for widget in (patched(ids, model=f"a -> {HOSTILE[0]}").show(), set_patch(ids, model=HOSTILE[1]).show()):
        page = widget.html()
        assert HOSTILE[0] not in page
        assert HOSTILE[1] not in page


def test_the_section_holds_what_a_directory_has(tmp_path):
    store = ResultStore(tmp_path)
    assert patch_section(Found(store)) == []
    result, together = patched(), set_patch()
    put(store, "patch", WHOLE, result)
    assert len(patch_section(Found(store))) == 1
    put(store, "patch_set", WHOLE, together)
    store.save_table("patch", result.to_df())
    store.save_table("patch_set", together.to_df())
    maps, heads, *tables = patch_section(Found(store))
    assert not isinstance(maps, str | Table)
    assert not isinstance(heads, str | Table)
    assert "Patches" in maps.title
    assert "patched together" in heads.title
    assert [table.name for table in tables if isinstance(table, Table)] == ["patch", "patch_set"]


def test_rows_without_heads_or_stream_are_shown_too():
    from dataclasses import replace

    result = patched()
    some = [i for i, component in enumerate(result.component) if component == "mlp"]
    columns = {
        name: getattr(result, name)[:, some] for name in ("clean", "donor", "effect", "estimate", "other_effect")
    }
    only = replace(
        result,
        component=("mlp",) * len(some),
        layer=result.layer[some],
        head_index=result.head_index[some],
        at=("3,4",) * len(some),
        into=tuple(result.into[i] for i in some),
        control_effect=torch.zeros(0, len(PROMPTS), len(some), dtype=torch.float64),
        **columns,
    )
    (grid,) = given(only.show())["grids"]
    assert (grid["title"], grid["columns"]) == ("MLPs: positions 3,4", ["MLP"])
