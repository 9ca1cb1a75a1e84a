"""The report of a whole run on the shipped toy pair: every section draws, and everything in it can be used."""

import pytest

from lensdiff.analyses import ANALYSES
from lensdiff.inputs import toy_pair
from lensdiff.pipeline.execute import execute
from lensdiff.pipeline.report import Report, in_order

SIX_MEGABYTES = 6_000_000
SHORT = {  # of the demo: the same steps on fewer prompts and controls
    "max_prompts": 5,  # of two kinds: a donor of instructions is of another one
    "max_new_tokens": 6,
    "templates": ["raw", "chat"],
    "template_effects": {"draws": 1, "max_prompts": 3},
    "controls": {
        "kinds": ["spectrum", "norm"],
        "instruction_use": 2,
        "knock_out": 2,
        "dose": 2,
        "first_divergence": 2,
        "residual_stream": 2,
        "layer_similarity": 2,
        "directions": 2,
        "activation_difference": 2,
        "attention": 2,
        "heads": 2,
        "mlp": 2,
        "value_rotation": 2,
        "attribute": 1,
        "patch": 1,
    },
    "instruction_use": {"draws": 2},
    "knock_out": {"draws": 2},
    "dose": {"amounts": [0.5], "part_amounts": []},
    "heads": {"layers_per_group": 1, "top_k": 30},
    "mlp": {"n_components": 16, "ranks": [1, 5, 10]},
    "activation_difference": {"max_texts": 32, "effect_texts": 3, "draws": 2},
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    models = {"base": str(toy_pair.BASE), "tuned": str(toy_pair.TUNED)}
    prompts = {"prompts": str(toy_pair.PROMPTS), "out": str(out)}
    return Report(execute(models | prompts | SHORT)).save()


def ready(open_page, path, **options):
    opened = open_page(path, **options)
    opened.page.wait_for_function("document.querySelectorAll('.ld-widget:not([data-ready])').length === 0")
    opened.page.wait_for_selector(".ld-token")
    return opened


def test_every_section_is_there_and_draws(open_page, path):
    page = ready(open_page, path).page
    for analysis, section in in_order(ANALYSES):
        if analysis.done == "apart":  # by a command of its own
            continue
        found = page.locator(f"section#{analysis.name}")
        assert found.count() == 1, analysis.name
        assert section.title in found.locator("h2").inner_text()
    for widget in page.locator(".ld-widget").all():
        assert widget.locator(":scope > :not(script, noscript)").count() > 0
    assert page.locator(".ld-download").count() >= len(in_order(ANALYSES))
    assert path.stat().st_size < SIX_MEGABYTES


def test_every_button_of_every_section_can_be_pressed(open_page, path):
    page = ready(open_page, path).page
    for name in [analysis.name for analysis, _ in in_order(ANALYSES)]:
        for kind in ("button:not(.ld-download)", "summary", "[role=gridcell]", "input[type=checkbox]"):
            # from the last to the first: what a button shows may change those after it
            for index in reversed(range(min(page.locator(f"#{name} {kind}").count(), 25))):
                target = page.locator(f"#{name} {kind}").nth(index)
                if target.count() and target.is_visible():
                    target.click()
        for choice in page.locator(f"#{name} select").all():
            choice.select_option(index=1)


def test_everything_that_can_be_focused_shows_it(open_page, path):
    page = ready(open_page, path).page
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        place = page.evaluate(
            """() => { const e = document.activeElement, s = getComputedStyle(e);
                const visible = s.outlineStyle !== 'none' || s.strokeWidth !== '1px';
                return [e.tagName + '.' + e.getAttribute('class'), visible]; }"""
        )
        seen.add(tuple(place))
    assert len(seen) > 4
    assert [name for name, visible in seen if not visible and not name.startswith("BODY")] == []


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_section_is_wider_than_the_window(open_page, path, width, scheme):
    page = ready(open_page, path, width=width, color_scheme=scheme).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
