"""The example config that `lensdiff init` writes: every key with its help and its default, from the options."""

import json
import textwrap
from typing import Any

from pydantic.fields import FieldInfo

from lensdiff.pipeline.config import ASKED, TABLES, RayOptions, WholeConfig
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import example_of

WIDTH = 120
COLUMN = 27  # at which the help of a key begins
BASE, TUNED = "HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct"
HEAD = f"""\
# What `lensdiff run` is to do. A key with "#" in front shows its default, or an example where its help says what
# happens by default. Paths are relative to this file.

# A hub name, a folder with a checkpoint, a .gguf file, or (tuned) a folder with a LoRA adapter on the base.
base = "{BASE}"
tuned = "{TUNED}"
"""
PROMPTS = """\
# Prompts: here, as below, or in a file: JSONL with {"text": ..., "instruction": [...], "context": [...], "id": ...} a
# line, and optionally "kind" (what is asked for) and "reference" (a right answer), or the paper's FinalDataset.tsv. A
# chat has "messages" in place of a text."""
CONTROLS = """\
# Controls: meaningless changes of the same size, beside which the real change is shown. How many of each kind stand
# beside an analysis; a band needs 19 of a kind, a verdict on a claim 59."""
RAY = """\
# The cluster of engine = "ray", and what each of its actors holds; docs/how-to/cluster.md has the commands."""
OWN_PROMPTS = """\
[[prompt]]
id = "capital"
text = "Answer the question in one sentence. What is the capital of France?"
instruction = ["Answer the question in one sentence."]
context = ["What is the capital of France?"]

[[prompt]]
id = "synonyms"
text = "List three words that mean the same as the word below.\\nquick"
instruction = ["List three words that mean the same as the word below."]
context = ["quick"]

# A chat has messages in place of a text, each with its own spans; the last one is to be answered:
# [[prompt]]
# id = "colour"
# messages = [
#     {role = "system", content = "Answer in one word."},
#     {role = "user", content = "What colour is grass?", instruction = ["What colour is grass?"]},
# ]
"""
OF_RESULTS, OF_PROMPTS, OF_ANALYSES = ("out",), ("prompts", "max_prompts", "max_new_tokens"), ("analyses",)
WRITTEN = {"max_new_tokens": 64}  # the paper has 300; a first look is shorter
ELSEWHERE = ("base", "tuned", "prompt", "controls", "ray", *OF_RESULTS, *OF_PROMPTS, *OF_ANALYSES)


def example() -> str:
    """Return the text of an example config."""
    fields = WholeConfig.model_fields
    tables = {analysis.name for analysis in TABLES}
    rest = [name for name in fields if name not in tables and name not in ELSEWHERE]
    controls: Any = fields["controls"].annotation
    parts = [
        HEAD.rstrip(),
        _lines(fields, OF_RESULTS),
        f"{PROMPTS}\n{_lines(fields, OF_PROMPTS)}",
        f"{_analyses()}\n{_lines(fields, OF_ANALYSES)}",
        _lines(fields, rest),
        f"{CONTROLS}\n[controls]\n{_lines(controls.model_fields)}",
        f"{RAY}\n[ray]\n{_lines(RayOptions.model_fields)}",
        *(f"{_heading(analysis)}\n{_lines(analysis.options.model_fields)}" for analysis in TABLES),
        OWN_PROMPTS,
    ]
    return "\n\n".join(parts)


def _analyses() -> str:
    width = max(map(len, ASKED))
    lines = [f"#   {analysis.name:<{width}}  {_lower(analysis.question)}" for analysis in ASKED.values()]
    return "\n".join(["# Analyses, each of one question:", *lines])


def _heading(analysis: Analysis[Any]) -> str:
    return f"# {analysis.question}.\n[{analysis.name}]"


def _lines(fields: dict[str, FieldInfo], names: Any = None) -> str:
    return "\n".join(_line(name, fields[name]) for name in (fields if names is None else names))


def _line(name: str, field: FieldInfo) -> str:
    value, help = _toml(example_of(field)), (field.description or "").rstrip(".")
    start = f"# {name} = {value}"
    if name in WRITTEN:
        start, help = f"{name} = {_toml(WRITTEN[name])}", f"{help}; by default {value}"
    line = f"{start:<{COLUMN}}  # {_lower(help)}"
    return line if len(line) <= WIDTH else f"{_comment(f'{help}.')}\n{start}"


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text


def _comment(text: str) -> str:
    return "\n".join(f"# {line}" for line in textwrap.wrap(text, WIDTH - 2))
