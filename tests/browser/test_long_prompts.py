"""The attribution explorer with 500 prompt and 300 response tokens: folded segments, search, keyboard, layout, size."""

import re

import pytest
import torch

from lensdiff.analyses.attribute.view import LONG
from lensdiff.results import Diff
from tests.analyses.attribute.results import attribution

N, M = 500, 300
INSTRUCTION, CONTEXT = 100, 300  # tokens, the unmarked ones between them
PROMPT = ["Write"] + [f" w{n}" for n in range(1, N)]
RESPONSE = ["Yes"] + [f" r{m}" for m in range(1, M)]
PROMPT[450] = " needle"
PROMPT[451] = " eyes"
RESPONSE[280] = " needles"


def planted(seed: int = 0) -> torch.Tensor:
    """Noise of both signs, and for each response token one highest and one second token of the prompt."""
    scores = torch.randn(N, M, generator=torch.Generator().manual_seed(seed)) * 0.01
    for m in range(M):
        scores[highest(m), m], scores[second(m), m] = 0.5, 0.3
    return scores


def highest(m: int) -> int:
    return (7 * m + 211) % N


def second(m: int) -> int:
    return (7 * m + 11) % N


def long(seed: int = 0):
    return attribution(PROMPT, RESPONSE, scores=planted(seed), instruction=INSTRUCTION, context=CONTEXT)


@pytest.fixture(scope="module")
def one() -> str:
    return long().show().html()


@pytest.fixture(scope="module")
def pair() -> str:
    return Diff(long(), long(1)).show().html()


def side_of(opened):
    opened.page.wait_for_selector(".ld-token")
    return opened.page.locator(".ld-side").first


def choose(side, m: int) -> None:
    side.locator(".ld-choice").nth(m + 1).click()


SEGMENTS = {"instruction": (0, 100), "unmarked text": (100, 200), "context": (200, 500)}


@pytest.mark.parametrize("m", [0, 17, 299])
@pytest.mark.parametrize("name", list(SEGMENTS))
def test_the_share_of_a_segment_is_the_sum_of_its_scores(open_page, one, name, m):
    side = side_of(open_page(one))
    fold = side.locator(".ld-fold").filter(has_text=re.compile(rf"^. {name}, "))
    choose(side, m)
    fold.click()
    start, end = SEGMENTS[name]
    column = planted()[:, m].double()
    support, against = (part[start:end].sum() / part.sum() for part in (column.clamp(min=0), -column.clamp(max=0)))
    said = fold.inner_text()
    assert f"{name}, {end - start} tokens: {100 * support:.1f} % of what supports the token" in said
    assert f"{100 * against:.1f} % of what speaks against it" in said
    assert (f"holds “{PROMPT[highest(m)].strip()}”, the highest" in said) == (start <= highest(m) < end)
    assert ("in the " in side.locator(".ld-caption").inner_text()) == (start <= highest(m) < end)
    fold.click()
    assert "holds" not in fold.inner_text()
    assert "folded" not in side.locator(".ld-caption").inner_text()


def test_the_share_of_the_whole_response_is_of_the_density(open_page, one):
    side = side_of(open_page(one))
    density = long().density().double()
    for fold, (name, (start, end)) in zip(side.locator(".ld-fold").all(), SEGMENTS.items(), strict=True):
        share = 100 * density[start:end].sum() / density.sum()
        assert fold.inner_text() == f"▾ {name}, {end - start} tokens: {share:.1f} % of the importance density"


def test_a_folded_segment_is_out_of_sight_and_stays_folded(open_page, one):
    side = side_of(open_page(one))
    fold, tokens = side.locator(".ld-fold").nth(2), side.locator(".ld-token")
    assert fold.get_attribute("aria-expanded") == "true"
    assert tokens.nth(300).is_visible()
    fold.focus()
    fold.press("Enter")
    assert fold.get_attribute("aria-expanded") == "false"
    words = side.locator(f"#{fold.get_attribute('aria-controls')}")
    assert not words.is_visible()
    assert words.locator(".ld-token").count() == 300
    choose(side, 5)
    assert not tokens.nth(300).is_visible()
    assert tokens.nth(0).is_visible()
    fold.press("Enter")
    assert tokens.nth(300).is_visible()


def test_a_short_segment_cannot_be_folded(open_page):
    tokens = [f" w{n}" for n in range(2 * LONG + 1)]
    side = side_of(open_page(attribution(tokens, ("a",), instruction=LONG, context=0).show().html()))
    assert [text.split(",")[0] for text in side.locator(".ld-fold").all_inner_texts()] == ["▾ unmarked text"]


