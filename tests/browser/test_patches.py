"""The maps of patches in a browser: cells, scales, prompts, what lies beyond the controls, narrow windows."""

import pytest

from tests.analyses.patch.results import HEADS, LAYERS, PLANTED, PROMPTS, patched, set_patch
from tests.views.hostile import HOSTILE, LONG

NAMES = "".join(token for token in HOSTILE if token != LONG)
CONTROLS = {"spectrum": 19}


def cells(opened, side):
    opened.page.wait_for_selector(".ld-spot[role=gridcell]")
    return opened.page.locator(".ld-patch").first.locator(".ld-patch-side").nth(side).locator(".ld-spot[role=gridcell]")


def test_a_cell_says_its_effect_and_is_framed_beyond_the_controls(open_page):
    opened = open_page(patched(controls=CONTROLS).show().html())
    base, tuned = cells(opened, 0), cells(opened, 1)
    assert base.count() == tuned.count() == LAYERS * (HEADS + 1)
    planted = PLANTED[0] * (HEADS + 1) + PLANTED[1]
    base.nth(planted).hover()
    said = opened.page.locator(".ld-patch-side .ld-status").first.inner_text()
    assert said.startswith("layer 1, head 1: +1.55 nats per token; 51.7 % of the total; controls ")
    assert said.endswith(", beyond them")
    assert "ld-marked" in base.nth(planted).get_attribute("class")
    assert "ld-marked" not in tuned.nth(planted).get_attribute("class"), "no control is put into the tuned model"
    assert tuned.nth(planted).get_attribute("aria-label").startswith("layer 1, head 1: -1.55 nats per token")
    scales = opened.page.locator(".ld-patch-scale")
    assert [scales.nth(i).inner_text().split()[0] for i in range(3)] == ["heads", "MLP", "stream"]
    assert "1.55" in scales.nth(0).inner_text()
    opened.page.get_by_role("button", name=PROMPTS[1]).click()
    assert cells(opened, 0).nth(planted).get_attribute("aria-label").startswith("layer 1, head 1: +1.6 nats")
    assert "do not add up" in opened.page.locator("body").inner_text()


def test_estimates_are_set_apart(open_page):
    opened = open_page(patched(PROMPTS[:1], estimated=True).show().html())
    first = cells(opened, 0).nth(0)
    assert "ld-estimate" in first.get_attribute("class")
    assert first.get_attribute("aria-label") == "layer 0, head 0: estimate +0.21 nats per token"
    assert "ld-estimate" not in cells(opened, 0).nth(1).get_attribute("class")


def test_a_set_is_drawn_before_its_controls(open_page):
    opened = open_page(set_patch(controls=CONTROLS).show().html())
    opened.page.wait_for_selector(".ld-rows")
    pictures = opened.page.locator(".ld-rows")
    assert pictures.count() == 2
    assert pictures.nth(0).locator("circle.control").count() == 2 * 19
    assert pictures.nth(1).locator("circle.control").count() == 19
    x = [float(pictures.nth(i).locator("circle.tuned").get_attribute("cx")) for i in range(2)]
    assert x[0] > x[1], "one axis for both directions"


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_window_and_hostile_names_run_nothing(open_page, width):
    for widget in (patched((NAMES, "b"), model=NAMES, controls=CONTROLS).show(), set_patch((NAMES,)).show()):
        opened = open_page(widget.html(), width=width)
        opened.page.wait_for_selector(".ld-spot, .ld-rows")
        opened.page.wait_for_timeout(300)
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.page.locator(".ld-widget img, .ld-widget script:not([type='application/json'])").count() == 0
