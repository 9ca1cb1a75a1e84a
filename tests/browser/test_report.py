"""The report in a browser: opens from disk, asks for nothing, explores, downloads, prints, survives hostile names."""

import csv
import io
import re

import pandas as pd
import pytest

from lensdiff.analyses.claims.measure import Claims
from lensdiff.pipeline.report import Report
from tests.views.directories import with_attribution
from tests.views.hostile import HOSTILE, LONG


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return with_attribution(tmp_path_factory.mktemp("run"), effect=1.5)


@pytest.fixture(scope="module")
def path(store):
    return Report(store).save()


def opened(open_page, path, **options):
    found = open_page(path, **options)
    found.page.wait_for_selector(".ld-token")
    return found


def test_it_opens_from_disk_with_what_changed_and_then_the_claims(open_page, path):
    page = opened(open_page, path).page
    assert page.url.startswith("file://")
    cards = page.locator(".ld-card")
    assert cards.count() == 3
    assert "Shown for this pair" in cards.first.inner_text()
    assert "The response depends more on its instruction" in cards.first.inner_text()
    assert cards.first.locator("circle.tuned").count() == 1
    assert cards.first.locator("circle.control").count() == 2 * 59  # every control of both kinds
    assert cards.first.locator("rect.control").count() == 2  # their bands
    label = cards.first.locator("svg.ld-picture").get_attribute("aria-label")
    assert label.startswith("this pair: 1.5 nats per token; 59 spectrum: -0.")
    assert "; 59 gradient-noise: -0." in label
    order = page.evaluate("[...document.querySelectorAll('main > section')].map((s) => s.id)")
    assert order[:2] == ["changed", "claims"]
    top = page.locator("#changed .ld-lines-list li").first.bounding_box()["y"]
    assert top < 900  # what changed stands on the first screen


def test_the_drawing_has_the_effect_the_controls_and_their_bands_where_they_are(open_page, path, store):
    page = opened(open_page, path).page
    card = page.locator(".ld-card").first

    def middles(marks):
        boxes = [mark.bounding_box() for mark in card.locator(marks).all()]
        return [box["x"] + box["width"] / 2 for box in boxes]

    (effect,), controls, zeros = middles("circle.tuned"), middles("circle.control"), middles(".ld-zero")
    assert len(zeros) == 3  # of the effect's row and of each kind's
    assert max(zeros) - min(zeros) < 1
    assert controls[29] == pytest.approx(zeros[0], abs=1.5)  # the middle one of 59 is exactly 0
    assert effect > max(controls)
    scale = (effect - zeros[0]) / 1.5
    for place, value in ((0, -0.1), (58, 0.1)):
        assert controls[place] - zeros[0] == pytest.approx(scale * value, abs=1.5)
    band = card.locator("rect.control").first.bounding_box()
    (found,) = [claim.beside for claim in store.load_result("claims", Claims).claims if claim.name == "instruction"]
    low, high = found.kinds[0].low, found.kinds[0].high
    assert band["x"] - zeros[0] == pytest.approx(scale * low, abs=2)
    assert band["width"] == pytest.approx(scale * (high - low), abs=2)


def test_the_explorer_works_within_the_page(open_page, path):
    page = opened(open_page, path).page
    side = page.locator("#attribute .ld-side.tuned")
    caption = side.locator("p[aria-live]")
    assert "Importance density" in caption.inner_text()
    side.locator(".ld-choice").nth(2).click()
    assert "Response token 1" in caption.inner_text()
    page.keyboard.press("ArrowLeft")
    assert "Response token 0" in caption.inner_text()


@pytest.mark.parametrize("way", ["click", "Enter"])
def test_a_point_of_the_scores_shows_its_prompt(open_page, path, way):
    page = opened(open_page, path).page
    point = page.locator(".ld-scatter circle").nth(2)
    if way == "click":
        point.click()
    else:
        point.focus()
        page.keyboard.press(way)
    assert page.get_by_label("Prompt:").input_value() == "2"
    assert point.get_attribute("aria-label").startswith("p-2:")


