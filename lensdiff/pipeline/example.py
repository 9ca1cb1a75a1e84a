"""The example config that `lensdiff init` writes: every key with its help and its default, from the options."""

import json
import textwrap
from typing import Any

from pydantic.fields import FieldInfo

from lensdiff.pipeline.config import ASKED, TABLES, WholeConfig

WIDTH = 110
COLUMN = 27  # at which the help of a key begins
BASE, TUNED = "HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct"
HEAD = f"""\
# What `lensdiff run` is to do. Every key that stands here with "#" in front shows its default.
# Paths are relative to this file.

# A hub name, a folder with a checkpoint, a .gguf file, or (tuned) a folder with a LoRA adapter.
base = "{BASE}"
tuned = "{TUNED}"

# Prompts: a JSONL file with {{"text": ..., "instruction": [...], "context": [...], "id": ...}} a line, and optionally
# "kind" (what is asked for) and "reference" (a right answer), or the paper's FinalDataset.tsv; or prompts of the
# config's own, as below.
"""
CONTROLS = (
    "Meaningless changes of the same size, beside which the real change is shown: how many of each kind. A band needs "
    "19, a verdict on a claim 59."
)
PROMPTS = """\
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
"""
FIRST = ("prompts", "max_prompts")
WRITTEN = {"max_new_tokens": 64}  # the paper has 300; a first look is shorter
SAMPLES = {
    "prompts": "prompts.jsonl",
    "max_prompts": 12,
    "base_revision": "main",
    "tuned_revision": "main",
    "layers": [0, 1, 2],
    "data": "tuning.jsonl",
    "ranks": [1, 5, 10, 20, 50],
}
ELSEWHERE = ("base", "tuned", "prompt", "controls", *FIRST)


def example() -> str:
    """Return the text of an example config."""
    fields = WholeConfig.model_fields
    tables = {analysis.name for analysis in TABLES}
    top = [name for name in fields if name not in tables and name not in ELSEWHERE]
    parts = [HEAD + "\n".join(_line(name, fields[name]) for name in FIRST)]
    parts.append(_comment("analyses: " + "; ".join(f"{a.name}: {_lower(a.question)}" for a in ASKED.values()) + "."))
    parts[-1] += "\n" + "\n".join(_line(name, fields[name]) for name in top)
    controls: Any = fields["controls"].annotation
    parts.append(f"{_comment(CONTROLS)}\n[controls]\n{_lines(controls.model_fields)}")
    parts += [f"[{analysis.name}]\n{_lines(analysis.options.model_fields)}" for analysis in TABLES]
    return "\n\n".join([*parts, PROMPTS])


def _lines(fields: dict[str, FieldInfo]) -> str:
    return "\n".join(_line(name, field) for name, field in fields.items())


def _line(name: str, field: FieldInfo) -> str:
    default, help = _toml(_default(name, field)), (field.description or "").rstrip(".")
    if name in WRITTEN:
        return f"{_comment(f'{help}. The default is {default}.')}\n{name} = {WRITTEN[name]}"
    line = f"{f'# {name} = {default}':<{COLUMN}}  # {_lower(help)}"
    return line if len(line) <= WIDTH else f"{_comment(f'{help}:')}\n# {name} = {default}"


def _default(name: str, field: FieldInfo) -> Any:
    default = field.get_default(call_default_factory=True)
    return SAMPLES[name] if default is None else default


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _comment(text: str) -> str:
    return "\n".join(f"# {line}" for line in textwrap.wrap(text, WIDTH))
