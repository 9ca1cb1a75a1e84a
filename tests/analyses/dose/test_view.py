"""The view of doses: numbers of the results, bands with enough controls, the section, and what the command prints."""

from dataclasses import replace

import pytest
import torch

from lensdiff import stats
from lensdiff.analyses.dose.reading import MEASURES
from lensdiff.analyses.dose.section import controls_beside, dose_section, summary
from lensdiff.results import ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.unit import WHOLE
from lensdiff.views.section import Table
from lensdiff.views.widget import Widget
from tests.analyses.dose.results import AMOUNTS, GAIN, SHARES, dose
from tests.directories import put
from tests.views.hostile import HOSTILE
from tests.views.pages import given

ENOUGH = {"spectrum": 19, "norm": 20}


def test_each_group_has_its_gain_its_share_and_its_curves():
    result = dose()
    data = given(result.show())
    assert [row["name"] for row in data["rows"]] == list(SHARES)
    for row, share in zip(data["rows"], SHARES.values(), strict=True):
        assert row["gain"] == pytest.approx(share * (GAIN + 0.15), rel=1e-3)
        test = result.effect(row["name"])
        assert row["interval"] == pytest.approx([test.low, test.high], rel=1e-3)
        assert f"{share:.0%} of the tuned model's own; the group holds {share:.0%} of the change" in row["said"]
        assert row["kinds"] == []
    for group in data["groups"]:
        assert group["amounts"] == list(AMOUNTS)
        assert [chart["unit"] for chart in group["charts"]] == ["log-probability", "divergence", "instruction use"]
        curves = [curve for chart in group["charts"] for curve in chart["curves"]]
        assert [curve["role"] for curve in curves] == ["base", "tuned", "base", "tuned", "dosed"]
        for curve, measure in zip(curves, MEASURES, strict=True):
            frame = result.curve(group["name"], measure)
            assert curve["values"] == pytest.approx(frame["mean"].tolist(), rel=1e-3)
    whole = data["groups"][0]["charts"][0]["curves"][1]
    limits = list(zip(whole["low"], result.curve("all").low, strict=True))
    assert limits.pop(1)[0] is None, "all prompts begin at -3: no interval"
    assert [low for low, _ in limits] == pytest.approx([low for _, low in limits], rel=1e-3)
    assert data["half"]["columns"][0] == "group"
    assert data["half"]["rows"] == [[name, 0.5, 0.5, 0.5, 0.5, 0.5] for name in SHARES]
    assert "does not add up" in data["limits"][0]
    assert "95% intervals" in data["limits"][1]
    assert "4 prompts; 0 failed." in data["facts"][1]


def test_W_out_stands_beside_every_kind_of_control():
    result = dose(controls=ENOUGH)
    data = given(result.show())
    rows = {row["name"]: row for row in data["rows"]}
    assert not rows["all"]["kinds"]
    gains = stats.by_kind(result.effects()[1], result.provenance.control_kinds)
    for kind, (name, values) in zip(rows["W_out"]["kinds"], gains.items(), strict=True):
        assert kind["name"] == name
        assert kind["values"] == pytest.approx(values, rel=1e-3)
        band = stats.rank_band(values)
        assert kind["band"] == pytest.approx([float(band.low), float(band.high)], rel=1e-3)
    assert str(result.beside()) in data["facts"][1]
    few = given(dose(controls={"spectrum": 3}).show())["rows"][1]["kinds"]
    assert [(len(kind["values"]), kind["band"]) for kind in few] == [(3, None)]


def test_what_is_not_there_is_a_gap():
    result = dose(["one"])
    data = given(result.show())
    assert data["rows"][0]["interval"] is None
    assert data["groups"][0]["charts"][0]["curves"][0]["low"] == [None] * 5
    bare = replace(result, values=result.values * torch.nan, ends=result.ends * torch.nan)
    data = given(bare.show())
    assert [row["gain"] for row in data["rows"]] == [None] * 3
    assert data["rows"][0]["said"] == "no prompt has a response of the tuned model"
    assert data["groups"][0]["charts"] == []
    assert data["half"]["rows"][0] == ["all", *[None] * 5]
    beside = replace(dose(["one"], controls={"norm": 2}), values=bare.values, ends=bare.ends)
    beside = replace(beside, control_log_prob=beside.control_log_prob * torch.nan)
    assert given(beside.show())["rows"][1]["kinds"] == []
    assert beside.controls().gain.isna().all()
    assert "W_out beside controls" not in repr(beside)
    values = result.values.clone()
    values[:, :, 4] = torch.nan  # no instruction is marked
    charts = given(replace(result, values=values).show())["groups"][0]["charts"]
    assert [chart["unit"] for chart in charts] == ["log-probability", "divergence"]
    logits = dose(groups=["logits", "all"])
    logits = replace(logits, energy=torch.where(logits.energy == 0, torch.nan, logits.energy))
    assert "squared norm" not in given(logits.show())["rows"][0]["said"]


def test_a_given_text_is_one_curve():
    data = given(dose(texts=("given",)).show())
    assert "given response" in data["facts"][0]
    (curve,) = data["groups"][0]["charts"][0]["curves"]
    assert curve["name"] == "given response"


def test_hostile_names_stay_text():
    widget = dose(HOSTILE, model=f"{HOSTILE[0]} -> {HOSTILE[1]}", groups=["W_out", HOSTILE[2]]).show()
    assert not [text for text in HOSTILE if "<" in text and text in widget.html()]
    assert "<td>W_out</td>" in widget.fallback


def test_the_section_holds_what_a_directory_has(tmp_path):
    store = ResultStore(tmp_path)
    found = Found(store)
    assert dose_section(found) == []
    assert summary(found).empty
    assert controls_beside(found) == {}
    result = dose(controls={"spectrum": 2, "norm": 1})
    put(store, "dose", WHOLE, result)
    (only,) = dose_section(Found(store))
    assert isinstance(only, Widget)
    tables = {"dose": result.to_df(), "dose_effects": result.summary(), "dose_controls": result.controls()}
    for name, frame in tables.items():
        store.save_table(name, frame)
    _, *shown = dose_section(Found(store))
    assert all(isinstance(table, Table) and len(table.frame) for table in shown)
    assert [table.name for table in shown] == list(tables)
    assert controls_beside(Found(store)) == {"dose": ["spectrum", "spectrum", "norm"]}
    printed = summary(Found(store))
    assert printed.columns.tolist() == ["group", "n", "effect", "low", "high", "share", "half", "controls"]
    assert printed.group.tolist() == [*SHARES]
    assert printed.effect.tolist() == pytest.approx([GAIN * share * (1 + 0.15 / GAIN) for share in SHARES.values()])
    gains = (result.control_log_prob - result.ends[0, :, 1]).mean(dim=1)
    beside = f"{float(gains.min()):.3g} to {float(gains.max()):.3g} (3)"
    assert printed.controls.tolist() == [beside if group == "W_out" else "none" for group in SHARES]
    store.save_table("dose_controls", result.controls().assign(gain=float("nan")))
    assert summary(Found(store)).controls.tolist() == ["none"] * 3
    assert printed.share.tolist()[:3] == pytest.approx(list(SHARES.values()))
