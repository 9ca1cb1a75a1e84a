"""The maps of weights, outputs and attention in a browser: choosing, the keyboard, hostile tokens, narrow windows."""

import re

import pytest

from lensdiff.analyses.outputs.view import outputs_widget
from lensdiff.results import Diff
from tests.analyses.attention.results import attention, attention_shift
from tests.analyses.outputs.results import output_shift
from tests.analyses.weights.results import LAYERS, weight_shift
from tests.views.hostile import HOSTILE, LONG

NAMES = "".join(token for token in HOSTILE if token != LONG)


def cells(opened, selector=".ld-spot[role=gridcell]"):
    opened.page.wait_for_selector(selector)
    return opened.page.locator(selector)


def strength(cell):
    """How far a cell's colour is from the page's white."""
    colour = cell.evaluate("cell => getComputedStyle(cell).backgroundColor")
    drawn = cell.evaluate(
        """(cell, colour) => {
        const c = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        c.fillStyle = colour; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]; }""",
        colour,
    )
    return 255 * 3 - sum(drawn[:3])


def test_the_weight_that_moved_most_has_the_strongest_colour(open_page):
    opened = open_page(weight_shift().show().html())
    opened.page.get_by_role("button", name="heads of W_Q").click()
    found = cells(opened)
    assert found.count() == 2 * LAYERS
    strengths = [strength(found.nth(i)) for i in range(found.count())]
    assert strengths.index(max(strengths)) == 2 * 2 + 1  # layers down, two heads across
    found.nth(5).hover()
    assert opened.page.locator(".ld-status").inner_text() == "layer 2, W_Q, head 1: relative change 2"
    opened.page.get_by_role("button", name="with the norm's gain").click()
    assert cells(opened).nth(5).get_attribute("aria-label") == "layer 2, W_Q, head 1: relative change 1"
    opened.page.get_by_role("button", name="effective rank").click()
    assert "effective rank" in cells(opened).nth(0).get_attribute("aria-label")


def test_arrow_keys_move_over_the_map_and_numbers_can_be_shown(open_page):
    opened = open_page(weight_shift().show().html())
    first = cells(opened).first
    first.focus()
    for key, expected in [("ArrowDown", "layer 1, W_Q"), ("ArrowRight", "layer 1, W_O"), ("ArrowLeft", "layer 1, W_Q")]:
        opened.page.keyboard.press(key)
        assert opened.page.locator(".ld-status").inner_text().startswith(expected)
    opened.page.keyboard.press("ArrowLeft")
    assert opened.page.locator(".ld-status").inner_text().startswith("layer 1, W_Q"), "nothing lies beside it"
    assert opened.page.locator(".ld-spot[tabindex='0']").count() == 1
    number = opened.page.locator(".ld-spot span").first
    assert not number.is_visible()
    opened.page.get_by_label("show the numbers").check()
    assert number.is_visible()


def test_an_infinite_change_is_shown_as_such(open_page):
    opened = open_page(weight_shift(planted=float("inf")).show().html())
    opened.page.get_by_role("button", name="heads of W_Q").click()
    assert cells(opened).nth(5).get_attribute("aria-label").endswith("∞")


def test_a_chosen_token_shows_both_models(open_page):
    opened = open_page(outputs_widget([output_shift(), output_shift(("Hi",), prompt_id="p2")]).html())
    tokens = cells(opened, ".ld-tokens .ld-choice")
    assert [re.sub(r".* ", "", tokens.nth(i).get_attribute("class").replace(" ld-strong", "")) for i in range(3)] == [
        "unshifted", "marginal", "shifted",
    ]  # fmt: skip
    shades = [strength(tokens.nth(i)) for i in range(3)]
    assert shades == sorted(shades)
    tokens.nth(1).click()
    text = opened.page.locator("body").inner_text()
    assert "Token 1 “ waves”: marginal; KL 0.1 nats, JS distance 0.5; the tuned model's choice has rank 3" in text
    assert "this token: rank 3, probability 0.1" in opened.page.locator(".ld-side.base").inner_text()
    assert "this token: rank 1, probability 0.6" in opened.page.locator(".ld-side.tuned").inner_text()
    opened.page.keyboard.press("ArrowRight")
    assert "Token 2 “.”: shifted" in opened.page.locator("body").inner_text()
    opened.page.get_by_role("button", name="Jensen-Shannon distance").click()
    assert "JS distance 1" in tokens.nth(2).get_attribute("title")
    opened.page.get_by_label("Prompt:").select_option(label="p2: Say p2")
    assert opened.page.locator(".ld-tokens .ld-choice").count() == 1


