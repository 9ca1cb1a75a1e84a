"""The section of the report."""

from lensdiff.analyses.outputs.output_shift import OutputShift
from lensdiff.analyses.outputs.view import outputs_widget
from lensdiff.results import ResultStore
from lensdiff.views.section import Section, Table, in_prompt_order, register_section
from lensdiff.views.widget import Widget

CAPTION = (
    "A row per response token: kl is KL(tuned || base) in nats, js the Jensen-Shannon distance (base 2); ranks and "
    "probabilities of the token itself; kind says whether the tuned model's choice is the base's (unshifted), its "
    "second or third (marginal) or beyond (shifted)."
)


def outputs_section(store: ResultStore) -> list[Widget | Table | str]:
    """Return the coloured responses and the table of a results directory."""
    results = [store.load_result(name, OutputShift) for name in in_prompt_order(store, store.names("outputs/"))]
    parts: list[Widget | Table | str] = [outputs_widget(results)] if results else []
    if store.has_table("outputs"):
        parts.append(Table("outputs", store.load_table("outputs"), CAPTION))
    return parts


register_section(
    Section(
        "outputs",
        "What the models would say next",
        "Both models read the same response; the stronger a token's colour, the further apart they are about what "
        "comes there. Choose one to see what each found likely; underlined tokens are those where the tuned model's "
        "own choice is not the base's.",
        15,
        ("responses", "outputs"),
        outputs_section,
    )
)
