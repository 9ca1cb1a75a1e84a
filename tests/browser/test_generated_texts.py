"""Two thousand generated texts in pages: each stands there as it is, and none of them runs, loads or asks anything.

Every text is shown in a report's explorer of tokens (as a token of a prompt or of a response) or as a prompt's id, as a
word of a concept, and in a table, which is how answers and ids reach a page without its script.
"""

import itertools
import re

import pandas as pd
import pytest
import torch

from lensdiff.analyses.annotate.annotations import Annotations
from lensdiff.pipeline.report import Report
from lensdiff.results import Diff, Provenance, ResultStore
from lensdiff.steps.responses import SaidResponse
from lensdiff.steps.unit import SIDES, Unit
from lensdiff.views.section import Table, cell
from lensdiff.views.widget import page as page_of
from tests.analyses.annotate.results import annotations
from tests.analyses.attribute.results import attribution, instruction_scores
from tests.analyses.mlp.results import concepts
from tests.directories import put
from tests.views.directories import CONFIG
from tests.views.generated import texts

ALL = texts(2000)
QUARTETS = list(zip(ALL[0::4], ALL[1::4], ALL[2::4], ALL[3::4], strict=True))
PROMPTS, TOKENS = 50, 19  # 50 prompts of 19 tokens with responses of 20 more, and their ids
ELEMENTS = "img, iframe, object, embed, link, meta, base, form, input:not([type=checkbox], .ld-search), math, template"


def plain(text: str) -> str:
    """A text without what makes it safe or visible: word joiners, signs for line breaks, and kinds of white space."""
    signs = str.maketrans({"⏎": " ", "⇥": " ", "␍": " "})
    return re.sub(r"[\s\ufeff]+", " ", text.replace("\u2060", "").translate(signs)).strip()


def same(found: list[str], expected: list[str]) -> None:
    assert [plain(text) for text in found] == [plain(text) for text in expected]


def inert(page) -> None:
    """Assert that the page's elements are those of lensdiff alone."""
    own = page.locator("head meta").count()
    assert page.locator(ELEMENTS).count() == own
    assert page.locator("main script:not([type='application/json']), body [onerror], body [onload]").count() == 0
    assert page.locator("a[href^='javascript'], [srcdoc]").count() == 0
    assert page.evaluate("typeof window.ran") == "undefined"


def report(root) -> tuple[str, list[tuple[str, list[str], list[str]]]]:
    """A report in which every text is a token or an id, and which prompts it has: id, tokens, response tokens."""
    given = iter(ALL)
    prompts = []
    for _ in range(PROMPTS):
        name = next(given)
        prompts.append((name, list(itertools.islice(given, TOKENS)), list(itertools.islice(given, 40 - 1 - TOKENS))))
    assert next(given, None) is None
    store = ResultStore(root)
    with store.writing():
        side = {"model": ALL[0], "architecture": ALL[1], "n_layers": 2, "dtype": ALL[2]}
        store.update(
            config=CONFIG | {"base": ALL[3]}, pair={"comparable": True, "base": side, "tuned": side}, ended=True
        )
        differences = [{"what": a, "base": b, "tuned": c, "meaning": d} for a, b, c, d in QUARTETS]
        store.save_table("differences", pd.DataFrame(differences))
        for model in SIDES:
            for number, (name, tokens, said) in enumerate(prompts):
                found = attribution(tokens, said, prompt_id=name, model=f"{model} {name}", seed=number)
                put(store, "attribution", Unit(model, str(number)), found)
                origin = Provenance("responses", name, options={"max_new_tokens": 24})
                put(
                    store,
                    "responses",
                    Unit(model, str(number)),
                    SaidResponse(origin, name, "".join(said), (1,), False, ""),
                )
        store.save_table("instruction_scores", instruction_scores([name for name, _, _ in prompts]))
    return Report(store).save(), prompts


def test_tokens_ids_and_names_of_a_report(open_page, tmp_path):
    path, prompts = report(tmp_path / "out")
    page = open_page(path).page
    page.wait_for_selector(".ld-token")
    same(
        page.locator("#pair li").all_text_contents(),
        [f"{what}: {base} (base), {tuned} (tuned); {meaning}" for what, base, tuned, meaning in QUARTETS],
    )
    labels = page.get_by_label("Prompt:").locator("option").all_text_contents()
    assert all(plain(label).startswith(plain(name)[:60]) for label, (name, _, _) in zip(labels, prompts, strict=True))
    for index, (name, tokens, said) in enumerate(prompts):
        page.get_by_label("Prompt:").select_option(index=index)
        page.wait_for_function(
            "document.querySelectorAll('#attribute .ld-side .ld-segment').length === 6"
        )  # instruction, rest, context
        for side, model in zip(page.locator("#attribute .ld-side").all(), SIDES, strict=True):
            assert plain(side.locator("h4").first.text_content()) == plain(f"{model}: {model} {name}")
            same(side.locator(".ld-prompt .ld-token").all_text_contents(), tokens)
            same(side.locator(".ld-choice").all_text_contents()[1:], said)
    inert(page)


EVERY_WORD = """() => {
    const words = [], click = (selector, n) => document.querySelectorAll(selector)[n].click();
    const select = document.querySelector("select");
    for (const layer of [0, 1]) {
        select.selectedIndex = layer;
        select.dispatchEvent(new Event("change"));
        for (const kind of [0, 1]) {
            click(".ld-options .ld-choices button", kind);
            for (const component of [0, 1, 2]) {
                click(".ld-concept-list .ld-choice", component);
                const first = document.querySelector(".ld-side");
                words.push(...[...first.querySelectorAll("li > span:first-child")].map((span) => span.textContent));
            }
        }
    }
    return words;
}"""
WORDS = 2 * 2 * 3 * 2 * 4  # layers, kinds of vectors, components, poles, words


def test_words_of_concepts(open_page):
    for start in range(0, len(ALL), WORDS):
        words = (ALL + ALL)[start : start + WORDS]
        page = open_page(Diff(concepts(words=words), concepts("b", words=words)).show().html()).page
        same(page.evaluate(EVERY_WORD), list(words))
        inert(page)


def described() -> Annotations:
    """An annotator that described each of 2,000 components by one of the texts."""
    task = torch.zeros(20, 100, 1, 3)
    found = annotations(task)
    return type(found)(**(vars(found) | {"descriptions": ALL, "reasons": ALL[::-1]}))


@pytest.mark.parametrize("where", ["table", "annotations"])
def test_answers(open_page, where):
    if where == "table":
        frame = pd.DataFrame({"prompt_id": ALL, "text": ALL[::-1], "n": range(len(ALL))})
        page = open_page(page_of(ALL[0], Table(ALL[1][:20], frame, ALL[2], rows=len(ALL)).html())).page
        page.locator("summary").click()
        found = page.locator("tbody tr td:nth-child(1)").all_text_contents()
        same(found, [cell(text) for text in ALL])
        same(page.locator("tbody tr td:nth-child(2)").all_text_contents(), [cell(text) for text in ALL[::-1]])
        assert plain(page.title()) == plain(ALL[0])
    else:
        page = open_page(described().show().html()).page
        seen = []
        for layer in range(20):
            page.locator("select").select_option(index=layer)
            seen += page.locator("tbody tr").all_text_contents()
        assert len(seen) == len(ALL)
        assert all(plain(text) in plain(row) for text, row in zip(ALL, seen, strict=True))
    inert(page)
