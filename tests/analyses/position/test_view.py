"""The view of importance over prompt positions holds the table's numbers, and text in place of the picture."""

from lensdiff.analyses.position.measure import position_profile
from tests.analyses.attribute.results import attribution
from tests.views.hostile import HOSTILE
from tests.views.pages import given


def test_both_lines_have_their_intervals():
    base, tuned = ([attribution(prompt_id=f"p{i}", seed=start + i) for i in range(4)] for start in (0, 10))
    result = position_profile(base, tuned, n_bins=4, level=0.9)
    widget, frame = result.show(), result.to_df()
    assert given(widget)["parts"] == ["0–25", "25–50", "50–75", "75–100"]
    for side in ("base", "tuned"):
        assert given(widget)[side]["values"] == [float(f"{v:.4g}") for v in frame[side]]
        assert given(widget)[side]["high"] == [float(f"{v:.4g}") for v in frame[f"{side}_high"]]
    assert any("90% intervals" in text for text in given(widget)["limits"])
    assert [text.split(":")[0] for text in given(widget)["facts"]] == list(result.shapes)
    assert "Importance by part of the prompt" in widget.fallback


def test_a_model_name_cannot_break_out():
    maps = [attribution(prompt_id=f"p{i}", model=HOSTILE[0]) for i in range(2)]
    page = position_profile(maps, maps).show().html()
    assert HOSTILE[0] not in page
