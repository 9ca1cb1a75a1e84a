"""The views of the knock-out in a browser: choosing, the keyboard, hostile tokens, narrow windows."""

import pytest

from lensdiff.analyses.knock_out.view import token_widget
from tests.analyses.knock_out.results import knock_out, shift
from tests.views.hostile import HOSTILE


def test_a_chosen_token_is_described_in_both_models(open_page):
    page = open_page(token_widget(shift()).html()).page
    strips = page.locator(".ld-knock")
    strips.first.wait_for()
    assert strips.count() == 2
    said = page.locator(".ld-status")
    assert said.inner_text().startswith(
        "Token 0 “A”; base: loses 0.4 nats, log p -1, with other tokens cut 0.25; tuned: "
    )
    strips.nth(0).get_by_role("button").nth(1).click()
    assert said.inner_text().startswith("Token 1 “ poem”; base: loses 0.2 nats")
    pressed = page.locator(".ld-knock .ld-choice[aria-pressed='true']")
    assert pressed.count() == 2, "the same token in both"
    page.keyboard.press("ArrowRight")
    assert said.inner_text().startswith("Token 2 “.⏎”")
    page.get_by_role("button", name="behind it").click()
    page.get_by_label("Response: ").select_option(index=1)
    assert said.inner_text().startswith("Token 0 “A”; base: loses 0 nats")


def test_a_bar_is_as_tall_as_what_is_lost_and_hollow_where_it_is_gained(open_page):
    page = open_page(knock_out().show().html()).page
    bars = page.locator(".ld-knock .ld-knock-bar:not(.ld-unlikely)")
    bars.first.wait_for()
    heights = [bars.nth(i).evaluate("bar => bar.getBoundingClientRect().height") for i in range(3)]
    assert heights == [44, 11, 22]
    assert [("ld-gain" in bars.nth(i).get_attribute("class")) for i in range(3)] == [False, False, True]


def test_curves_follow_the_text_and_the_way(open_page):
    page = open_page(shift(controls={"spectrum": 19}).show().html()).page
    page.locator(".ld-lines").first.wait_for()
    assert page.locator(".ld-lines").count() == 2
    first = page.locator(".ld-status").first
    before = first.inner_text()
    assert before.startswith("part of the response, % 0–20: base ")
    assert "where one more control lies (" in before
    page.get_by_role("button", name="cut for all that stands behind it").click()
    assert first.inner_text() != before
    page.get_by_role("button", name="the base's response").click()
    picture = page.locator(".ld-lines").nth(1)
    picture.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".ld-status").nth(1).inner_text().startswith("layers cut 2–3: base ")


def test_an_empty_response_says_so(open_page):
    page = open_page(knock_out(()).show().html()).page
    page.get_by_text("The response is empty.").wait_for()


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hostile_tokens_run_nothing_and_nothing_overflows(open_page, width, scheme):
    result = shift(tuple(HOSTILE[:3]), tokens=HOSTILE, controls={"spectrum": 2})
    for widget in (token_widget(result), result.show(), knock_out(HOSTILE, prompt_id=HOSTILE[0]).show()):
        page = open_page(widget.html(), width=width, color_scheme=scheme).page
        page.locator(".ld-knock, .ld-lines").first.wait_for()
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