def test_tables_unfold_and_download_as_csv(open_page, path, store):
    page = opened(open_page, path).page
    section = page.locator("#attribute")
    assert not section.locator("table").first.is_visible()
    section.locator("summary").first.click()
    assert section.locator("table").first.is_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download instruction_scores.csv").click()
    assert download.value.suggested_filename == "instruction_scores.csv"
    found = pd.read_csv(io.BytesIO(download.value.path().read_bytes()))
    expected = store.load_table("instruction_scores")
    assert found["prompt_id"].tolist() == expected["prompt_id"].tolist()
    assert found["instruction_score"].tolist() == pytest.approx(expected["instruction_score"].tolist(), rel=1e-5)


@pytest.mark.parametrize("begins", ["=", "+", "-", "@", "\t", "\r"])
def test_a_downloaded_table_holds_no_formula(open_page, tmp_path, begins):
    name = f"{begins}HYPERLINK(1)"
    store = with_attribution(tmp_path, tokens=((name, " b"), (" c",)), name=name, prompts=2)
    page = opened(open_page, Report(store).save()).page
    with page.expect_download() as download:
        page.get_by_role("button", name="Download instruction_scores.csv").click()
    rows = list(csv.reader(io.StringIO(download.value.path().read_bytes().decode(), newline="")))
    ids = store.load_table("instruction_scores")["prompt_id"].tolist()
    assert ids[0].startswith(begins)
    assert [row[0] for row in rows] == ["prompt_id", *(f"'{one}" for one in ids)]
    number = rows[0].index("instruction_score")
    expected = store.load_table("instruction_scores")["instruction_score"].tolist()
    assert [float(row[number]) for row in rows[1:]] == pytest.approx(expected, rel=1e-5)


def test_the_keyboard_skips_to_what_changed_and_reaches_the_sections(open_page, path):
    page = opened(open_page, path).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Skip to what changed"
    assert page.locator(".ld-skip").bounding_box()["x"] >= 0  # it shows itself
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "changed"
    page.get_by_role("link", name="Which prompt words").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "attribute"


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_window_and_stays_readable(open_page, path, width, scheme):
    page = opened(open_page, path, width=width, color_scheme=scheme).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert contrast(page, "body") > 7
    assert contrast(page, ".ld-note") > 4.5
    assert contrast(page, ".ld-statement", behind=".ld-card") > 7


def contrast(page, element, *, behind="body"):
    """The contrast ratio of WCAG 2 between an element's text and what lies behind it."""

    def luminance(name, style):
        text = page.evaluate(f"getComputedStyle(document.querySelector('{name}')).{style}")
        parts = [int(x) / 255 for x in re.findall(r"\d+", text)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    high, low = sorted((luminance(element, "color"), luminance(behind, "backgroundColor")), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_it_prints_unfolded_and_on_white(open_page, path):
    page = opened(open_page, path).page
    assert page.pdf().startswith(b"%PDF")
    assert page.locator(".ld-card details:not([open])").count() == 0  # paper cannot be unfolded
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator(".ld-download").first.is_visible()


def test_hostile_names_and_tokens_show_as_text_everywhere(open_page, tmp_path):
    name = "".join(token for token in HOSTILE if token != LONG)[:150]
    path = Report(with_attribution(tmp_path, tokens=(HOSTILE, HOSTILE), name=name)).save()
    page = opened(open_page, path, width=400).page
    for summary in page.locator("summary").all():
        summary.click()
    assert plain(name) in plain(page.locator(".ld-model.base").text_content())
    assert plain(name) in plain(page.locator("#pair").text_content())
    assert plain(name) in plain(page.locator(".ld-card .ld-statement").first.text_content())  # a kind of that name
    assert plain(name) in plain(page.locator(".ld-card svg").first.get_attribute("aria-label"))
    assert page.locator("main img, main script:not([type='application/json'])").count() == 0
    assert page.locator("main svg[onload]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    for index in range(3):
        page.locator(".ld-scatter circle").nth(index).focus()
        page.keyboard.press("Enter")
    texts = page.locator("#attribute .ld-side").first.locator(".ld-prompt .ld-token").all_text_contents()
    assert [plain(t) for t in texts] == [plain(t) for t in HOSTILE]


def plain(text):
    return re.sub(r"\s", " ", text.replace("\u2060", ""))
