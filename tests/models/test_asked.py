"""One prompt or a list of them: the same in everything that reads prompts."""

import inspect
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import lensdiff
from lensdiff.analyses.attention.patterns import attention
from lensdiff.analyses.attribute.curves import DeletionCurve
from lensdiff.analyses.attribute.deletion_curve import deletion_curve
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.analyses.dose.measure import dose
from lensdiff.analyses.dose.result import Dose
from lensdiff.analyses.first_divergence.measure import first_divergence
from lensdiff.analyses.first_divergence.result import FirstDivergence
from lensdiff.analyses.instruction_use.measure import instruction_use
from lensdiff.analyses.instruction_use.result import InstructionUse
from lensdiff.analyses.knock_out.measure import knock_out
from lensdiff.analyses.layer_similarity.measure import layer_similarity
from lensdiff.analyses.layer_similarity.result import LayerSimilarity
from lensdiff.analyses.outputs.output_shift import output_shift
from lensdiff.analyses.patch.measure import patch, patch_sweep
from lensdiff.analyses.patch.result import Patched
from lensdiff.analyses.residual_stream.direct import direct_logit_attribution
from lensdiff.analyses.residual_stream.lens import logit_lens
from lensdiff.inputs import Prompt
from lensdiff.models import load_pair
from lensdiff.models import progress as progress_of
from lensdiff.models.asked import Asked, as_prompt
from lensdiff.models.response import Response
from lensdiff.models.text import generate
from lensdiff.results import Diff, InputError, Results
from tests.checkpoints import hf_model, save_checkpoint, tokenizer_of
from tests.conftest import ROOT
from tests.lacks import LACKS
from tests.views.pages import given

SEA = Prompt("Write of the sea", ["Write"], id="sea")
MOON = Prompt("List the moon", ["List"])  # without an id
LONG = Prompt("List " + "moon " * 200, ["List"], id="long")
REASON = r"prompt 'long' .*context"
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def pair() -> Any:
    return load_pair(
        hf_model("llama"), hf_model("llama", seed=1), tokenizer=tokenizer_of(True), device="cpu", verify=False
    )


@pytest.fixture(scope="module")
def calls(pair: Any) -> dict[str, Call]:
    """Everything that takes prompts, lacking nothing else."""

    def of_responses(prompt: Any, response: Any = None, **options: Any) -> Any:
        assert response is None, "generate takes none"
        return generate(pair.base, prompt, max_new_tokens=3, **options)

    def first_divergence_of(prompt: Any, response: Any = None, **options: Any) -> Any:
        assert response is None, "both models' own words part"
        return first_divergence(pair, prompt, max_new_tokens=3, **options)

    return {
        "generate": of_responses,
        "attribute": lambda *a, **k: attribute(pair.base, *a, deletion_draws=0, max_new_tokens=3, **k),
        "deletion_curve": lambda *a, **k: deletion_curve(pair, *a, max_new_tokens=3, draws=1, **k),
        "attention": lambda *a, **k: attention(pair.base, *a, **k),
        "output_shift": lambda *a, **k: output_shift(pair, *a, max_new_tokens=3, **k),
        "instruction_use": lambda *a, **k: instruction_use(pair, *a, by="deletion", max_new_tokens=3, **k),
        "dose": lambda *a, **k: dose(pair, *a, amounts=[1], max_new_tokens=3, **k),
        "patch": lambda *a, **k: patch(pair, *a, component="mlp", layer=1, max_new_tokens=3, **k),
        "patch_sweep": lambda *a, **k: patch_sweep(pair, *a, max_new_tokens=3, **k),
        "knock_out": lambda *a, **k: knock_out(pair.tuned, *a, max_new_tokens=3, draws=1, **k),
        "first_divergence": first_divergence_of,
        "layer_similarity": lambda *a, **k: layer_similarity(pair, *a, max_new_tokens=3, **k),
        "logit_lens": lambda *a, **k: logit_lens(pair.base, *a, max_new_tokens=3, **k),
        "direct_logit_attribution": lambda *a, **k: direct_logit_attribution(pair.base, *a, max_new_tokens=3, **k),
    }


