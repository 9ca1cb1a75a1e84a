"""Less than was asked for is never silent: what failed and what was not possible, in a line each."""

import pytest

from lensdiff.pipeline.execute import execute
from lensdiff.pipeline.shortfall import failed, not_possible
from lensdiff.pipeline.whole import run
from lensdiff.results import InputError, ResultStore
from lensdiff.results.manifest import StepState, UnitState
from tests.checkpoints import save_checkpoint
from tests.pipeline.conftest import Recorder, config_for

NO_CONTROLS = {"controls": dict.fromkeys(("instruction_use", "attention", "heads", "mlp", "value_rotation"), 0)}
TEXT_READERS = ("attribute", "attention", "outputs", "instruction_use", "heads", "mlp")


@pytest.fixture(scope="module")
def mute(models, tmp_path_factory):
    """The folder of the pairs, its tuned model without a tokenizer."""
    folder = tmp_path_factory.mktemp("mute")
    save_checkpoint("llama", folder / "base", seed=0)
    save_checkpoint("llama", folder / "tuned", seed=1)
    for file in (folder / "tuned").glob("tokenizer*"):
        file.unlink()
    for name in ("prompts.jsonl", "words.tsv"):
        (folder / name).write_text((models / name).read_text())
    return folder


def unit(path, outcome="failed", reason="it is too long", **about):
    return UnitState(digest=path, outcome=outcome, reason=reason, **about)


def test_one_reason_is_one_line_and_both_models_are_one_prompt(tmp_path):
    store = ResultStore(tmp_path)
    units = [unit(f"{m}/{p}", model=m, prompt=p) for p in ("a", "b", "c", "d") for m in ("base", "tuned")]
    units += [unit("tuned/e", model="tuned", prompt="e"), unit("tuned/f", reason="other", model="tuned", prompt="f")]
    units += [unit("base/0,1", reason="layers", model="base", layers=(0, 1))]
    step = StepState(wanted=[u.digest for u in units], units={u.digest: u for u in units})
    lacks = StepState(wanted=[""], units={"": unit("", "done", "without prompt 'g': empty")})
    none = StepState(wanted=["x"], units={"x": unit("x", "impossible", "no prompt marks an instruction")})
    store.update(steps={"responses": step, "use": lacks, "swap": none, "deletion": none})
    assert failed(store, ["responses", "use", "swap"]) == [
        "without prompt 'a'; prompt 'b'; prompt 'c' and 2 more: it is too long",
        "without tuned, prompt 'f': other",
        "without base, layers 0,1: layers",
        "use without prompt 'g': empty",
    ]
    assert not_possible(store, ["responses", "use", "swap", "deletion"]) == [
        "swap, deletion not possible: no prompt marks an instruction"
    ]


@pytest.mark.parametrize("analysis", TEXT_READERS)
def test_what_reads_text_is_refused_at_once_where_a_tokenizer_is_missing(mute, tmp_path, analysis):
    config = config_for(mute, tmp_path / "out", analyses=["weights", analysis], **NO_CONTROLS)
    with pytest.raises(
        InputError, match=rf"^no tokenizer of tuned was found, and what .* reads text \({analysis}\): put"
    ):
        execute(config)
    assert not ResultStore(tmp_path / "out").manifest.steps


def test_what_reads_weights_alone_needs_no_tokenizer(mute, tmp_path):
    store = execute(config_for(mute, tmp_path / "out", analyses=["weights", "value_rotation"], **NO_CONTROLS))
    assert {name: store.step(name).state for name in ("weights", "value_rotation")} == {
        "weights": "done",
        "value_rotation": "done",
    }


@pytest.mark.parametrize("keep", ["both", "one"])
def test_a_missing_tokenizer_is_refused_also_where_one_model_is_held(mute, tmp_path, keep):
    with pytest.raises(InputError, match="no tokenizer of tuned was found"):
        execute(config_for(mute, tmp_path / "out", keep=keep, analyses=["attribute"], controls={"attribute": 0}))


