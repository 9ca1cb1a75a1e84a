"""Concepts, rotation and coherence in a browser: choosing, the keyboard, hostile words, narrow windows."""

import pytest

from lensdiff.results import Diff
from tests.analyses.annotate.results import random_annotations, shift
from tests.analyses.mlp.results import ANGLE, coherence, concepts, rotation

BOTH = Diff(concepts(), concepts("b", angle=ANGLE))


def test_a_component_shows_its_words_in_both_models(open_page):
    opened = open_page(BOTH.show().html())
    panels = opened.page.locator(".ld-side")
    assert panels.count() == 2
    opened.page.get_by_label("Layer:").select_option(label="layer 3")
    opened.page.get_by_role("button", name="key", exact=True).click()
    opened.page.get_by_role("button", name="2 · 10 %").click()
    for i, result in enumerate((BOTH.base, BOTH.tuned)):
        frame = result.poles().query("layer == 3 and side == 'key' and component == 2")
        shown = panels.nth(i).locator("li").all_inner_texts()
        assert len(shown) == len(frame)
        assert f"{frame.score.iloc[0]:.2f}" in shown[0]
    assert f"{28.6}° from the base's" in panels.nth(1).inner_text()


def test_arrow_keys_choose_a_component(open_page):
    opened = open_page(BOTH.show().html())
    first = opened.page.locator(".ld-concept-list .ld-choice").first
    first.focus()
    opened.page.keyboard.press("ArrowDown")
    assert "component 1 ·" in opened.page.locator(".ld-side").first.inner_text()


def test_the_curve_is_read_with_the_arrow_keys(open_page):
    opened = open_page(rotation().show().html())
    picture = opened.page.locator("svg.ld-lines")
    status = opened.page.locator(".ld-status")
    assert status.inner_text().startswith("Layer 0, first 2 component(s) of the value vectors: mean angle 11.5°")
    picture.focus()
    opened.page.keyboard.press("ArrowRight")
    assert "Layer 3" in status.inner_text()
    assert "gradient-noise controls (99) 2.87° to 17.2°" in status.inner_text()
    assert "spectrum controls (59) 2.58° to 15.5°" in status.inner_text()
    assert "norm" not in status.inner_text(), "too few for a band"
    assert picture.get_attribute("aria-valuetext") == status.inner_text()
    opened.page.keyboard.press("ArrowRight")
    assert "Layer 3" in status.inner_text(), "nothing lies further right"
    opened.page.get_by_role("button", name="1", exact=True).click()
    assert "first 1 component(s)" in status.inner_text()
    assert opened.page.locator(".ld-band").count() == 2


def test_a_point_above_the_band_is_drawn_above_it(open_page):
    opened = open_page(rotation().show().html())
    box = opened.page.locator(".ld-band").first.bounding_box()
    points = opened.page.locator("circle.tuned")
    inside, above = (points.nth(i).bounding_box() for i in (0, 1))
    assert box["y"] < inside["y"] < box["y"] + box["height"]
    assert above["y"] + above["height"] < box["y"]


def test_coherence_shows_both_models_and_chance(open_page):
    opened = open_page(Diff(coherence(), coherence("b", shift=0.1)).show().html())
    status = opened.page.locator(".ld-status")
    assert "base 66.7; tuned 66.7; expected without meaning 5" in status.inner_text()
    opened.page.get_by_role("button", name="mean coherence").click()
    text = "base 0.4; tuned 0.5; random directions of base 0.25; random directions of tuned 0.25"
    assert text in status.inner_text()


@pytest.mark.parametrize("result", [BOTH, rotation(), coherence()], ids=["concepts", "rotation", "coherence"])
def test_a_narrow_window_needs_no_sideways_scrolling(open_page, result):
    opened = open_page(result.show().html(), width=400)
    opened.page.wait_for_selector(".ld-side, .ld-lines")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 400


def test_the_curve_follows_the_width_of_the_window(open_page):
    opened = open_page(rotation().show().html(), width=1200)
    picture = opened.page.locator("svg.ld-lines")
    wide = picture.bounding_box()["width"]
    opened.page.set_viewport_size({"width": 420, "height": 800})
    opened.page.wait_for_function(
        f"document.querySelector('svg.ld-lines').getBoundingClientRect().width < {wide - 100}"
    )
    assert picture.bounding_box()["width"] <= 420


def test_a_label_is_chosen_and_read_by_groups_of_layers(open_page):
    result = shift()
    opened = open_page(result.show().html(), width=400)
    opened.page.get_by_role("button", name="coding").click()
    frame = result.groups_df().set_index(["group", "label"])
    row = frame.loc[("0-3", "coding")]
    status = opened.page.locator(".ld-status").inner_text()
    assert status.startswith(f"Layers 0-3, coding: base {100 * row.base_share:.3g} % [")
    assert opened.page.locator(".ld-error").count() == 4
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 400


def test_annotations_of_a_layer_are_listed(open_page):
    opened = open_page(random_annotations(0.4, 1, layers=2, components=3).show().html())
    assert opened.page.locator("tbody tr").count() == 3
    opened.page.get_by_label("Layer:").select_option(label="layer 1")
    assert opened.page.locator("tbody tr").count() == 3