def test_an_empty_response_is_said_to_be_empty(open_page):
    opened = open_page(output_shift(()).show().html())
    assert "Response: empty" in opened.page.locator("body").inner_text()


def test_a_head_is_drawn_for_both_models(open_page):
    opened = open_page(Diff(attention(), attention(model="b", sharp=(1, 0))).show().html())
    opened.page.wait_for_selector(".ld-heads canvas, .ld-heads svg")
    sides = opened.page.locator(".ld-side")
    assert [sides.nth(i).locator("h4").inner_text() for i in range(2)] == ["base: a", "tuned: b"]
    before = sides.nth(1).locator(".ld-heads").screenshot()
    opened.page.get_by_role("button", name="L0 H0").click()
    opened.page.wait_for_timeout(300)
    assert sides.nth(1).locator(".ld-heads").screenshot() != before
    boxes = [sides.nth(i).bounding_box() for i in range(2)]
    assert boxes[0]["y"] == boxes[1]["y"]


def test_heads_outside_their_band_have_a_corner(open_page):
    opened = open_page(attention_shift().show().html())
    found = cells(opened)
    framed = [i for i in range(found.count()) if "ld-marked" in found.nth(i).get_attribute("class")]
    assert framed == [2 * 2 + 1]  # layers down, two heads across
    found.nth(framed[0]).hover()
    assert opened.page.locator(".ld-status").inner_text().endswith("0.9; controls 0.05 to 0.2, outside")
    found.nth(framed[0]).focus()
    opened.page.keyboard.press("Enter")
    assert "Layer 2, head 1" in opened.page.locator("caption").first.inner_text()
    opened.page.get_by_role("button", name="first token's share, difference").click()
    texts = [cells(opened).nth(i).get_attribute("aria-label") for i in range(found.count())]
    assert texts[1 * 2] == "layer 1, head 0: first token's share, difference -0.4; controls 0.01 to 0.01, outside"


def hostile():
    short = [token for token in HOSTILE if token != LONG]
    return {
        "weights": weight_shift(NAMES).show(),
        "outputs": output_shift(HOSTILE, model=NAMES, prompt_id=NAMES).show(),
        "attention": Diff(*(attention(short, model=NAMES, prompt_id=NAMES) for _ in range(2))).show(),
        "attention_shift": attention_shift(model=NAMES).show(),
    }


@pytest.mark.parametrize("view", ["weights", "outputs", "attention", "attention_shift"])
def test_hostile_names_show_as_text_and_run_nothing(open_page, view):
    widget = hostile()[view]
    for html in (widget.html(), f"<!doctype html><meta charset=utf-8>{widget._repr_html_()}"):
        opened = open_page(html)
        page = opened.page.frames[-1]
        page.wait_for_selector(".ld-spot, .ld-side")
        page.wait_for_timeout(500)
        assert page.locator(".ld-widget img, .ld-widget script:not([type='application/json'])").count() == 0
        for button in page.locator(".ld-choice").all()[:8]:
            button.hover()
    assert "<\u2060script" not in widget.html()
    assert NAMES not in widget.html()


@pytest.mark.parametrize("view", ["weights", "outputs", "attention", "attention_shift"])
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_window(open_page, view, width):
    opened = open_page(hostile()[view].html(), width=width)
    opened.page.wait_for_selector(".ld-spot, .ld-side")
    opened.page.wait_for_timeout(300)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
