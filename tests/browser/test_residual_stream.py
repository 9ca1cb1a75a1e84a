"""The residual stream in a browser: curves, the words of each layer, the map of parts, with hostile tokens."""

import pytest

from lensdiff.results import Diff
from lensdiff.views import show
from tests.analyses.residual_stream.results import HEADS, LAYERS, logit_lens, shift_of_lens, shift_of_parts
from tests.views.hostile import HOSTILE


def lenses(tokens=("Red", " blue", "\n")):
    pairs = [[logit_lens(tokens, model=m, prompt_id=p) for p in ("p1", "p2")] for m in ("a", "b")]
    return show(Diff(*pairs)).html()


def test_a_chosen_cell_lists_what_both_models_find_likely(open_page):
    page = open_page(lenses()).page
    cells = page.locator(".ld-lens-cell")
    assert cells.count() == 2 * 3 * (LAYERS + 1)
    assert cells.nth(0).inner_text() == "other"
    cells.nth(7).click()  # the base's output, second token
    heading = page.locator("[aria-live] > h4")
    assert heading.inner_text() == "Output, token 1 “ blue”"
    assert page.locator("[aria-live] .ld-side").count() == 2
    assert page.locator("[aria-live] .ld-this").count() == 2
    assert page.locator(".ld-lens-cell[aria-selected=true]").count() == 2, "the same cell of both models"
    assert page.locator(".ld-lens-cell.ld-lens-stays").count() == 6
    page.locator("select").select_option(index=1)
    assert page.locator("[aria-live]").inner_text() == "Choose a cell to see what is likely there."


def test_cells_are_reached_by_the_keyboard(open_page):
    page = open_page(lenses()).page
    page.locator(".ld-lens-cell").first.focus()
    for key in ("ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    assert page.locator("[aria-live] > h4").inner_text() == "Layer 1, token 1 “ blue”"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("a, layer 0, token 1")
    assert page.locator(".ld-lens").first.locator("[tabindex='0']").count() == 1


def test_colours_follow_what_is_chosen(open_page):
    page = open_page(lenses()).page
    cell = page.locator(".ld-lens-cell").first
    seen = {cell.evaluate("e => e.style.background")}
    for name in ("probability of the response's token", "KL to the output"):
        page.get_by_role("button", name=name).click()
        seen.add(cell.evaluate("e => e.style.background"))
    assert len(seen) == 3


def test_curves_and_parts_say_their_numbers(open_page):
    page = open_page(shift_of_lens({"spectrum": 19}).show().html()).page
    page.wait_for_selector(".ld-lines")
    assert page.locator(".ld-band").count() == 1
    said = page.locator(".ld-status").inner_text()
    assert said.startswith("Layer 0: base 4.6, tuned 6.9, difference 2.3, interval over prompts")
    page.locator(".ld-lines").focus()
    page.keyboard.press("End")
    assert page.locator(".ld-status").inner_text().startswith("The models' own output: base 0, tuned 0")
    page.get_by_role("button", name="probability of the token").click()
    assert page.locator(".ld-lines").get_attribute("aria-label") == "probability of the token, by layer"

    page = open_page(shift_of_parts({"spectrum": 19}).show().html()).page
    cells = page.locator(".ld-spot[role=gridcell]")
    assert cells.count() == LAYERS * (HEADS + 1)
    assert page.locator(".ld-marked").count() == 1
    page.locator(".ld-marked").hover()
    said = page.locator(".ld-status").inner_text()
    assert said.startswith("layer 1, head 0: tuned − base 3.45, base 0.575, tuned 4.03")
    assert said.endswith("moved beyond the controls and over prompts")
    page.get_by_role("button", name="base", exact=True).click()
    assert page.locator(".ld-marked").count() == 0


@pytest.mark.parametrize("width", [400, 1280])
def test_hostile_tokens_stay_text_and_nothing_is_wider_than_the_window(open_page, width):
    page = open_page(lenses(HOSTILE), width=width).page
    page.locator(".ld-lens-cell").last.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