def test_a_run_warns_of_what_failed_unless_somebody_is_told(models, tmp_path):
    entries = [{"text": "moon " * 300, "id": "long"}, {"text": "Repeat the word: moon", "id": "ok"}]
    changes = {"prompts": None, "prompt": entries, "analyses": ["outputs", "instruction_use"], **NO_CONTROLS}
    with pytest.warns(UserWarning, match="not possible|without prompt") as told:
        run(config_for(models, tmp_path / "out", **changes))
    said = [str(warning.message) for warning in told]
    assert [line for line in said if line.startswith("without prompt 'long': ")]
    assert [line for line in said if "instruction_use" in line and line.endswith("no prompt marks an instruction")]
    recorder = Recorder()
    run(config_for(models, tmp_path / "out", **changes), listener=recorder)  # a warning would be an error here
    assert [line for line in recorder.said if "prompt 'long' failed" in line]


def test_a_prompt_that_a_result_lacks_is_recorded_with_it(models, tmp_path):
    path = tmp_path / "prompts.jsonl"
    whole = '{"id": "ok", "text": "Repeat the word: moon", "instruction": ["Repeat"], "reference": "moon"}\n'
    path.write_text(whole + whole.replace('"ok"', '"half"').replace('"moon"}', '"\\ud83d"}'))
    changes = {"prompts": str(path), "analyses": ["instruction_use"], **NO_CONTROLS}
    store = execute(config_for(models, tmp_path / "out", **changes))
    lines = failed(store, ["instruction_use", "instruction_use_deletion"])
    assert len(lines) == 1  # without its deletion alone: of one prompt there is no other instruction
    assert lines[0].startswith(
        "instruction_use_deletion without prompt 'half': the response to prompt 'half' holds half a ch"
    )
    path.write_text(whole)
    mended = execute(config_for(models, tmp_path / "out", **changes))
    assert failed(mended, ["instruction_use", "instruction_use_deletion"]) == []


def gone(out):
    out.rename(out.with_name("elsewhere"))


def emptied(out):
    gone(out)
    out.mkdir()


def another(out):
    emptied(out)
    ResultStore(out).update(ended=True)


@pytest.mark.parametrize(
    "event", ["responses: base", "begin concepts", "concepts: base", "controls: ", "begin coherence"]
)
@pytest.mark.parametrize("act", [gone, emptied, another])
def test_a_directory_that_is_removed_in_the_middle_ends_the_run_in_one_sentence(models, tmp_path, act, event):
    out, done = tmp_path / "out", []

    def do(found):
        if found.startswith(event) and not done:
            done.append(found)
            act(out)

    config = config_for(models, out, analyses=["mlp", "outputs"], controls={"kinds": ["norm"], "mlp": 1})
    message = f"^{out} was removed, emptied or replaced while a run wrote to it: the run ended, run again$"
    with pytest.raises(InputError, match=message):
        execute(config, listener=Recorder(do))
    left = {path.name for path in out.rglob("*")} if out.exists() else set()
    assert left == ({"manifest.json", ".partial"} if act is another else set())  # nothing was written into it
    assert execute(config).step("rotation").state == "done"


@pytest.mark.parametrize("event", ["begin rotation", "begin coherence"])
def test_results_that_are_removed_in_the_middle_are_named_and_made_again(models, tmp_path, event):
    def do(found):
        if found.startswith(event):
            (tmp_path / "out" / "arrays" / "concepts" / "base" / "0,1.safetensors").unlink(missing_ok=True)

    config = config_for(models, tmp_path / "out", analyses=["mlp"], controls={"mlp": 0})
    with pytest.raises(InputError, match=r"^/.*concepts/base/0,1\.safetensors cannot be read: .*No such file"):
        execute(config, listener=Recorder(do))
    assert execute(config).step("rotation").state == "done"
