"""The attribution explorer in a browser: choosing tokens, the keyboard, hostile tokens."""

import re

import pytest
import torch

from lensdiff.results import Diff
from tests.analyses.attribute.results import PROMPT, RESPONSE, attribution
from tests.views.hostile import HOSTILE, LONG

# each response token is supported by the prompt token of its own number, and opposed by the next
PLANTED = torch.zeros(len(PROMPT), len(RESPONSE))
PLANTED[range(len(RESPONSE)), range(len(RESPONSE))] = 0.2
PLANTED[range(1, len(RESPONSE) + 1), range(len(RESPONSE))] = -0.1
WHITE = [255, 255, 255]
GREY = 20  # strength that the grey of opposing words does not exceed


def colours(side):
    """The background of each prompt token, as (red, green, blue)."""
    found = side.locator(".ld-prompt .ld-token").evaluate_all(
        "spans => spans.map(span => getComputedStyle(span).backgroundColor)"
    )
    return [[int(x) for x in re.findall(r"\d+", colour)[:3]] for colour in found]


def strength(colour):
    """How far a colour is from grey: its saturation."""
    return max(colour) - min(colour)


def sides(opened):
    opened.page.wait_for_selector(".ld-token")
    return opened.page.locator(".ld-side")


def difference(**options):
    return Diff(attribution(scores=PLANTED, **options), attribution(scores=PLANTED.flip(0), **options))


def test_a_chosen_token_colours_the_prompt_words_that_drive_it(open_page):
    opened = open_page(attribution(scores=PLANTED).show().html())
    side = sides(opened)
    for number, token in enumerate(RESPONSE):
        side.get_by_role("button", name=token.strip(), exact=True).click()
        found = [strength(c) for c in colours(side)]
        assert max(range(len(PROMPT)), key=found.__getitem__) == number
        assert sum(f > GREY for f in found) == 1  # the opposing word is grey, the others white
        assert colours(side)[number + 1] != WHITE
        assert f"Response token {number}" in side.inner_text()
        assert "probability 0.5; largest score 0.2" in side.inner_text()
    side.get_by_role("button", name="whole response").click()
    assert "Importance density" in side.inner_text()
    assert [c == WHITE for c in colours(side)] == [False] * 3 + [True] * 3


def test_base_is_blue_and_tuned_is_orange_side_by_side(open_page):
    found = sides(open_page(difference().show().html()))
    assert found.count() == 2
    for index, main in ((0, 2), (1, 0)):  # blue, red
        side = found.nth(index)
        side.get_by_role("button", name="Blue", exact=True).click()
        strongest = max(colours(side), key=strength)
        assert strongest[main] == max(strongest)
    first, last = colours(found.nth(0)), colours(found.nth(1))
    assert strength(first[0]) > 50
    assert strength(last[-1]) > 50
    boxes = [found.nth(i).bounding_box() for i in range(2)]
    assert boxes[0]["y"] == boxes[1]["y"]


def test_instruction_and_context_are_marked(open_page):
    side = sides(open_page(attribution().show().html()))
    assert side.locator(".ld-segment.instruction").inner_text().split() == ["Write", "a", "poem"]
    assert side.locator(".ld-segment.context").inner_text().split() == ["sea"]
    lines = side.locator(".ld-segment").evaluate_all(
        "all => all.map(getComputedStyle).map((s) => [s.display, s.borderBottomStyle, s.borderBottomColor])"
    )
    assert lines == [
        ["inline", "solid", "rgb(111, 66, 193)"],
        ["inline", "solid", "rgba(0, 0, 0, 0)"],
        ["inline", "dashed", "rgb(26, 127, 90)"],
    ]