OWN_WORDS = ("generate", "first_divergence")
WITH_RESPONSES = (
    *("attribute", "attention", "output_shift", "instruction_use", "dose", "patch", "patch_sweep"),
    *("knock_out", "logit_lens", "direct_logit_attribution", "deletion_curve", "layer_similarity"),
)
TOGETHER = ("layer_similarity",)  # one result of all prompts, without a row per prompt
NAMES = (*OWN_WORDS, *WITH_RESPONSES)


def test_these_are_all_that_take_prompts() -> None:
    takers = {
        name
        for name in lensdiff.__all__
        if inspect.isfunction(function := getattr(lensdiff, name))
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name in ("prompt", "prompts") and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    } - {"template_effects", "series"}  # which read prompts in ways of their own: see their own tests
    assert takers == {*NAMES, "directions"}, "a direction takes two prompts at least"


def ids(found: Any) -> list[str]:
    """The prompts that have a result, in order."""
    in_one = isinstance(found, InstructionUse | Dose | Patched | FirstDivergence | DeletionCurve | LayerSimilarity)
    return list(dict.fromkeys(found.prompt_id)) if in_one else list(found.by_id)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TOGETHER])
def test_a_list_gives_what_each_prompt_gives_alone(calls: Any, name: str) -> None:
    both = calls[name]([MOON, SEA])
    assert ids(both) == ["0", "sea"]
    assert both.failures == {}
    frame = both.to_df()
    for prompt_id, prompt in (("0", MOON), ("sea", SEA)):
        one = calls[name](prompt)
        assert not isinstance(one, Results)
        mine = frame[frame["prompt_id"] == prompt_id].drop(columns="prompt_id").reset_index(drop=True)
        alone = one.to_df().drop(columns="prompt_id", errors="ignore")
        pd.testing.assert_frame_equal(mine, alone, rtol=1e-5, atol=1e-6)
    assert ids(calls[name]([SEA])) == ["sea"], "a list of one is a list"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], r"expected a Prompt, a text or a list of them, got \[\]"),
        ([SEA, SEA], "the id 'sea' comes twice among the prompts, expected each once"),
        ([Prompt("a", id="1"), "b"], "the id '1' comes twice among the prompts"),
    ],
)
def test_a_list_without_prompts_or_with_one_id_twice_is_refused(
    calls: Any, name: str, prompts: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        calls[name](prompts)


@pytest.mark.parametrize("name", NAMES)
def test_of_several_prompts_one_that_fails_is_told_once_and_kept(calls: Any, name: str) -> None:
    with pytest.warns(UserWarning, match="failed") as told:
        found = calls[name]([SEA, LONG, MOON])
    assert len(told) == 1
    assert ids(found) == ["sea", "2"]
    assert list(found.failures) == ["long"]
    assert str(told[0].message) == f"prompt 'long' failed: {found.failures['long']}"
    assert re.match(REASON, found.failures["long"])
    rest = calls[name]([SEA, Prompt(MOON.text, MOON.instruction, id="2")])
    pd.testing.assert_frame_equal(found.to_df(), rest.to_df(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_where_all_fail_the_first_reason_is_raised_and_nothing_else_told(calls: Any, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=f"none of 2 prompts could be read; 'long': {REASON}"):
            calls[name]([LONG, Prompt(LONG.text, LONG.instruction, id="other")])
        for alone in (LONG, [LONG]):
            with pytest.raises(InputError, match=f"^{REASON}"):
                calls[name](alone)


@pytest.mark.parametrize("name", WITH_RESPONSES)
@pytest.mark.parametrize(
    ("prompt", "response", "message"),
    [
        (SEA, ["a"], "one prompt takes one response, given a list"),
        ([SEA], "a", "1 prompt given with a single response, expected as many"),
        ([SEA], Response("a", (5,)), "1 prompt given with a single response, expected as many"),
        ([SEA, MOON], ["a"], "2 prompts given with 1 response, expected as many"),
    ],
)
def test_responses_are_as_many_as_prompts(calls: Any, name: str, prompt: Any, response: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        calls[name](prompt, response)


@pytest.mark.parametrize("name", ["attribute", "attention", "output_shift"])  # no signature refuses it before
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3,), "expected a Prompt, a text or a list of them, got 3"),
        (([SEA, 3],), "expected a Prompt or a text, got int"),
        ((SEA, 3), "one prompt takes one response, given a int"),
        (([SEA, MOON], ["a", 3]), "a response is 3, expected a text or a Response for every prompt"),
    ],
)
def test_what_is_neither_prompt_nor_response_is_refused(calls: Any, name: str, arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        calls[name](*arguments)


@pytest.mark.parametrize("name", WITH_RESPONSES)
def test_responses_of_generate_are_those_to_the_same_prompts(pair: Any, calls: Any, name: str) -> None:
    prompts = [SEA, LONG, MOON]
    with pytest.warns(UserWarning, match="prompt 'long' failed"):
        said = generate(pair.tuned, prompts, max_new_tokens=3)
    with pytest.warns(UserWarning, match="prompt 'long' failed") as told:
        found = calls[name](prompts, said)
    assert len(told) == 1
    assert found.failures == said.failures
    expected = calls[name]([SEA, Prompt(MOON.text, MOON.instruction, id="2")], list(said))
    pd.testing.assert_frame_equal(found.to_df(), expected.to_df())
    with pytest.raises(InputError, match=r"2 prompts given with responses to others \(\['sea', '2', 'long'\]\)"):
        calls[name]([SEA, MOON], said)


@pytest.mark.parametrize("name", NAMES)
def test_a_list_is_read_under_a_progress_bar(calls: Any, name: str, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(progress_of, "is_watched", lambda: True)
    monkeypatch.setattr(progress_of, "PATIENCE", 0.0)
    for prompts, progress, shown in (
        ([SEA], None, True),
        ([SEA], True, True),
        ([SEA], False, False),
        (SEA, None, True),
        (SEA, False, False),
    ):
        calls[name](prompts, progress=progress)
        assert bool("".join(capsys.readouterr())) is shown


def failing(error: Exception) -> Results[str]:
    asked = Asked.of(["a", "b"])

    def work(prompt: Prompt, response: Any) -> str:
        if prompt.id == "0":
            raise error
        return prompt.text

    return asked.results(asked.each(work, "working", False))  # type: ignore[return-value]


def test_what_is_not_the_prompts_own_fault_ends_the_call() -> None:
    with pytest.warns(UserWarning, match="prompt '0' failed: broken"):
        assert list(failing(RuntimeError("broken"))) == ["b"]
    for error in (*LACKS, RecursionError("deep"), KeyError("k")):
        with pytest.raises(type(error)):
            failing(error)


def test_a_text_is_a_prompt() -> None:
    assert as_prompt("a") == Prompt("a")
    assert as_prompt(SEA) is SEA
    with pytest.raises(InputError, match="expected a Prompt or a text, got int"):
        as_prompt(3)


# results


def test_results_are_a_list_with_a_table(pair: Any) -> None:
    found = attribute(pair.base, [SEA, MOON], ["a moon", "a sea"], deletion_draws=0)
    assert (len(found), [one.prompt_id for one in found]) == (2, ["sea", "1"])
    assert found[0] is found.by_id["sea"]
    assert found[-1] is found[:2][1]
    assert found.to_df()["prompt_id"].unique().tolist() == ["sea", "1"]
    top = found.top(2)
    assert top["prompt_id"].tolist() == ["sea", "sea", "1", "1"]
    pd.testing.assert_frame_equal(top.iloc[:2].drop(columns="prompt_id"), found[0].top(2))
    assert repr(found).splitlines()[:2] == [
        f"Results of 2 prompts, Attribution: {pair.ids[0]}",
        "  prompts: sea, 1",
    ]


def test_results_say_what_is_missing() -> None:
    failures = {str(i): f"reason {i}" for i in range(5)}
    assert repr(Results({}, failures)).splitlines() == [
        "Results of 0 prompts, nothing",
        "  without '0': reason 0",
        "  without '1': reason 1",
        "  without '2': reason 2",
        "  without 2 more, see failures",
        "  next: top(), to_df(), show(), by_id",
    ]
    assert Results({}).to_df().empty
    with pytest.raises(InputError, match="there is no view of a Results of Results"):
        Results({}).show()


def test_responses_have_a_table_and_are_seen_as_one(pair: Any) -> None:
    said = generate(pair.base, [SEA, MOON], max_new_tokens=3)
    assert list(said.to_df()) == ["prompt_id", "text", "n_tokens", "model"]
    assert said.to_df()["text"].tolist() == [one.text for one in said]
    pd.testing.assert_frame_equal(said.top(), said.to_df())
    shown = said.show()
    assert shown.title == "Results of Response"
    assert [row[1] for row in shown.data.rows] == [one.text for one in said]
    both = pair.compare(generate, SEA, max_new_tokens=3)
    assert both.to_df().to_numpy().tolist() == [
        [side, one.text, len(one.token_ids)] for side, one in (("base", both.base), ("tuned", both.tuned))
    ]


@pytest.mark.parametrize("name", ["attribute", "attention", "output_shift"])
def test_a_list_is_seen_prompt_by_prompt(calls: Any, name: str) -> None:
    found = calls[name]([SEA, MOON], ["the moon", "the sea"])
    widget = found.show()
    alone = [one.show() for one in found]
    assert given(widget)["prompts"] == [given(one)["prompts"][0] for one in alone]
    assert widget.title == alone[0].title
    assert widget.html()


SCRIPT = """
import sys, warnings
from lensdiff import Prompt, attention, attribute, generate, instruction_use, load_pair, output_shift, patch_sweep
pair = load_pair(*sys.argv[1:], device="cpu", verify=False)
prompts = [Prompt("Write of the sea", ["Write"], id="sea"), Prompt("List " + "moon " * 200, ["List"], id="long")]
warnings.simplefilter("default")
generate(pair.base, prompts, max_new_tokens=3)
attribute(pair.base, prompts, max_new_tokens=3)
attention(pair.base, prompts)
output_shift(pair, prompts, max_new_tokens=3)
instruction_use(pair, prompts, by="deletion", max_new_tokens=3)
patch_sweep(pair, prompts, max_new_tokens=3)
diff = pair.compare(generate, prompts, max_new_tokens=3)
assert list(diff.base.failures) == list(diff.tuned.failures) == ["long"]
"""


def test_a_failure_is_told_at_the_line_that_asked_and_once_of_a_pair(tmp_path: Path) -> None:
    folders = [save_checkpoint("llama", tmp_path / name, seed=seed) for seed, name in enumerate(("base", "tuned"))]
    (tmp_path / "script.py").write_text(SCRIPT)  # a process of its own: shape checking puts calls between
    command = [sys.executable, str(tmp_path / "script.py"), *map(str, folders)]
    run = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": "."}
    )
    found = re.findall(r"([a-z]+\.py):(\d+): UserWarning: prompt 'long' failed: ", run.stderr)
    assert [(file, int(line)) for file, line in found[:6]] == [("script.py", line) for line in range(7, 13)]
    assert [file for file, _ in found[6:]] == ["pair.py"]


def test_a_pair_of_lists_is_seen_and_has_a_table(pair: Any) -> None:
    diff = pair.compare(attribute, [SEA, MOON], ["the moon", "the sea"], deletion_draws=0)
    assert isinstance(diff, Diff)
    plain = Diff(list(diff.base), list(diff.tuned))
    pd.testing.assert_frame_equal(diff.to_df(), plain.to_df())
    assert diff.show().data == plain.show().data
    assert list(given(diff.show())["prompts"][0]) == ["id", "label", "sides"]
