"""A widget inline: its frame is as tall as its page, and dark where the notebook behind it is."""

import io

import numpy as np
import pytest
from PIL import Image

from lensdiff.analyses.claims.view import show_claims
from tests.analyses.attention.results import attention
from tests.analyses.attribute.results import attribution
from tests.analyses.claims.results import answers
from tests.analyses.weights.results import weight_shift

DARK, LIGHT = "rgb(13, 17, 23)", "rgb(255, 255, 255)"
BACKGROUND = "getComputedStyle(document.body).backgroundColor"


def notebook(widget, background: str = "") -> str:
    style = f"background: {background}" if background else ""
    return f'<!doctype html><meta charset=utf-8><body style="margin: 0; {style}"><div>{widget._repr_html_()}</div>'


def frame_of(page):
    page.wait_for_selector("iframe")
    frame = page.frames[1]
    frame.wait_for_selector(".ld-widget[data-ready]")
    page.wait_for_timeout(300)
    return frame


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("widget", [weight_shift().show(), show_claims(answers(1.5))], ids=["map", "cards"])
def test_the_frame_is_as_tall_as_its_page(open_page, widget, width):
    page = open_page(notebook(widget), width=width).page
    frame = frame_of(page)
    inner = frame.evaluate("[document.documentElement.scrollHeight, document.body.getBoundingClientRect().height]")
    outer = page.locator("iframe").bounding_box()["height"]
    assert inner[0] <= outer <= inner[1] + 8  # nothing is cut off, and nothing left over
    frame.evaluate("document.body.append(Object.assign(document.createElement('p'), {style: 'height: 300px'}))")
    page.wait_for_function("before => document.querySelector('iframe').getBoundingClientRect().height > before + 250",
                           arg=outer)  # fmt: skip


@pytest.mark.parametrize(
    ("background", "scheme", "expected"),
    [
        ("rgb(17, 17, 17)", "light", DARK),  # a dark notebook on a light system
        ("white", "dark", LIGHT),  # and the other way round
        ("", "light", LIGHT),
    ],
)
def test_the_page_takes_the_notebooks_theme(open_page, background, scheme, expected):
    page = open_page(notebook(weight_shift().show(), background), color_scheme=scheme).page
    assert frame_of(page).evaluate(BACKGROUND) == expected


def test_a_notebook_that_changes_its_theme_takes_the_page_along(open_page):
    page = open_page(notebook(weight_shift().show(), "white")).page
    frame = frame_of(page)
    assert frame.evaluate(BACKGROUND) == LIGHT
    page.evaluate("document.body.style.background = '#111111'")
    frame.wait_for_function(f"{BACKGROUND} === '{DARK}'")


@pytest.mark.parametrize(("scheme", "expected"), [("dark", DARK), ("light", LIGHT)])
def test_a_page_of_its_own_follows_the_system(open_page, scheme, expected):
    page = open_page(weight_shift().show().html(), color_scheme=scheme).page
    assert page.evaluate(BACKGROUND) == expected


def brightness(page, box) -> float:
    """The mean brightness of a part of what is seen, 0 to 255."""
    with Image.open(io.BytesIO(page.screenshot(clip=box))) as seen:
        return float(np.asarray(seen.convert("L")).mean())


@pytest.mark.parametrize(
    ("widget", "area"),
    [(attribution(("a", " sea"), (" b",)).show(), ".ld-prompt"), (attention().show(), ".ld-heads")],
    ids=["prompt", "attention"],
)
def test_a_dark_page_has_no_white_area(open_page, widget, area):
    seen = {}
    for scheme in ("light", "dark"):
        page = open_page(widget.html(), color_scheme=scheme).page
        page.wait_for_selector(area)
        page.wait_for_timeout(500)
        seen[scheme] = brightness(page, page.locator(area).first.bounding_box())
    assert seen["light"] > 150
    assert seen["dark"] < 100