def test_arrow_keys_move_through_the_response(open_page):
    opened = open_page(attribution(scores=PLANTED).show().html())
    side = sides(opened)
    pressed = side.locator(".ld-choice[aria-pressed=true]")
    side.get_by_role("button", name="whole response").focus()
    for key, expected in [("ArrowRight", "Blue"), ("ArrowDown", "waves"), ("ArrowLeft", "Blue")]:
        opened.page.keyboard.press(key)
        assert pressed.count() == 1
        assert pressed.inner_text().strip() == expected
        assert opened.page.evaluate("document.activeElement.innerText").strip() == expected
    opened.page.keyboard.press("ArrowUp")
    opened.page.keyboard.press("ArrowUp")  # round to the last
    assert pressed.inner_text() == "."


def test_tab_reaches_each_group_once(open_page):
    opened = open_page(difference().show().html())
    sides(opened)
    reached = []
    for _ in range(8):
        opened.page.keyboard.press("Tab")
        reached.append(opened.page.evaluate("document.activeElement.className"))
    one = ["ld-prompt", "ld-highest", "ld-choice"]
    assert reached == ["ld-search", *one, *one, ""]


def test_choosing_a_prompt_draws_that_prompt(open_page):
    prompts = [attribution(prompt_id="p1"), attribution(("Say", " hello"), (" hi",), prompt_id="p2", instruction=1)]
    opened = open_page(Diff(prompts, prompts).show().html())
    found = sides(opened)
    assert "Write" in found.first.locator(".ld-prompt").inner_text()
    opened.page.get_by_label("Prompt:").select_option(label="p2: Say hello")
    found = sides(opened)
    assert found.count() == 2
    assert found.last.locator(".ld-prompt").inner_text().split() == ["Say", "hello"]


def test_an_empty_response_has_nothing_to_choose(open_page):
    side = sides(open_page(attribution(response=()).show().html()))
    assert "Response: empty" in side.inner_text()
    assert side.get_by_role("button").count() == 1


@pytest.mark.parametrize("view", ["one", "pair", "inline"])
def test_hostile_tokens_show_as_text_and_run_nothing(open_page, view):
    names = "".join(token for token in HOSTILE if token != LONG)
    result = attribution(HOSTILE, HOSTILE, model=names, prompt_id=names)
    widget = result.show() if view == "one" else Diff(result, result).show()
    inline = f"<!doctype html><meta charset=utf-8>{widget._repr_html_()}"
    opened = open_page(inline if view == "inline" else widget.html())
    page = opened.page.frames[-1]
    page.wait_for_selector(".ld-token")
    side = page.locator(".ld-side").first
    texts = side.locator(".ld-prompt .ld-token").all_text_contents()
    assert [plain(t) for t in texts] == [plain(t) for t in HOSTILE]
    buttons = side.locator(".ld-choice").all_text_contents()
    assert [plain(t) for t in buttons[1:]] == [plain(t) for t in HOSTILE]
    for number, token in enumerate(HOSTILE):
        side.locator(".ld-choice").nth(number + 1).click()
        assert plain(token) in plain(side.locator("p[aria-live]").text_content())
    for number, token in enumerate(HOSTILE[:3]):
        side.locator(".ld-token").nth(number).hover()
        assert plain(side.locator(".ld-token").nth(number).get_attribute("title")).startswith(
            f"“{plain(token)}”, token"
        )
    assert page.locator(".ld-side img, .ld-side svg, .ld-side script").count() == 0


def plain(text):
    """Text without what makes it safe or visible: word joiners, and kinds of white space."""
    return re.sub(r"\s", " ", text.replace("\u2060", ""))


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_window(open_page, width):
    result = attribution(("Say", LONG), (LONG,))
    opened = open_page(Diff(result, result).show().html(), width=width)
    sides(opened)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width


def test_dark_pages_stay_readable(open_page):
    opened = open_page(attribution(scores=PLANTED).show().html(), color_scheme="dark")
    sides(opened)
    ink, paper = (
        [int(x) for x in re.findall(r"\d+", opened.page.evaluate(f"getComputedStyle(document.body).{name}"))[:3]]
        for name in ("color", "backgroundColor")
    )
    assert min(ink) - max(paper) > 150
