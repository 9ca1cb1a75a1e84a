"""The section of the report."""

from lensdiff.analyses.instruction_use.result import InstructionUse
from lensdiff.results import ResultStore
from lensdiff.views.section import Section, Table, register_section
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

TABLES = {
    "instruction_use": "A row per prompt, text and model: use is log_prob - log_prob_without, nats per token.",
    "instruction_use_differences": "A row per text and model: the mean use less the base's, over prompts. p is of the "
    "prompts alone, and no verdict.",
}


def instruction_use_section(store: ResultStore) -> list[Widget | Table | str]:
    """Return the dots by either means, and the tables of a results directory."""
    names = ("instruction_use", "instruction_use_deletion")
    parts: list[Widget | Table | str] = [
        show(store.load_result(name, InstructionUse)) for name in names if store.has(name)
    ]
    return parts + [Table(name, store.load_table(name), text) for name, text in TABLES.items() if store.has_table(name)]


register_section(
    Section(
        "instruction_use",
        "How much a response needs its instruction",
        "A dot is a model on one prompt: the further right, the less likely the response becomes with another "
        "instruction. The tuned model's dot lies right of the base's where it depends on the instruction more; grey is "
        "what meaningless changes of the same size do, also those that ruin a model and that a claim leaves out.",
        5,
        ("instruction_use",),
        instruction_use_section,
    )
)
