"""The section of the report."""

from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.analyses.attribute.view import SIDES, scores_widget
from lensdiff.results import Diff, ResultStore
from lensdiff.views.section import Section, Table, in_prompt_order, register_section
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

SCORES_CAPTION = "A row per model and prompt; n_in and n_out count the prompt's and the response's tokens."
ATTRIBUTION_CAPTION = "A row per prompt token and response token; score is gradient x input, level its share in tenths."


def attribution_section(store: ResultStore) -> list[Widget | Table | str]:
    """Return the explorer of all prompts that both models have, the scores, and the tables."""
    runs = {side: in_prompt_order(store, store.names(f"attribution/{side}/")) for side in SIDES}
    results = {side: [store.load_result(name, Attribution) for name in names] for side, names in runs.items()}
    parts: list[Widget | Table | str] = []
    if all(results.values()):
        parts.append(show(Diff(results["base"], results["tuned"])))
    if store.has_table("instruction_scores"):
        scores = store.load_table("instruction_scores")
        parts += [scores_widget(scores), Table("instruction_scores", scores, SCORES_CAPTION)]
    if store.has_table("attribution"):
        parts.append(Table("attribution", store.load_table("attribution"), ATTRIBUTION_CAPTION))
    return parts


register_section(
    Section(
        "attribution",
        "Which prompt words drive the response",
        "Choose a token of a response: the prompt's words take its colours, strongest where the word supported the "
        "token most; “whole response” shows how densely each word matters over all of them. The instruction score sums "
        "that over the instruction's words, so it is higher where the response follows from the instruction.",
        10,
        ("responses", "attribution", "instruction_scores"),
        attribution_section,
    )
)
