"""The map of heads and the verbs' table in a browser: mouse, keyboard, hostile words, narrow and dark."""

from lensdiff.results import Diff
from lensdiff.views import page, show
from tests.analyses.heads.results import head_pairs, overlap, reading, scores, verbs
from tests.views.hostile import HOSTILE


def test_the_most_changed_head_is_shown_first_and_another_on_choice(open_page):
    found = open_page(show(overlap()).html()).page
    assert found.locator(".ld-head-line").inner_text().startswith("Layer 1, head 2: Jaccard 0.250")
    sides = found.locator(".ld-side")
    assert sides.nth(0).inner_text().split("\n")[0] == "Pairs gained"
    assert "write → sea ×2" in sides.nth(0).inner_text()
    assert "moon → sea" in sides.nth(1).inner_text()
    cells = found.get_by_role("gridcell")
    assert cells.count() == 6
    cells.nth(1).click()
    assert found.locator(".ld-head-line").inner_text().startswith("Layer 0, head 1: Jaccard 1.000")
    assert sides.nth(0).inner_text().split("\n")[-1] == "none"
    assert cells.nth(1).get_attribute("aria-selected") == "true"


def test_the_keyboard_moves_and_chooses(open_page):
    found = open_page(show(overlap()).html()).page
    found.get_by_role("gridcell").first.focus()
    found.keyboard.press("ArrowRight")
    found.keyboard.press("ArrowDown")
    found.keyboard.press("Enter")
    assert found.locator(".ld-head-line").inner_text().startswith("Layer 1, head 1:")
    assert found.locator(".ld-status").inner_text() == "Layer 1, head 1: 0"


def test_a_head_beyond_its_controls_is_marked(open_page):
    found = open_page(show(overlap()).html()).page
    assert found.locator(".ld-marked").count() == 1
    found.locator(".ld-marked").hover()
    assert found.locator(".ld-status").inner_text() == "Layer 1, head 2: 0.75, beyond the controls"


def test_verbs_of_the_chosen_layers(open_page):
    result = verbs()
    found = open_page(show(result).html()).page
    row = found.locator(".ld-verbs tbody tr").first
    top = result.top(1).iloc[0]
    assert row.inner_text().split()[:2] == [top.verb, str(top.heads_down)]
    widths = row.locator(".ld-verb-bar").evaluate_all("bars => bars.map(bar => bar.getBoundingClientRect().width)")
    assert abs(widths[0] / widths[1] - top.heads_down / top.heads_up) < 0.02
    found.get_by_role("button", name="2-2").click()
    assert str(result.groups[1].paper_test) in found.locator(".ld-verb-facts").inner_text()


def test_hostile_words_run_nothing_and_nothing_overflows(open_page):
    words = tuple(HOSTILE)
    widgets = [
        show(overlap(words)),
        show(Diff(head_pairs(words), head_pairs(words, swap=True))),
        show(Diff(reading(words), reading(words, shift=1))),
        show(scores(words)),
        show(verbs()),
    ]
    body = "".join(widget.fragment() for widget in widgets)
    for width, scheme in ((1280, "light"), (400, "dark")):
        found = open_page(page("heads", body, circuitsvis=False), width=width, color_scheme=scheme).page
        assert found.evaluate("document.documentElement.scrollWidth") <= width
        for i in range(6):
            for grid in range(4):
                found.get_by_role("grid").nth(grid).get_by_role("gridcell").nth(i).click()
        assert "<img src=x onerror=window.ran=1>" in found.locator("body").inner_text()
