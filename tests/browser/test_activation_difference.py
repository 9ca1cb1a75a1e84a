"""The activation difference in a browser: a layer and a position chosen by chart and by choices, hostile words."""

from dataclasses import replace

import pytest

from lensdiff.views import show
from tests.analyses.activation_difference.results import difference, effects
from tests.views.hostile import HOSTILE


def card(page, i):
    return page.locator(".ld-sides .ld-side").nth(i)


def words(page, i, sign):
    return card(page, i).locator(".ld-adl").nth(sign).locator(".ld-adl-word").all_inner_texts()


def test_the_words_of_a_chosen_place_stand_beside_the_others(open_page):
    result = difference(controls=19)
    page = open_page(show(result).html()).page
    assert page.locator(".ld-side").count() == 6
    assert page.locator("h4", has_text="Words at").inner_text() == "Words at what leaves the last layer, position 0"
    layers, places = page.locator(".ld-options").nth(1), page.locator(".ld-options").nth(2)
    layers.get_by_role("button", name="1", exact=True).click()
    assert page.locator(".ld-status").inner_text().startswith("Layer 1: share 0.5,"), "the chart moves with the choice"
    places.get_by_role("button", name="1", exact=True).click()
    assert page.locator("h4", has_text="Words at").inner_text() == "Words at layer 1, position 1"
    frame = result.read(1, 1)
    for i, reading in enumerate(result.readings[:6]):
        for sign in (0, 1):
            own = frame[(frame.reading == reading) & (frame.sign == "+-"[sign])].word
            assert words(page, i, sign) == [word.replace("\n", "⏎") for word in own]
    layers.get_by_role("button", name="out", exact=True).click()
    said = page.locator(".ld-status").inner_text()
    assert said.startswith("What leaves the last layer: share 1, one more control would lie between 0.09 and 0.29")
    page.locator(".ld-lines").focus()
    page.keyboard.press("Home")
    assert page.locator(".ld-status").inner_text() == "Layer 0: nothing differs, so there is no share."
    assert page.locator("h4", has_text="Words at").inner_text() == "Words at layer 0, position 1", "both move together"
    layers.get_by_role("button", name="1", exact=True).click()
    curves = page.locator(".ld-options").first
    curves.get_by_role("button", name="0", exact=True).click()
    assert page.locator("h4", has_text="Words at").inner_text() == "Words at layer 1, position 0"
    assert page.locator(".ld-lines").get_attribute("aria-label") == "constant share by layer, position 0"


@pytest.mark.parametrize("width", [400, 1280])
def test_hostile_words_stay_text_and_nothing_is_wider_than_the_window(open_page, width):
    result = difference(controls=2)
    planted = replace(result, words=(*HOSTILE[:4], HOSTILE[-1]))
    page = open_page(show(planted).html(), width=width).page
    frame = planted.read(2, 0)
    for sign in (0, 1):
        own = frame[(frame.reading == "difference") & (frame.sign == "+-"[sign])].word
        assert words(page, 0, sign) == own.tolist()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_what_the_difference_does_is_chosen_by_picture_and_drawn_by_direction(open_page):
    result = effects(controls=19, draws=19)
    page = open_page(show(result).html()).page
    assert page.locator(".ld-lines").get_attribute("aria-label") == "steering: distance to tuned"
    page.locator(".ld-lines").focus()
    page.keyboard.press("ArrowRight")
    said = page.locator(".ld-status").inner_text()
    assert said.startswith("Times the difference's length 1: the difference 1.7; the tuned model's own mean 1.2;")
    assert "where one more random vector would lie (19)" in said
    page.get_by_role("button", name="patchscope: its words").click()
    assert page.locator(".ld-status").inner_text().startswith("Length, in streams 0.5: the difference, in the tuned")
    rows = page.locator(".ld-rows")
    assert rows.count() == 2
    assert rows.first.locator("circle.control").count() == 1 + 19 + 19 + 19
    assert rows.first.locator("circle.tuned").count() == rows.first.locator("circle.base").count() == 1
    assert rows.first.locator(".ld-error").count() == 1


@pytest.mark.parametrize("width", [400, 1280])
def test_hostile_words_of_a_patchscope_stay_text(open_page, width):
    page = open_page(show(effects(controls=2, words=(HOSTILE[0], HOSTILE[1]))).html(), width=width).page
    assert page.locator("table.ld-small tbody td").nth(1).inner_text().startswith(HOSTILE[0][:8])
    assert page.evaluate("document.documentElement.scrollWidth") <= width
