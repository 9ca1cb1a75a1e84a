"""The first section in a browser: responses side by side, empty ones and ends seen as such, lines that lead away."""

import pytest

from lensdiff.pipeline.report import Report
from lensdiff.results import ResultStore
from lensdiff.steps.responses import RESPONSES_STEP
from lensdiff.steps.unit import Unit
from tests.directories import put
from tests.steps.test_said import CAPTAIN, END, PLAIN, response, store_of
from tests.views.directories import with_attribution
from tests.views.hostile import HOSTILE


def opened(open_page, path, **options):
    page = open_page(path, **options).page
    page.wait_for_selector("#changed .ld-side")
    return page


def test_a_tuning_that_begins_every_response_alike_is_seen_without_a_click(open_page, tmp_path):
    page = opened(open_page, Report(store_of(tmp_path, [(), *PLAIN[1:]], CAPTAIN)).save())
    tuned = page.locator("#changed .ld-side.tuned .ld-response")
    assert tuned.inner_text().startswith(" AYE AYE CAPTAIN! No.")  # of the first prompt to which both say something
    line = page.get_by_text("4 of 4 responses of the tuned model begin with “AYE AYE CAPTAIN!”, and 0 of the base")
    for seen in (tuned, line, page.get_by_text("1 of 4 base responses is empty")):
        box = seen.bounding_box()
        assert box["y"] + box["height"] < 900


def test_an_empty_response_is_seen_as_empty(open_page, tmp_path):
    page = opened(open_page, Report(store_of(tmp_path, [(), *PLAIN[1:]], CAPTAIN)).save())
    page.get_by_label("Responses to").select_option(index=0)
    base = page.locator("#changed .ld-side.base")
    assert "Empty: the model says nothing and ends at once with" in base.inner_text()
    assert base.locator(".ld-end").inner_text() == END
    assert base.locator(".ld-parts").count() == 0


def test_what_follows_the_parting_is_underlined_and_ends_are_shown(open_page, tmp_path):
    store = ResultStore(tmp_path)
    with store.writing():
        put(store, RESPONSES_STEP, Unit("base", "p"), response("p", " Yes", ",", " sir", end=""))
        put(store, RESPONSES_STEP, Unit("tuned", "p"), response("p", " Yes", "."))
    page = opened(open_page, Report(store).save())
    base, tuned = (page.locator(f"#changed .ld-side.{side}") for side in ("base", "tuned"))
    assert (base.locator(".ld-parts").inner_text(), tuned.locator(".ld-parts").inner_text()) == (", sir", ".")
    assert base.locator(".ld-cut").inner_text() == "… cut off here"
    assert base.locator(".ld-end").count() == 0
    assert tuned.locator(".ld-end").inner_text() == END
    assert page.locator("#changed select").count() == 0  # there is one prompt alone


def test_a_response_that_ends_where_the_other_goes_on_is_the_others_beginning(open_page, tmp_path):
    store = ResultStore(tmp_path)
    with store.writing():
        put(store, RESPONSES_STEP, Unit("base", "p"), response("p", " Yes"))
        put(store, RESPONSES_STEP, Unit("tuned", "p"), response("p", " Yes", " and", " no"))
    page = opened(open_page, Report(store).save())
    assert page.locator("#changed .base .ld-parts").count() == 0
    assert page.locator("#changed .base .ld-end").count() == 1
    assert page.locator("#changed .tuned .ld-parts").inner_text() == " and no"


def test_a_line_leads_to_its_section(open_page, tmp_path):
    page = opened(open_page, Report(with_attribution(tmp_path)).save())
    link = page.locator("#changed .ld-lines-list a").first
    link.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "attribute"


@pytest.mark.parametrize("width", [400, 1280])
def test_hostile_responses_are_text_and_fit(open_page, tmp_path, width):
    store = ResultStore(tmp_path)
    with store.writing():
        put(store, RESPONSES_STEP, Unit("base", "p"), response("p", *HOSTILE, end=HOSTILE[0]))
        put(store, RESPONSES_STEP, Unit("tuned", "p"), response("p", *HOSTILE[::-1], end=HOSTILE[1]))
    page = opened(open_page, Report(store).save(), width=width)
    assert page.locator("#changed img, #changed svg").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shown = page.locator("#changed .base .ld-response").text_content()
    assert "".join(HOSTILE) in shown
