"""Stopped anywhere, the next run goes on: at most one unit is done twice, and nothing is lost."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lensdiff.pipeline.report import Report
from lensdiff.results import InputError, ResultStore
from lensdiff.results import folder as folder_module
from lensdiff.results.journal import Journal
from tests.lacks import LACKS
from tests.pipeline.conftest import PROMPTS, Recorder
from tests.pipeline.resuming import COUNTED, Stop, Watch, arrays, assert_same, copied, digests, run, seen, small

pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture(scope="module")
def told(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ResultStore, list[str]]:
    """A run that nothing stopped, and the units that it told of."""
    recorder = Recorder()
    return run(small(models, tmp_path_factory.mktemp("whole") / "out"), recorder), recorder.units()


@pytest.fixture(scope="module")
def whole(told: tuple[ResultStore, list[str]]) -> ResultStore:
    return told[0]


def test_stopped_between_any_two_units(models, tmp_path, told):
    done: list[str] = []
    config = small(models, tmp_path / "out")
    for _ in range(100):
        count = 0

        def stop_after_five(event: str) -> None:
            nonlocal count
            count += ": " in event
            if count == 5:
                raise Stop

        recorder = Recorder(stop_after_five)
        try:
            run(config, recorder)
        except Stop:
            done += recorder.units()
            assert not ResultStore(tmp_path / "out").manifest.ended
            continue
        done += recorder.units()
        break
    else:
        pytest.fail("the run never ended")
    assert done == told[1]  # no unit twice, none left out, in the same order
    assert_same(ResultStore(tmp_path / "out"), told[0])


WITHIN = [
    "pair",
    "attribution/tuned/sea",
    "heads/tuned/0,1",
    "control_attention/spectrum-0",
    "heads/spectrum-1/0,1",
    "verb_shift",
    "value_rotation",
    "claims",
]


def test_stopped_within_a_unit_repeats_that_one(models, tmp_path, whole, monkeypatch):
    left, worked, watch = set(WITHIN), [], Watch(monkeypatch)

    def stop(name: str) -> None:  # its result is found, and nothing of it is on disk
        if name in left:
            left.remove(name)
            raise Stop

    watch.after = stop
    config = small(models, tmp_path / "out")
    for _ in WITHIN:
        with pytest.raises(Stop):
            run(config)
        worked += watch.take()
        assert not ResultStore(tmp_path / "out").has("claims")
        assert "The answers are written when the run has ended." in Report(tmp_path / "out").html()
    store = run(config)
    worked += watch.take()
    assert {name for name in worked if worked.count(name) > 1} == set(WITHIN)
    assert len(worked) == len(digests(whole)) + len(WITHIN)
    assert_same(store, whole)
    assert "The answers are written when" not in Report(store).html()


@pytest.mark.parametrize("before", ["nothing", "another config"])
def test_killed_at_any_write(models, tmp_path, whole, monkeypatch, before):
    """Before or after any file is put in place, any line of the journal, any file's removal: nothing else is seen then
    than what a fresh run finds, and at most the unit at hand and what was removed for it are done again."""
    random.seed(3)
    config, expected = small(models, tmp_path / "out"), seen(whole)
    old = seen(run(config | {"seed": 1})) if before == "another config" else {}
    left, worked, kills, watch = 0, [], 0, Watch(monkeypatch)

    def counted(act):
        def counting(*arguments, **options):
            nonlocal left
            left -= 1
            is_last = left == 0
            if is_last and random.random() < 0.5:
                raise Stop
            found = act(*arguments, **options)
            if is_last:
                raise Stop
            return found

        return counting

    for target, name in ((folder_module.os, "replace"), (Journal, "add"), (Journal, "clear"), (Path, "unlink")):
        monkeypatch.setattr(target, name, counted(getattr(target, name)))
    for _ in range(100):
        left = random.randint(5, 60)
        try:
            store = run(config)
        except Stop:
            kills += 1
            left = -1
            worked += watch.take()
            now = ResultStore(tmp_path / "out")
            damaged = now.damaged()
            there = {name: digest for name, digest in seen(now).items() if name in expected}
            assert there.items() <= (old if now.manifest.config.get("seed") else expected).items()
            assert len(damaged) <= 1  # was written, and is not recorded yet
            continue
        break
    else:
        pytest.fail("the run never ended")
    worked += watch.take()
    assert kills > 5
    assert len(worked) <= len(digests(whole)) + 2 * kills
    assert_same(store, whole)


@pytest.mark.parametrize("after", [3, 40, 150, 230])
def test_a_full_disk_ends_the_run_and_the_next_goes_on(models, tmp_path, whole, monkeypatch, after):
    flush, calls, watch = os.fsync, 0, Watch(monkeypatch)

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(28, "No space left on device")
        flush(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device"):
            run(small(models, tmp_path / "out"))
    store = run(small(models, tmp_path / "out"))
    worked = watch.take()
    assert len(worked) - len(set(worked)) <= 1
    assert_same(store, whole)


SCRIPT = """
import os, signal, sys
from lensdiff.cli import main
from lensdiff.cli.output import Terminal

