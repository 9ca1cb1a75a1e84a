"""What a run says before it works, the threads it takes, and what `lensdiff.run` returns."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import lensdiff
from lensdiff.analyses import ANALYSES
from lensdiff.analyses.attribute.gradients import rows_of
from lensdiff.analyses.heads.steps import TEST_SECONDS
from lensdiff.models import view_of
from lensdiff.models.controlling.options import Recipe
from lensdiff.models.costs import ControlCost
from lensdiff.pipeline import estimate
from lensdiff.pipeline import memory as memory_module
from lensdiff.pipeline.config import RunConfig
from lensdiff.pipeline.estimate import (
    READ_SECONDS,
    UNIT_SECONDS,
    announce,
    estimate_of,
    probe_of,
)
from lensdiff.pipeline.execute import execute, implied, read_config
from lensdiff.pipeline.graph import Graph
from lensdiff.pipeline.identity import Identities
from lensdiff.pipeline.material import Material
from lensdiff.pipeline.memory import Memory, choose_keep, memory_of, n_layers, n_parameters
from lensdiff.pipeline.plans import plan_of, supplies_of
from lensdiff.pipeline.report import Report
from lensdiff.pipeline.runner import CONTROLS, Runner
from lensdiff.pipeline.threads import SMALL, threads_for
from lensdiff.pipeline.words import amount, duration
from lensdiff.results import InputError, ResultStore
from lensdiff.steps import bench
from lensdiff.steps.probe import Passing, Probe
from lensdiff.steps.step import SMALL as SMALL_RESULT
from lensdiff.steps.unit import Unit
from tests.lacks import LACKS
from tests.pipeline.conftest import Recorder, config_for

COUNTED = [analysis.name for analysis in ANALYSES if analysis.controls is not None]
LAYERS, D_MODEL = 2, 32  # of the tiny pair
TYPES = (torch.float32, torch.float64)
TAKES_TIME = {"model", "base", "pair", "both", "vocabulary", "vectors"}  # whatever needs one of these


def runner_of(
    models: Path, tmp_path: Path, listener: Recorder | None = None, *, both: bool = True, **changes: Any
) -> tuple[RunConfig, Runner]:
    """A run before its first unit."""
    config = read_config(config_for(models, tmp_path / "out", **changes))
    plan = plan_of(Material(config), both, LAYERS, config.chosen)
    graph = Graph([*config.chosen, *implied()], plan, Identities(config), ResultStore(tmp_path / "out"))
    return config, Runner(graph, supplies_of(Material(config), both), listener or Recorder())


def known(probe: Probe, **values: object) -> Probe:
    """A probe that has measured these already."""
    for name, value in values.items():
        if name == "n_response":
            probe.n_response = int(str(value))
        else:
            vars(probe)[name] = value
    return probe


def cost(runner: Runner, probe: Probe, step: str, unit: Unit | None = None) -> float:
    """The cost of a step's first unit, or of another."""
    found = runner.graph.steps[step]
    unit = unit or runner.graph.units[step][0]
    return found.cost(probe, unit, runner.plan.options_of(found.options))


def test_parameters_are_counted_without_loading(models, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(models / "base")
    assert n_parameters(str(models / "base")) == model.num_parameters()
    assert n_parameters(str(tmp_path)) is None
    quantised = tmp_path / "model.gguf"
    quantised.write_bytes(bytes(1000))
    assert n_parameters(str(quantised)) == 2000


READ = {"parameters": n_parameters, "layers": lambda source: n_layers(source, None)}


@pytest.mark.parametrize("read", READ.values(), ids=READ)
@pytest.mark.parametrize("wrong", [{"num_hidden_layers": 10**9}, {"vocab_size": 2**40}, {"architectures": "Llama"}])
def test_a_config_that_cannot_be_meant_is_refused_before_anything_is_built_of_it(
    models, tmp_path, monkeypatch, read, wrong
):
    shutil.copytree(models / "base", tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | wrong))
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_config", lambda *_, **__: pytest.fail("built"))
    with pytest.raises(InputError, match=rf"^config\.json in {tmp_path}/model has {next(iter(wrong))}="):
        read(str(tmp_path / "model"))


