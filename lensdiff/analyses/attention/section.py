"""The section of the report."""

from lensdiff.analyses.attention.patterns import AttentionPatterns
from lensdiff.analyses.attention.shift import AttentionShift
from lensdiff.results import Diff, ResultStore
from lensdiff.views.section import Section, Table, in_prompt_order, register_section
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

PROMPTS = 4  # whose patterns a report draws
SHIFT_CAPTION = (
    "A row per head: js_distance between base and tuned (0 to 1), with and without the first key, and the band in "
    "which one more control lies; each share's base, tuned, difference, its interval over prompts, control band and p."
)
ATTENTION_CAPTION = "A row per model, prompt and head: the shares of the response's attention, and its entropy in bits."


def attention_section(store: ResultStore) -> list[Widget | Table | str]:
    """Return the map of heads, the attention of a few prompts, and the tables of a results directory."""
    parts: list[Widget | Table | str] = []
    if store.has("attention_shift"):
        parts.append(show(store.load_result("attention_shift", AttentionShift)))
    names = in_prompt_order(store, store.names("attention/base/"))
    shared = [name for name in names if store.has(name.replace("/base/", "/tuned/", 1))]
    pairs = []
    for name in shared:
        pair = [store.load_result(n, AttentionPatterns) for n in (name, name.replace("/base/", "/tuned/", 1))]
        if all(side.patterns.numel() for side in pair):
            pairs.append(pair)
        if len(pairs) == PROMPTS:
            break
    if pairs:
        parts.append(show(Diff([base for base, _ in pairs], [tuned for _, tuned in pairs])))
    captions = {"attention_shift": SHIFT_CAPTION, "attention": ATTENTION_CAPTION}
    parts += [Table(name, store.load_table(name), text) for name, text in captions.items() if store.has_table(name)]
    return parts


register_section(
    Section(
        "attention",
        "Where the heads look",
        "Each cell of the map is a head; the stronger its colour, the further tuning moved its attention on the same "
        "text, and a frame means further (or less) than the meaningless changes beside it did. Below, base and tuned "
        "side by side, the most changed heads first: rows are the tokens that look, columns what they look at.",
        25,
        ("responses", "attention", "attention_shift"),
        attention_section,
    )
)