class Deadly(Terminal):
    left = int(sys.argv[3])

    def advance(self, step, unit):
        super().advance(step, unit)
        Deadly.left -= 1
        if not Deadly.left:
            os.kill(os.getpid(), getattr(signal, sys.argv[2]))

import lensdiff.cli.whole
lensdiff.cli.whole.Terminal = Deadly
sys.exit(main(["run", sys.argv[1]]))
"""
IDS = [prompt["id"] for prompt in PROMPTS]
OWN = [f"{side}/{name}" for side in ("base", "tuned") for name in IDS]
FIRST = [f"norm-0/{name}" for name in IDS]


@pytest.mark.parametrize(
    ("sent", "after", "expected"),
    [
        (
            "SIGKILL",
            14,
            {
                "pair": [""],
                "responses": OWN,
                "attribution": [*OWN, *FIRST],
                "control_responses": FIRST,
                "control_validity": ["norm-0"],
            },
        ),
        ("SIGINT", 4, {"pair": [""], "responses": OWN[:3]}),
    ],
)
def test_a_signal_ends_the_command_and_it_goes_on(models, tmp_path, sent, after, expected):
    lines = [
        f'{key} = "{models / name}"'
        for key, name in (("base", "base"), ("tuned", "tuned"), ("prompts", "prompts.jsonl"))
    ]
    lines += [f'out = "{tmp_path / "out"}"', 'analyses = ["attribute"]', "max_new_tokens = 4", 'device = "cpu"']
    config = tmp_path / "run.toml"
    controls = ["[controls]", 'kinds = ["norm", "spectrum"]', "attribute = 2"]
    config.write_text("\n".join([*lines, "[attribute]", "deletion_draws = 2", "curve_prompts = 0", *controls]))
    command = [sys.executable, "-c", SCRIPT, str(config), sent, str(after)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=Path(__file__).parents[2])
    steps = ResultStore(tmp_path / "out").manifest.steps
    assert {name: state.done for name, state in steps.items() if state.done} == expected
    if sent == "SIGKILL":
        assert ran.returncode == -signal.SIGKILL
    else:
        assert ran.returncode == 1
        assert ran.stderr.strip().split("\n")[-1] == "lensdiff: stopped; the same command goes on from here"
        assert "Traceback" not in ran.stderr
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/arrays").rglob("*.safetensors")}
    from lensdiff.cli import main

    assert main(["run", str(config), "--quiet"]) == 0
    store = ResultStore(tmp_path / "out")
    assert {state.state for state in store.manifest.steps.values()} == {"done"}
    assert (tmp_path / "out" / "report.html").is_file()
    assert store.step("control_validity").done == ["norm-0", "norm-1"]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # nothing of it was done again
    fresh = run(store.manifest.config | {"out": str(tmp_path / "fresh")})
    found, same = arrays(store.root), arrays(fresh.root)
    assert found.keys() == same.keys()
    for name, value in same.items():
        if isinstance(value, torch.Tensor):  # the command takes another number of threads
            torch.testing.assert_close(found[name], value, equal_nan=True)


def test_two_runs_on_one_directory(models, tmp_path):
    refused: list[InputError] = []
    config = small(models, tmp_path / "out", analyses=["weights"])

    def run_again(event: str) -> None:
        with pytest.raises(InputError, match=rf"another run is writing to {tmp_path / 'out'}") as error:
            run(config | {"seed": 5})
        refused.append(error.value)

    store = run(config, Recorder(run_again))
    assert len(refused) > 3
    assert store.step("weights").state == "done"
    assert store.manifest.config["seed"] == 0


# units that fail
def failing(watch: Watch, *names: str) -> None:
    def fail(name: str) -> None:
        if name in names:
            raise InputError(f"{name} cannot be had")

    watch.before = fail


FAILS = {  # what fails: what is done again when it can be had, and what cannot be had without it
    "attribution/base/sea": ({"claims"}, set()),
    "outputs/sea": (set(), set()),
    "control_attention/spectrum-0": ({"attention_shift"}, set()),
    "heads/spectrum-1/0,1": (
        {"verb_shift", "pair_overlap", "claims", "heads/spectrum-0/0,1", "heads/spectrum-2/0,1"},
        set(),
    ),
    "concepts/tuned/0,1": (set(), {"coherence/tuned", "rotation"}),
    "responses/tuned/sea": (
        {
            *("attention_shift", "claims", "instruction_use_deletion", "instruction_use_deletion_control/spectrum-0"),
            *("instruction_use_pair", "instruction_use_deletion_pair", "control_attention/spectrum-0"),
            *("deletion_curves", "knock_out_pair", "knock_out_control/spectrum-0", "knock_out"),
            *("dose_pair", "dose_control/spectrum-0", "dose", "patch_control/spectrum-0", "patch"),
            *("patch_set_pair", "patch_set_control/spectrum-0", "patch_set"),
            *("control_logit_lens/spectrum-0", "logit_lens_shift", "direct_logit_attribution"),
            *("logit_parts/base", "logit_parts/tuned", "logit_parts/spectrum-0", "patch_prompt/fruit"),
            *("layer_similarity_pair", "layer_similarity_control/spectrum-0", "layer_similarity"),
            "directions_pair",
        },
        {
            *("logit_lens/base/sea", "logit_lens/tuned/sea", "patch_prompt/sea"),
            *("attribution/tuned/sea", "attention/base/sea", "attention/tuned/sea", "outputs/sea"),
            *("control_responses/spectrum-0/sea", "attribution/spectrum-0/sea"),
            *("instruction_use", "instruction_use_control/spectrum-0"),  # one prompt alone has no other instruction
            *("directions", "directions_control/spectrum-0"),  # nor a direction
        },
    ),
    "control_validity/spectrum-0": (
        {
            *("claims", "instruction_use", "instruction_use_deletion", "attention_shift"),
            *("knock_out", "first_divergence", "patch", "patch_set", "logit_lens_shift", "direct_logit_attribution"),
            *("logit_parts/base", "logit_parts/tuned", "layer_similarity", "directions"),
            *("activation_difference", "activation_difference_effects"),
        },
        {
            *("control_attention/spectrum-0", "control_responses/spectrum-0/sea", "control_responses/spectrum-0/fruit"),
            *("attribution/spectrum-0/sea", "attribution/spectrum-0/fruit"),
            *("instruction_use_control/spectrum-0", "instruction_use_deletion_control/spectrum-0"),
            "knock_out_control/spectrum-0",
            *("first_divergence_control/spectrum-0", "control_logit_lens/spectrum-0", "logit_parts/spectrum-0"),
            *("patch_control/spectrum-0", "patch_set_control/spectrum-0", "layer_similarity_control/spectrum-0"),
            "directions_control/spectrum-0",
            "activation_difference_control/spectrum-0",
        },
    ),
}


@pytest.mark.parametrize("name", FAILS)
def test_a_unit_that_failed_is_tried_again_with_what_reads_it(models, tmp_path, whole, monkeypatch, name):
    again, without = FAILS[name]
    config, watch, recorder = small(models, tmp_path / "out"), Watch(monkeypatch), Recorder()
    failing(watch, name)
    store = run(config, recorder)
    assert set(watch.take()) == digests(whole).keys() - without
    step, _, unit = name.partition("/")
    assert store.step(step).failures == {unit: f"{name} cannot be had"}
    assert any(f"{name} cannot be had" in line for line in recorder.said)
    assert not store.has(name)
    lacking = {full for full in without if not store.has(full)}
    assert lacking == without
    states = [store.step(full.split("/")[0]).units[full.partition("/")[2]] for full in without]
    assert all(state.outcome == "impossible" and state.reason for state in states)

    run(config)  # it fails for good: nothing else is done
    assert watch.take() == [name]
    assert seen(ResultStore(store.root)) == seen(store)

    failing(watch)
    store = run(config)
    worked = watch.take()
    assert set(worked) == {name} | again | without
    assert_same(store, whole)


@pytest.mark.parametrize("lack", LACKS, ids=lambda lack: type(lack).__name__)
def test_an_error_of_no_input_ends_the_run(models, tmp_path, whole, monkeypatch, lack):
    config, watch = small(models, tmp_path / "out"), Watch(monkeypatch)

    def out_of_memory(name: str) -> None:
        if name == "outputs/fruit":
            raise lack

    watch.before = out_of_memory
    with pytest.raises(type(lack), match=str(lack)):
        run(config)
    first = watch.take()
    watch.before = lambda name: None
    assert_same(run(config), whole)
    assert set(first) & set(watch.take()) == {"outputs/fruit"}


def test_a_prompt_that_breaks_a_block_fails_alone(models, tmp_path, monkeypatch):
    none = dict.fromkeys(COUNTED, 0)
    alone = {"keep": "one", "controls": {"kinds": ["spectrum"], **none}, "analyses": ["outputs"]}
    from lensdiff.analyses.outputs import steps as outputs

    shift = outputs.output_shift

    def broken(pair, prompts, texts, **options):
        if "fruit" in [prompt.id for prompt in (prompts if isinstance(prompts, list) else [prompts])]:
            raise RuntimeError("a shape that does not fit")
        return shift(pair, prompts, texts, **options)

    monkeypatch.setattr(outputs, "output_shift", broken)
    store = run(small(models, tmp_path / "out", **alone))
    assert store.step("outputs").failures == {"fruit": "a shape that does not fit"}
    assert store.step("outputs").done == ["sea"]


# what a unit may ask for
@pytest.mark.parametrize(
    ("step", "asks", "message"),
    [
        ("weights", lambda inputs, options: inputs.seed, "step weights asks for seed, which it does not need"),
        ("weights", lambda inputs, options: inputs.vocabulary, "step weights asks for vocabulary"),
        ("weights", lambda inputs, options: inputs.prompts, "step weights asks for prompts"),
        ("heads", lambda inputs, options: inputs.pair, "step heads asks for pair"),
        ("heads", lambda inputs, options: options.table_top, "step heads reads the option table_top"),
        ("heads", lambda inputs, options: options.layers_per_group, "step heads reads the option layers_per_group"),
        ("verb_shift", lambda inputs, options: inputs.model, "step verb_shift asks for model"),
        ("outputs", lambda inputs, options: inputs.prompt_of("fruit"), "step outputs asks for prompts"),
        ("outputs", lambda inputs, options: inputs.given("fruit"), "step outputs asks for prompts"),
    ],
)
def test_a_unit_that_asks_for_what_its_step_did_not_name_is_a_fault(
    models, tmp_path, whole, monkeypatch, step, asks, message
):
    from dataclasses import replace

    from lensdiff.pipeline import graph

    steps_of = graph.steps_of

    def asking(analyses):
        for each in steps_of(analyses):
            yield each if each.name != step else replace(each, work=lambda inputs, unit, options: asks(inputs, options))

    out = copied(whole, tmp_path / "out")
    monkeypatch.setattr(graph, "steps_of", lambda analyses: list(asking(analyses)))
    config = small(models, out)
    with ResultStore(out).writing() as store:
        for unit in store.step(step).wanted:
            store.record(step, unit, None)
    with pytest.raises(AssertionError, match=message):
        run(config)
