"""Deletion and insertion curves in a browser: orders and ways are chosen, values are said, bands stand behind."""

import pytest

from tests.analyses.attribute.results import curves
from tests.views.hostile import HOSTILE


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_orders_and_ways_are_chosen_and_values_said(open_page, width, scheme):
    page = open_page(curves().show().html(), width=width, color_scheme=scheme).page
    page.locator(".ld-lines").first.wait_for()
    assert page.locator(".ld-lines").count() == 2
    page.get_by_role("button", name="the tuned model's map").click()
    page.locator(".ld-lines").first.focus()
    page.keyboard.press("ArrowRight")
    said = page.locator(".ld-status").first
    assert said.inner_text().startswith("50 % of the tokens removed: base 1; tuned 2; random orders in the base ")
    page.get_by_role("button", name="tokens put in").click()
    assert page.locator("h4").first.inner_text() == "Gain of the response"
    assert page.locator(".ld-lines .ld-band").count() >= 3
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_hostile_names_are_shown_as_text(open_page):
    model = f"{HOSTILE[0]} -> {HOSTILE[1]}"
    widget, title = curves(model=model).show(), f"Tokens removed, most important first: {model}"
    page = open_page(widget.html()).page
    page.locator(".ld-lines").first.wait_for()
    assert page.title() == title
    framed = open_page(widget._repr_html_()).page.locator("iframe")  # as a notebook shows it
    framed.content_frame.locator(".ld-lines").first.wait_for()
    assert framed.get_attribute("title") == title