def test_keys_move_through_the_response_and_find_the_highest_token(open_page, one):
    opened = open_page(one)
    side, page = side_of(opened), opened.page
    pressed, caption = side.locator(".ld-choice[aria-pressed=true]"), side.locator(".ld-caption")
    side.locator(".ld-fold").nth(2).click()
    side.locator(".ld-choice").first.focus()
    moves = [("PageDown", 9), ("PageDown", 19), ("ArrowRight", 20), ("PageUp", 10), ("End", 299), ("PageDown", 299)]
    moves += [("ArrowRight", -1), ("PageUp", -1), ("End", 299), ("Home", -1), ("ArrowLeft", 299), ("PageUp", 289)]
    for key, m in moves:
        page.keyboard.press(key)
        assert pressed.count() == 1
        assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
        assert pressed.inner_text() == ("whole response" if m < 0 else RESPONSE[m])
        assert (f"Response token {m} “" if m >= 0 else "Importance density") in caption.inner_text()
        row, button = side.locator(".ld-choices").bounding_box(), pressed.bounding_box()
        assert row["y"] - 1 <= button["y"] <= row["y"] + row["height"] - button["height"] + 1, "it is in sight"
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert caption.get_attribute("aria-live") == "polite"
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.innerText") == "Show the highest"
    for n in (highest(289), second(289)):  # 234, in the context, which is folded; then 34
        page.keyboard.press("Enter")
        shown = side.locator(".ld-shown")
        assert shown.count() == 1
        assert shown.inner_text() == PROMPT[n]
        assert (
            f"“{PROMPT[n].strip()}”, token {n}: about {100 if n == highest(289) else 60} % of the largest"
            in side.inner_text()
        )
        area, box = side.locator(".ld-prompt").bounding_box(), shown.bounding_box()
        assert area["y"] <= box["y"] <= area["y"] + area["height"] - box["height"]
    assert highest(289) >= 200, "a token of a folded segment is found"


def test_a_word_is_found_in_prompt_and_response(open_page, pair):
    opened = open_page(pair)
    page = opened.page
    side_of(opened).locator(".ld-fold").nth(2).click()
    field, said = page.get_by_label("Find a word:"), page.get_by_role("status")
    field.fill("NEEDLE")
    assert said.inner_text().startswith("4 found")
    places = [("prompt", "base", 450), ("response", "base", 280), ("prompt", "tuned", 450), ("response", "tuned", 280)]
    for key, place in zip(["Enter"] * 5 + ["Shift+Enter"] * 2, [0, 1, 2, 3, 0, 3, 2], strict=True):
        field.press(key)
        where, name, number = places[place]
        assert said.inner_text() == f"{place + 1} of 4: {where} of {name}: tiny, token {number}"
        now = page.locator(".ld-now")
        assert now.count() == 1
        assert now.inner_text().strip() in ("needle", "needles")
        assert now.is_visible()
        if where == "response":
            side = page.locator(f".ld-side.{name}")
            assert side.locator("[aria-pressed=true]").inner_text() == " needles"
        assert page.evaluate("document.activeElement.className") == "ld-search"
    field.fill("needle eye")  # across two tokens
    assert said.inner_text().startswith("2 found")
    assert page.locator(".ld-found").all_inner_texts() == [" needle", " eyes"] * 2
    field.fill("haystack")
    assert said.inner_text() == "“haystack” not found"
    assert page.locator(".ld-found, .ld-now").count() == 0
    field.press("Enter")
    field.press("Escape")
    assert (said.inner_text(), field.input_value()) == ("", "")


WATCH = """() => {
    window.added = 0;
    const seen = new MutationObserver((found) => { for (const one of found) window.added += one.addedNodes.length; });
    for (const part of document.querySelectorAll('.ld-prompt .ld-segment, .ld-choices'))
        seen.observe(part, { childList: true, subtree: true });
}"""


def test_choosing_a_token_changes_colours_and_draws_nothing_anew(open_page, one):
    opened = open_page(one)
    side, page = side_of(opened), opened.page
    page.evaluate(WATCH)
    side.locator(".ld-choice").first.focus()
    for _ in range(9):
        page.keyboard.press("ArrowRight")
    before = side.locator(".ld-token").nth(highest(9)).evaluate("token => getComputedStyle(token).backgroundColor")
    page.keyboard.press("ArrowRight")
    after = side.locator(".ld-token").nth(highest(9)).evaluate("token => getComputedStyle(token).backgroundColor")
    assert before != after
    assert page.evaluate("window.added") == 0


def test_both_maps_fit_on_one_screen(open_page, pair):
    opened = open_page(pair, width=1280, height=900)
    side_of(opened)
    boxes = [side.bounding_box() for side in opened.page.locator(".ld-side").all()]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert all(box["y"] + box["height"] <= 900 for box in boxes)
    areas = opened.page.locator(".ld-prompt, .ld-choices").evaluate_all(
        "a => a.map(e => e.scrollHeight > e.clientHeight)"
    )
    assert areas == [True] * 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_no_wider_than_a_narrow_window(open_page, pair, scheme):
    opened = open_page(pair, width=400, color_scheme=scheme)
    side_of(opened).locator(".ld-fold").nth(2).click()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 400


def test_a_page_of_a_long_pair_is_small(pair):
    small = len(Diff(attribution(), attribution()).show().html())
    added = len(pair) - small
    assert 2 * N * M < added < 0.6e6, added  # a byte a score and a third for base64, tokens and shares
