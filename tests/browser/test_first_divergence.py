"""First divergences in a browser: layers and prompts are chosen, both choices marked, narrow windows, hostile names."""

import pytest

from tests.analyses.first_divergence.results import LAYERS, first_divergence
from tests.views.hostile import HOSTILE, LONG

NAMES = "".join(token for token in HOSTILE if token != LONG)


def opened_with(open_page, result, **options):
    opened = open_page(result.show().html(), **options)
    opened.page.wait_for_selector(".ld-lines circle.base")
    return opened.page


def test_the_headline_is_chosen_first_and_arrow_keys_choose_another_layer(open_page):
    page = opened_with(open_page, first_divergence())
    status, effects = page.locator(".ld-status"), page.locator(".ld-effects")
    assert status.inner_text().startswith(
        "Layer 2: base throughout -3, tuned late layers on the base's stream -1.5, base"
    )
    assert "portable 1.5" in effects.get_attribute("aria-label")
    page.locator(".ld-lines").focus()
    page.keyboard.press("ArrowLeft")
    assert status.inner_text().startswith("Layer 1: base throughout -3, tuned late layers on the base's stream -0.75")
    assert "portable 2.25" in effects.get_attribute("aria-label")
    assert page.locator(".ld-line.ld-crossed").count() == 2
    assert page.locator(".ld-line.base").count() == page.locator(".ld-line.tuned").count() == 2


def test_a_prompt_is_chosen_with_its_text_and_both_choices(open_page):
    page = opened_with(open_page, first_divergence())
    assert page.locator(".ld-partings .ld-parting").count() == 3
    page.get_by_label("Shown:").select_option(label="list:  a / !")
    assert page.locator(".ld-partings").count() == 0
    assert page.locator(".ld-parting").inner_text().startswith("Say list")
    assert page.locator(".ld-part.base").inner_text().endswith(" a")
    assert page.locator(".ld-part.tuned").inner_text().endswith("!")
    assert "Layer 2: base throughout -3" in page.locator(".ld-status").inner_text()


@pytest.mark.parametrize(("layers", "beams", "bands"), [((2,), 1, 3), (LAYERS, 0, 4)])
def test_controls_are_grey_where_they_were_read(open_page, layers, beams, bands):
    page = opened_with(open_page, first_divergence(controls={"spectrum": 19}, control_layers=layers))
    assert page.locator("line.ld-beam").count() == beams
    assert page.locator(".ld-band").count() == bands, "of the three effects, and over the layers"
    assert "controls" in page.locator(".ld-status").inner_text()
    page.locator(".ld-lines").focus()
    page.keyboard.press("Home")
    assert ("controls" in page.locator(".ld-status").inner_text()) == (0 in layers)


def test_hostile_names_and_narrow_windows(open_page):
    result = first_divergence([NAMES, LONG], tokens=(NAMES, LONG), common=(NAMES, LONG), controls={"spectrum": 19})
    for scheme in ("light", "dark"):
        page = opened_with(open_page, result, width=400, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
    none = open_page(first_divergence((), agreed={"x": "both choose the same 3 tokens"}).show().html())
    assert "The models part after no prompt." in none.page.locator("body").inner_text()