@pytest.mark.parametrize("read", READ.values(), ids=READ)
def test_what_a_library_stumbles_over_is_left_to_the_load_and_a_lack_of_memory_is_not(models, monkeypatch, read):
    def stumble(error: Exception) -> None:
        def broken(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", broken)

    for error in (TypeError("t"), AttributeError("a"), ZeroDivisionError("z"), RuntimeError("r"), OSError("o")):
        stumble(error)
        assert read(str(models / "base")) is None
    for error in (*LACKS, AssertionError("of no file")):
        stumble(error)
        with pytest.raises(type(error)):
            read(str(models / "base"))


def test_a_hub_that_cannot_be_asked_knows_no_layers(monkeypatch):
    class Unreachable(Exception):
        """As of a library that the hub's client may use."""

    def broken(*_: object, **__: object) -> None:
        raise Unreachable

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", broken)
    assert n_layers("some/model", None) is None


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float64", 8)])
def test_memory_is_that_of_the_models_held(models, tmp_path, monkeypatch, dtype, size):
    monkeypatch.setattr(memory_module, "n_parameters", lambda source: 1000)
    found = memory_of(read_config(config_for(models, tmp_path, dtype=dtype)))
    # the models held, three tenths of one, and of small models twice one for what a unit needs
    assert (found.parameters, found.both, found.one) == (1000, int(5.3 * 1000 * size), int(3.3 * 1000 * size))
    # a control is held beside the two models where a chosen analysis asks for one
    for name in COUNTED:
        for n, others, held in ((1, 0, 5.3), (0, 1, 4.3)):
            controls = dict.fromkeys(COUNTED, others) | {name: n, "kinds": ["spectrum"]}
            given = config_for(models, tmp_path, dtype=dtype, analyses=[name], controls=controls)
            assert memory_of(read_config(given)).both == int(held * 1000 * size)
    monkeypatch.setattr(memory_module, "n_parameters", lambda source: None)
    assert memory_of(read_config(config_for(models, tmp_path))).parameters is None


@pytest.mark.parametrize(
    ("kinds", "told", "making"),
    [
        (["norm", "spectrum"], {}, 0),
        (["gradient-noise"], {}, 1.1),
        (["spectrum", "gradient-noise"], {}, 1.1),
        (["gradient-noise", "distilled"], {}, 5),
        (["distilled"], {"rank": 2}, 2),
    ],
)
def test_memory_has_room_for_the_making_of_controls(models, tmp_path, monkeypatch, kinds, told, making):
    monkeypatch.setattr(memory_module, "n_parameters", lambda source: 1000)
    for n, expected in ((1, 3 + making), (0, 2)):
        controls = {**dict.fromkeys(COUNTED, n), "kinds": kinds, **told}
        found = memory_of(read_config(config_for(models, tmp_path, controls=controls)))
        assert found.both == int((expected + 0.3) * 4000) + 8000


def test_a_unit_of_a_large_model_needs_a_gibibyte(models, tmp_path, monkeypatch):
    monkeypatch.setattr(memory_module, "n_parameters", lambda source: 2**30)
    found = memory_of(read_config(config_for(models, tmp_path)))
    assert (found.both, found.one) == (int(3.3 * 2**32) + 2**30, int(1.3 * 2**32) + 2**30)


def test_how_many_models_are_held(models, tmp_path):
    def chosen(keep: str, memory: Memory) -> tuple[str, list[str]]:
        recorder = Recorder()
        none = dict.fromkeys(COUNTED, 0)
        config = read_config(config_for(models, tmp_path, keep=keep, controls=none))
        return choose_keep(config, memory, recorder), recorder.said

    fits = Memory(1000, 100, 60, 200)
    tight = replace(fits, free=90)
    assert chosen("auto", fits) == ("both", ["memory: about 1 MiB of 1 MiB free"])
    assert chosen("auto", tight)[0] == "one"
    assert chosen("both", tight)[0] == "both"
    assert chosen("one", fits) == ("one", ["memory: about 1 MiB of 1 MiB free"])
    unknown = replace(fits, parameters=None)
    assert [chosen(keep, unknown) for keep in ("auto", "both", "one")] == [("both", []), ("both", []), ("one", [])]


# what units cost
def test_every_step_costs_something_and_what_takes_time_more_than_nothing(models, tmp_path):
    config, runner = runner_of(models, tmp_path, templates=["raw", "chat"])
    _, choosing = runner_of(models, tmp_path, attribute={"target": "choice"})  # which has a step of its own
    probe = probe_of(config, runner)
    names = {step.name for analysis in ANALYSES for step in analysis.steps}
    assert names <= set(runner.graph.steps)
    for name in sorted(names):
        asking = choosing if name == "attribution_choices" else runner
        step, units = asking.graph.steps[name], asking.graph.units[name]
        assert units, f"{name} has no unit even where everything is asked for"
        for unit in units:
            found = cost(asking, probe, name, unit)
            assert math.isfinite(found)
            assert found >= 0
            assert found > 0 or not step.needs & TAKES_TIME, f"{name} takes time and costs nothing"


def test_texts_are_estimated_by_their_tokens(models, tmp_path):
    config, runner = runner_of(models, tmp_path, attribute={"deletion_draws": 2})
    probe = known(
        probe_of(config, runner), passing=Passing(1.0, 2.0), step=3.0, n_prompt=10.0, n_response=5,
        _known={"attribution": (7.0, 0.1), "step of 3": 0.5},
    )  # fmt: skip
    rows = min(rows_of(probe.view, 10, 5).values())
    assert cost(runner, probe, "responses") == 5 * 0.5 + 1 + 10 * 2  # the three prompts are decoded together
    assert cost(runner, probe, "control_responses", Unit("spectrum-0", "sea")) == 5 * 0.5 + 1 + 10 * 2
    # the scores, and one pass that reads the text without its highest tokens and without random ones
    assert cost(runner, probe, "attribution") == pytest.approx(7 + 0.1 * rows + 1 + (1 + 2) * 15 * 2)
    # of both models and 3 prompts the scores, and 5 points of 3 orders both ways and of 19, of half a prompt each
    scores = 7 + 0.1 * rows
    assert cost(runner, probe, "deletion_curves") == pytest.approx(6 * (scores + 1 + (6 + 19) * 5 * (5 + 5) * 2))
    control = Unit("spectrum-0", "sea")
    assert cost(runner, probe, "attribution", control) == pytest.approx(7 + 0.1 * rows)
    assert cost(runner, probe, "outputs") == 2 * (1 + 15 * 2)
    assert cost(runner, probe, "attention") == 1 + 15 * 2
    assert cost(runner, probe, "control_attention") > 3 * (1 + 15 * 2)
    assert cost(runner, probe, "control_validity") == 1 + 1024 * 2


def test_a_first_divergence_is_estimated_by_drafts_and_exchanged_streams(models, tmp_path):
    config, runner = runner_of(models, tmp_path, first_divergence={"max_tokens": 2})
    probe = known(probe_of(config, runner), passing=Passing(1.0, 2.0), step=3.0, n_prompt=10.0)
    # of each of 3 prompts 2 tokens are drafted; 5 whole passes, and from layers 0, 1, 2 of 2 on in either direction
    passes = 3 * (5 + 2 * (1 + 0.5))
    assert cost(runner, probe, "first_divergence_pair") == 3 * 2 * 3 + passes * (1 + 12 * 2)
    # at layer round(0.6 * 2) alone, beside the two models' streams
    control = Unit("spectrum-0")
    assert cost(runner, probe, "first_divergence_control", control) == 3 * (2 + 2 * 0.5) * (1 + 12 * 2)
    assert cost(runner, probe, "first_divergence") == 0
    config, runner = runner_of(models, tmp_path, first_divergence={"max_tokens": 2, "layers": [2]})
    assert cost(runner, probe, "first_divergence_pair") == 3 * 2 * 3 + 3 * 5 * (1 + 12 * 2)


def test_a_method_that_is_asked_for_is_what_is_estimated(models, tmp_path):
    for method in ("forward", "reverse"):
        config, runner = runner_of(models, tmp_path, attribute={"deletion_draws": 0, "method": method})
        probe = known(probe_of(config, runner), n_prompt=10.0, n_response=5, _known={"attribution": (7.0, 0.1)})
        assert cost(runner, probe, "attribution") == pytest.approx(7 + 0.1 * rows_of(probe.view, 10, 5)[method])


def test_instruction_use_is_estimated_by_its_readings(models, tmp_path):
    # 3 prompts, 2 own texts of 2 tokens; after the prompt, and after each of 2 donors, or after the rest of it
    given = {"instruction_use": {"max_tokens": 2}}
    config, runner = runner_of(models, tmp_path, **given)
    probe = known(probe_of(config, runner), passing=Passing(1.0, 2.0), n_prompt=10.0, n_response=4)
    swap, deletion = 3 * 2 * (1 + 2) * (10 + 2), 3 * 2 * (1 + 1) * (10 + 2)
    control = Unit("spectrum-0")
    assert cost(runner, probe, "instruction_use_control", control) == 1 + 2 * swap
    assert cost(runner, probe, "instruction_use_deletion_control", control) == 1 + 2 * deletion
    assert cost(runner, probe, "instruction_use_pair") == 2 * (1 + 2 * swap)
    assert cost(runner, probe, "instruction_use") == 0
    config, runner = runner_of(models, tmp_path, instruction_use={"draws": 1, "max_tokens": 2})
    assert cost(runner, probe, "instruction_use_control", control) == 1 + 2 * deletion  # one donor each
    # references of 6 tokens beside, or alone; without any they are nothing
    vars(probe)["n_reference"] = 6.0
    assert cost(runner, probe, "instruction_use_control", control) == 1 + 2 * (deletion + 3 * (1 + 1) * 16)
    config, runner = runner_of(models, tmp_path, instruction_use={"draws": 1, "texts": ["reference"]})
    assert cost(runner, probe, "instruction_use_control", control) == 1 + 2 * 3 * 2 * 16


def test_the_knock_out_is_estimated_by_its_readings(models, tmp_path):
    # 3 prompts, 2 own texts of 2 tokens, 2 layers: as they are and with either cut; of the pair with 3 draws beside,
    # and as they are and in two windows, of which the second begins at half the layers, with a draw beside each
    given = {"knock_out": {"max_tokens": 2, "draws": 3}}
    config, runner = runner_of(models, tmp_path, **given)
    probe = known(probe_of(config, runner), passing=Passing(1.0, 2.0), n_prompt=10.0, n_response=4)
    tokens = 3 * 2 * (10 + 2)
    assert cost(runner, probe, "knock_out_control", Unit("spectrum-0")) == 1 + 2 * tokens * 3
    readings = 2 + 2 * (1 + 3 + 2 * (1 + 0.5))
    assert cost(runner, probe, "knock_out_pair") == 2 * (1 + 2 * tokens * readings)
    assert cost(runner, probe, "knock_out") == 0


def test_doses_are_estimated_by_their_readings(models, tmp_path):
    given = {"dose": {"amounts": [-1.0, 0.5], "parts": ["layer 1"], "part_amounts": [0.5], "max_tokens": 2}}
    config, runner = runner_of(models, tmp_path, **given)
    probe = known(probe_of(config, runner), passing=Passing(1.0, 2.0), n_prompt=10.0, n_response=4)
    # 3 prompts and 2 tokens; -1, 0.5 and 1 of all, 0.5 and 1 of W_out and of the layer, and both ends twice; of 2 texts
    # with the instruction and without
    tokens, passes = 3 * (10 + 2), 2 * (3 + 2 * 2 + 2 * 2)
    assert cost(runner, probe, "dose_pair") == passes * (1 + 2 * 2 * tokens)
    held = 0.04 + 1.5e-8 * probe.parameters  # by a model that takes the control's W_out
    assert cost(runner, probe, "dose_control", Unit("spectrum-0")) == pytest.approx(held + 1 + 2 * tokens)
    assert cost(runner, probe, "dose") == 0


def test_the_templates_are_estimated_by_their_four_readings(models, tmp_path):
    # 3 prompts in 4 ways, read once for the attention and twice for the shift; 64 tokens that the tuned model writes
    given = {"template_effects": {"measures": ["attention", "output_shift"]}, "templates": ["raw", "chat"]}
    config, runner = runner_of(models, tmp_path, **given)
    probe = known(probe_of(config, runner), passing=Passing(1.0, 2.0), step=3.0, n_prompt=10.0)
    assert cost(runner, probe, "template_effects") == 3 * 3 * 64 + 3 * 1 + 2 * 3 * 4 * 3 * (10 + 64)
    read = known(replace(probe), passing=Passing(1.0, 2.0), step=3.0, n_prompt=10.0, n_reference=6.0)
    assert cost(runner, read, "template_effects") == 3 * 1 + 2 * 3 * 4 * 3 * (10 + 6)
    _, runner = runner_of(models, tmp_path, template_effects={"measures": ["density"]}, templates=["raw", "chat"])
    rows = min(rows_of(probe.view, 10, 6).values())
    assert cost(runner, read, "template_effects") == pytest.approx(3 * 1 + 2 * 3 * 4 * 1.2 * rows)


def test_passes_that_end_below_the_top_take_their_share(models, tmp_path):
    for layers, share in ((None, 1.0), ([0], 0.5), ([0, 1], 1.0)):
        given = {} if layers is None else {"attention": {"layers": layers}}
        config, runner = runner_of(models, tmp_path, **given)
        probe = known(probe_of(config, runner), passing=Passing(1.0, 2.0), n_prompt=10.0, n_response=5)
        assert cost(runner, probe, "attention") == share * (1 + 15 * 2)
    assert probe.until([5]) == 1.0  # the end of the last layer is where the next would begin


def test_what_the_difference_does_begins_at_the_chosen_layer(models, tmp_path):
    def of(**options: Any) -> float:
        config, runner = runner_of(models, tmp_path, activation_difference={"effect_texts": 3, "draws": 2} | options)
        probe = known(probe_of(config, runner), passing=Passing(0.0, 1e6))  # beside which nothing else counts
        return cost(runner, probe, "activation_difference_effects") - 4 * 48 * 1e6

    assert of(layer=0) == pytest.approx(2 * of(), rel=1e-3)
    assert of(layers=[0]) == pytest.approx(of(layer=0), rel=1e-3)


def test_the_residual_stream_is_estimated_by_its_passes_and_products(models, tmp_path):
    # a pass over 10 + 2 tokens; 2 tokens' streams of 2 layers and of the end through a block and the unembedding
    config, runner = runner_of(models, tmp_path, residual_stream={"max_tokens": 2})
    probe = known(
        probe_of(config, runner), passing=Passing(1.0, 2.0), n_prompt=10.0, n_response=4, rate=1e3, parameters=1000
    )
    products, entries = 6 * 2 * (1000 / LAYERS + D_MODEL * 400) / 1e3, 6 * 400
    assert cost(runner, probe, "logit_lens") == pytest.approx(1 + 12 * 2 + products + 1e-8 * entries)
    control = Unit("spectrum-0")
    lens = cost(runner, probe, "logit_lens")
    assert cost(runner, probe, "control_logit_lens", control) == pytest.approx(3 * lens)
    parts = 3 * (1 + 12 * 2 + 2 * LAYERS * 2 * 2 * D_MODEL * D_MODEL / 1e3)
    assert cost(runner, probe, "logit_parts", control) == pytest.approx(parts)
    assert cost(runner, probe, "logit_lens_shift") == pytest.approx(1e-3 * 3)
    assert cost(runner, probe, "direct_logit_attribution") == pytest.approx(1e-3 * LAYERS * (1 + 4))
    _, runner = runner_of(models, tmp_path, residual_stream={"max_tokens": 2, "layers": [1]})
    assert cost(runner, probe, "logit_lens") < lens


def test_layer_similarity_is_estimated_by_its_passes_and_sums(models, tmp_path):
    # both models read 3 prompts of 10 + 2 tokens; sums of 3 streams, of all groups
    config, runner = runner_of(models, tmp_path, layer_similarity={"max_tokens": 2})
    probe = known(probe_of(config, runner), passing=Passing(1.0, 2.0), n_prompt=10.0, n_response=4, rate=1e3)
    entries = 3 * D_MODEL**2
    sums = 3 * (2 * 3 * 12 * 2 * entries / 1e3 + 4 * entries * 3e-9)
    assert cost(runner, probe, "layer_similarity_pair") == pytest.approx(2 * 3 * (1 + 12 * 2) + sums)
    assert cost(runner, probe, "layer_similarity_control", Unit("spectrum-0")) == pytest.approx(150 + sums)
    assert cost(runner, probe, "layer_similarity") == 0
    _, runner = runner_of(models, tmp_path, layer_similarity={"max_tokens": 2, "layers": [1]})
    assert cost(runner, probe, "layer_similarity_pair") == pytest.approx(150 + sums / 3)


def test_directions_are_estimated_by_their_passes(models, tmp_path):
    config, runner = runner_of(models, tmp_path, directions={"max_tokens": 2, "draws": 3})
    probe = known(probe_of(config, runner), passing=Passing(1.0, 2.0), n_prompt=10.0, n_response=4)
    # both models read 3 prompts with and without; 2 directions and 6 random vectors are added, and projected out 2 and
    # 3, on texts of 12 tokens with an unchanged row each, from half of the layers on: 4 passes a prompt and model
    reading, rows = 2 * 2 * 3 * (1 + 10 * 2), (1 + 2 + 6) + (1 + 2 + 3)
    assert cost(runner, probe, "directions_control", Unit("spectrum-0")) == reading
    assert cost(runner, probe, "directions_pair") == reading + 2 * 3 * 0.5 * (4 + rows * 12 * 2)
    assert cost(runner, probe, "directions") == 0


def test_the_activation_difference_is_estimated_by_its_texts(models, tmp_path):
    # 9 texts of 3 tokens and a BOS through two models; 3 streams of 3 positions and their opposites through a block and
    # the unembedding, by two heads and once more for the mean
    given = {"activation_difference": {"max_texts": 9, "positions": 3}}
    config, runner = runner_of(models, tmp_path, **given)
    probe = known(probe_of(config, runner), passing=Passing(1.0, 2.0), rate=1e3, parameters=1000)
    assert probe.n_texts == 512
    read = 9 * 1e-4 + 2 * (1 + 2 * 9 * 4 + 2e-9 * 9 * 3 * 3 * D_MODEL)
    lens = 2 * 3 * 3 * 2 * (1000 / LAYERS + D_MODEL * 400) / 1e3
    assert cost(runner, probe, "activation_difference_pair") == pytest.approx(read + 3 * lens)
    assert cost(runner, probe, "activation_difference_control", Unit("spectrum-0")) == pytest.approx(read + lens)
    assert cost(runner, probe, "activation_difference") == 0


def test_what_the_difference_does_is_estimated_by_the_directions_that_are_written(models, tmp_path):
    given = {"activation_difference": {"effect_texts": 3, "draws": 2}}
    config, runner = runner_of(models, tmp_path, **given)
    probe = known(probe_of(config, runner), passing=Passing(1.0, 2.0), controls={"activation_difference": 3})
    # difference, mean, 2 random vectors and 3 controls; 3 texts of 16 tokens, in both models twice as they are, then
    # with 7 directions 5 times added and, in either model, with these and 2 random differences replaced; 9 scales of
    # them and of the difference in the base in 3 prompts of 20 tokens; all of that from half of the layers on
    written = 7 * 5 * 48 + 2 * 9 * 48 + 8 * 9 * 3 * 20
    logits = 2e-8 * written * probe.sizes.d_vocab
    found = cost(runner, probe, "activation_difference_effects")
    assert found == pytest.approx(4 * (1 + 48 * 2) + 0.5 * (1 + written * 2) + logits)


def test_a_faster_machine_takes_less(models, tmp_path):
    config, runner = runner_of(models, tmp_path)
    slow, fast = (
        known(
            probe_of(config, runner),
            rate=rate,
            _known={f"decompose {D_MODEL} {d}": 1e-9 / rate for d in TYPES},
            n_words=0,
        )
        for rate in (1e3, 2e3)
    )
    for step in ("weights", "value_rotation_pair", "concepts", "control_concepts"):
        assert cost(runner, slow, step) == pytest.approx(2 * cost(runner, fast, step))
        assert cost(runner, slow, step) > 0


def test_singular_values_of_wide_weights_grow_by_less_than_a_decomposition(models, tmp_path):
    config, runner = runner_of(models, tmp_path)
    measured: dict[str, object] = {f"decompose 256 {torch.float64}": 1.0}
    sizes = probe_of(config, runner).sizes
    narrow, wide = (
        known(probe_of(config, runner), sizes=replace(sizes, d_model=n), parameters=n * n, _known=measured)
        for n in (256, 1024)
    )
    assert cost(runner, narrow, "weights") == pytest.approx(0.33)
    assert cost(runner, wide, "weights") == pytest.approx(0.33 * 4**2.5)


def test_controls_of_the_concepts_are_estimated(models, tmp_path):
    config, runner = runner_of(models, tmp_path)
    probe = probe_of(config, runner)
    assert runner.plan.controls["mlp"]
    few, many = (replace(probe, controls={"mlp": n}) for n in (1, 3))
    assert cost(runner, many, "rotation") == pytest.approx(2 * cost(runner, few, "rotation"))  # 1 + 3 against 1 + 1
    assert cost(runner, many, "pair_overlap") == cost(runner, few, "pair_overlap") > 0
    more = replace(probe, controls={"heads": 6})
    shift, fixed = (cost(runner, one, "verb_shift") - TEST_SECONDS for one in (more, few))
    assert shift == pytest.approx(4 * fixed)  # 2 + 6 models against 2
    drawn, whole = (
        cost(runner, known(replace(probe, whole=names), rate=1e3), "value_rotation_control", Unit("norm-0"))
        for names in (set(), {"norm-0"})
    )
    n = 3 * LAYERS * 32 * D_MODEL**2 * probe.sizes.d_mlp / 1e3
    assert drawn - whole == pytest.approx(n), "a control that is a whole model is not drawn again"


def test_what_stays_on_the_disk_is_estimated_by_the_numbers_of_the_large_results(models, tmp_path):
    given = {"attention": {"keep_patterns": 1}, "controls": dict.fromkeys(COUNTED, 0)}
    analyses = ["attention", "heads", "mlp", "attribute"]
    config, runner = runner_of(models, tmp_path, analyses=analyses, **given)
    said = estimate_of(runner.left(), runner, probe_of(config, runner))
    store = execute(config, estimate=False)
    held = {path.relative_to(store.root / "arrays").parts[0].removesuffix(".safetensors"): 0 for path in files(store)}
    for path in files(store):
        held[path.relative_to(store.root / "arrays").parts[0].removesuffix(".safetensors")] += path.stat().st_size
    sizes = {step.name: step.bytes for step in said.steps}
    for name in ("attention", "concepts", "attribution"):
        assert held[name] / 2 < sizes[name] < 2 * held[name], name
    assert sum(held.values()) / 3 < said.bytes < 3 * sum(held.values()), "how many word pairs there are is not known"


def files(store: ResultStore) -> list[Path]:
    return list((store.root / "arrays").rglob("*.safetensors"))


# what is told
def test_seconds_are_those_of_the_units_and_controls_stand_together(models, tmp_path, monkeypatch):
    prices = {"spectrum": ControlCost(10.0, 1.0), "norm": ControlCost(10.0, 2.0)}
    monkeypatch.setattr(bench, "control_cost", lambda pair, kind: prices[kind])
    config, runner = runner_of(models, tmp_path, analyses=["outputs", "attention"])
    probe = known(probe_of(config, runner), passing=Passing(1.0, 2.0), step=3.0, n_prompt=10.0)
    left = runner.left()
    whole = estimate_of(left, runner, probe)
    found = whole.parts()
    of = {name: sum(n == name and not u.control for n, u in left) for name in found}
    assert of == {
        "responses": 6,
        "outputs": 3,
        "attention": 6,
        "attention_shift": 1,
        "claims": 1,
        "pair": 1,
        CONTROLS: 0,
    }
    outputs = 3 * (cost(runner, probe, "outputs") + UNIT_SECONDS + 2 * READ_SECONDS)  # both models' responses
    assert found["outputs"] == pytest.approx(outputs)
    # two kinds of three: made, checked on text, and read on every prompt; they read what both models said and attended
    each = cost(runner, probe, "control_validity") + cost(runner, probe, "control_attention")
    kept = 2 * UNIT_SECONDS + 12 * READ_SECONDS
    assert found[CONTROLS] == pytest.approx(2 * 10 + 3 * 1 + 3 * 2 + 6 * (each + kept))
    assert whole.seconds == pytest.approx(sum(found.values()))
    assert (whole.controls, whole.making) == (6, 2 * 10 + 3 * 1 + 3 * 2)
    beside = replace(whole, processes=4).parts()
    assert beside == found | {CONTROLS: pytest.approx(found[CONTROLS] / 4)}
    assert replace(whole, processes=9).parts()[CONTROLS] == pytest.approx(found[CONTROLS] / 6)
    frame = whole.to_df().set_index("step")
    assert list(frame.index) == [step.name for step in whole.steps]
    assert frame.loc["control_attention", ["units", "of_controls"]].tolist() == [6, 6]
    assert frame.loc["responses", ["units", "of_controls"]].tolist() == [6, 0]
    assert frame["seconds"].sum() + whole.making == pytest.approx(whole.seconds)
    assert frame.loc["control_attention", "bytes"] == 0, "nothing of it stays"
    assert frame.loc["responses", "bytes"] == 6 * SMALL_RESULT
    assert whole.bytes == frame["bytes"].sum()


def test_a_run_tells_its_time_and_nothing_where_nothing_is_left(models, tmp_path):
    given = {"analyses": ["weights"]}
    recorder = Recorder()
    config, runner = runner_of(models, tmp_path, recorder, **given)
    announce(config, runner, recorder)
    assert recorder.said == ["time: about 1 s"]
    execute(config, estimate=False)
    config, runner = runner_of(models, tmp_path, recorder, **given)
    recorder.said.clear()
    announce(config, runner, recorder)
    assert recorder.said == []


@pytest.mark.parametrize(
    ("kinds", "told", "said"),
    [
        (["spectrum", "norm"], {}, True),
        (["distilled"], {}, False),
        (["shuffled"], {"steps": 3, "batch": 2}, True),
        (["shuffled"], {"length": 16, "rank": 1, "rate": 0.1}, True),
    ],
)
def test_what_distilled_controls_would_take_is_said_where_they_are_not_made(
    models, tmp_path, monkeypatch, kinds, told, said
):
    monkeypatch.setattr(bench, "control_cost", lambda pair, kind, **options: ControlCost(1.0, 1.0))
    probe = estimate.probe_of
    monkeypatch.setattr(estimate, "probe_of", lambda *given: known(probe(*given), rate=1e7))
    controls = {"kinds": kinds, **dict.fromkeys(COUNTED, 50), "heads": 2, **told}
    if "shuffled" in kinds:
        (tmp_path / "data.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": "c", "response": "d"}\n')
        controls["data"] = str(tmp_path / "data.jsonl")
    recorder = Recorder()
    config, runner = runner_of(models, tmp_path, recorder, analyses=["heads"], controls=controls)
    announce(config, runner, recorder)
    recipe = Recipe(**told)
    model = view_of(runner.supplies.pair.base).model
    parameters = sum(parameter.numel() for parameter in model.parameters() if bool(parameter.any()))
    took = duration(2 * 12 * parameters * recipe.steps * recipe.batch * recipe.length / 1e7)
    expected = (
        f"controls: {', '.join(kinds)}; 2 of the kind distilled, the base trained on its own samples, would take "
        f"about {took} more"
    )
    assert recorder.said[1:] == [expected] * said


def test_what_a_cluster_decodes_is_estimated_one_by_one(models, tmp_path):
    config, runner = runner_of(models, tmp_path, engine="ray")
    known_times = {"passing": Passing(1.0, 2.0), "step": 3.0, "n_prompt": 10.0, "n_response": 5}
    assert cost(runner, known(probe_of(config, runner), **known_times), "responses") == 5 * 3 + 1 + 10 * 2


def test_controls_cost_what_they_do_as_the_config_makes_them(models, tmp_path, monkeypatch):
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(bench, "control_cost", lambda pair, kind, **how: asked.append(how) or ControlCost(1.0, 1.0))
    controls = {"kinds": ["gradient-noise"], "divide": "rms", **dict.fromkeys(COUNTED, 1)}
    config, runner = runner_of(models, tmp_path, controls=controls, analyses=["attribute"])
    announce(config, runner, Recorder())
    assert asked == [{"divide": "rms"}]


def test_what_controls_cost_is_measured_once_and_only_where_they_are_made(models, tmp_path, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(bench, "control_cost", lambda pair, kind: asked.append(kind) or ControlCost(1.0, 1.0))
    for both, count, expected in ((True, 2, ["spectrum"]), (False, 0, [])):
        controls = {"kinds": ["spectrum"], **dict.fromkeys(COUNTED, count)}
        recorder = Recorder()
        keep = "both" if both else "one"
        given = {"keep": keep, "controls": controls, "analyses": ["heads"]}
        config, runner = runner_of(models, tmp_path, recorder, both=both, **given)
        announce(config, runner, recorder)
        assert recorder.said[0].startswith("time: about ")
        assert asked == expected
        asked.clear()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "1 s"), (0.2, "1 s"), (89, "89 s"), (91, "2 min"), (3600, "60 min"), (7200, "2.0 h")]
)
def test_times_are_said_as_people_do(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(5, "1 MiB"), (2**20 * 512, "512 MiB"), (2**30 * 1.5, "1.5 GiB")])
def test_sizes_are_said_as_people_do(size, text):
    assert amount(size) == text


def fail(_: object) -> None:
    raise ZeroDivisionError


def test_small_models_take_one_thread_and_give_it_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads_for(SMALL):
            assert torch.get_num_threads() == 2
        with threads_for(None):
            assert torch.get_num_threads() == 2
        inside: list[int] = []
        with pytest.raises(ZeroDivisionError), threads_for(SMALL - 1):
            fail(inside.append(torch.get_num_threads()))
        assert inside == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_run_returns_the_report_that_it_wrote(models, tmp_path):
    recorder = Recorder()
    config = config_for(models, tmp_path / "out", analyses=["weights"])
    report = lensdiff.run(config, listener=recorder)
    assert isinstance(report, Report)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "How far the weights moved" in page
    assert "end weights" in recorder.events
    file = tmp_path / "run.toml"
    lines = [f'{key} = "{models / key}"' for key in ("base", "tuned")]
    file.write_text("\n".join([*lines, 'out = "second"', 'analyses = ["weights"]', 'device = "cpu"']))
    assert lensdiff.run(file).store.root == Path(tmp_path / "second")
