"""What a type checker knows of lists of prompts and of `pair.compare`: pyright reads a script of a user's."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPT = """
from lensdiff import ModelPair, Prompt, attention, attribute, coherence, dose, generate, instruction_use, output_shift


def use(pair: ModelPair, prompt: Prompt, prompts: list[Prompt]) -> None:
    reveal_type(attribute(pair.base, prompt))  # Attribution
    reveal_type(attribute(pair.base, "a text", "a response", target="logit"))  # Attribution
    reveal_type(attribute(pair.base, prompts))  # Results[Attribution]
    reveal_type(attribute(pair.base, prompts, generate(pair.base, prompts)))  # Results[Attribution]
    reveal_type(attention(pair.base, prompts, layers=[0])[0])  # AttentionPatterns
    reveal_type(generate(pair.base, ["a", "b"]))  # Results[Response]
    reveal_type(output_shift(pair, prompts))  # Results[OutputShift]
    reveal_type(instruction_use(pair, prompts))  # InstructionUse
    reveal_type(dose(pair, prompts, groups=["W_out"]))  # Dose
    reveal_type(pair.compare(attribute, prompt, target="logit"))  # Diff[Attribution]
    reveal_type(pair.compare(attribute, prompts, target="logit").tuned)  # Results[Attribution]
    reveal_type(pair.compare(attention, prompt, sink="counted").base.entropy)  # Tensor
    reveal_type(pair.compare(generate, prompts))  # Diff[Results[Response]]
    attribute(pair.base, prompt, targt="logit")  # error: No overloads for "attribute"
    attribute(pair.base, prompt, target="loss")  # error: No overloads for "attribute"
    attribute(pair.base, prompt, ["a response"])  # error: No overloads for "attribute"
    pair.compare(attribute, prompt, targt="logit")  # error: No parameter named "targt"
    pair.compare(attribute, prompt, target="loss")  # error: "Literal['loss']" is not assignable
    pair.compare(attention, prompts, layers="0")  # error: "Literal['0']" is not assignable
    pair.compare(coherence, 3)  # error: "Literal[3]" is not assignable to "MLPConcepts"
"""


def test_a_type_checker_knows_what_comes_back_and_what_is_no_option(tmp_path: Path) -> None:
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not installed")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(script)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said: dict[int, list[str]] = {}
    for one in json.loads(run.stdout)["generalDiagnostics"]:
        said.setdefault(one["range"]["start"]["line"], []).append(one["message"])
    for number, line in enumerate(SCRIPT.splitlines()):
        code, _, expected = line.strip().partition("  # ")
        found = "\n".join(said.get(number, []))
        if code.startswith("reveal_type"):
            revealed = re.search(r'is "(.*)"$', found)
            assert revealed, (line, found)
            assert revealed[1] == expected, line
        elif expected:
            assert expected.removeprefix("error: ") in found, (line, found)
        else:
            assert not found, (line, found)
