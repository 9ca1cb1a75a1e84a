"""The first section in a browser: responses side by side, empty ones and ends seen as such, lines that lead away."""

import pytest

from lensdiff.analyses.claims.view import claims_widget
from lensdiff.analyses.claims.view_evidence import evidence_of
from lensdiff.pipeline.report import Report
from lensdiff.results import ResultStore
from lensdiff.steps.responses import RESPONSES_STEP
from lensdiff.steps.unit import Unit
from tests.analyses.claims.results import answers
from tests.analyses.heads.results import verbs
from tests.analyses.instruction_use.results import instruction_use
from tests.analyses.value_rotation.results import value_rotation
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


KINDS = {"spectrum": 19, "gradient-noise": 19}


@pytest.mark.parametrize("width", [400, 1280])
def test_each_claim_has_a_picture_of_what_carries_its_number(open_page, width):
    use, shift, share = instruction_use(controls=KINDS), verbs(), value_rotation(controls=KINDS)
    page = open_page(claims_widget(answers(1.5), evidence_of(use, shift, share)).html(), width=width).page
    pictures = page.locator(".ld-evidence svg")
    assert pictures.count() == 3
    first, second, third = (pictures.nth(i) for i in range(3))
    assert (first.locator("circle.base").count(), first.locator("circle.tuned").count()) == (4, 4)
    assert first.locator("rect.control").count() == 4
    assert third.locator("circle.tuned").count() == 6
    bars = second.locator("rect.tuned").evaluate_all("all => all.map((bar) => bar.getBoundingClientRect().width)")
    rose = shift.top(8).heads_up.tolist()
    assert [bar / bars[0] for bar in bars] == pytest.approx([n / rose[0] for n in rose], abs=0.02)
    dots = third.locator("circle").evaluate_all("all => all.map((dot) => dot.getBoundingClientRect().x)")
    zero = third.locator(".ld-zero").bounding_box()["x"] - 4  # dots have a radius of 4
    assert [(dot - zero) / (dots[0] - zero) for dot in dots] == pytest.approx([1, 0.9, 0.8, 0.7, 0.6, 0.5], abs=0.03)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
