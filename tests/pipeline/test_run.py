"""A run of everything: its results are those of the analyses themselves, and it is told."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from lensdiff.analyses import ANALYSES
from lensdiff.analyses.activation_difference.effects import DifferenceEffects
from lensdiff.analyses.activation_difference.measure import activation_difference
from lensdiff.analyses.activation_difference.result import ActivationDifference
from lensdiff.analyses.attention.patterns import AttentionPatterns, attention
from lensdiff.analyses.attention.shift import AttentionShift, attention_shift
from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.analyses.attribute.replication import replication
from lensdiff.analyses.claims.measure import Claims
from lensdiff.analyses.directions.measure import directions
from lensdiff.analyses.directions.result import Directions
from lensdiff.analyses.heads.head_word_pairs import HeadWordPairs, head_word_pairs
from lensdiff.analyses.heads.ov_reading import OVReading, ov_reading
from lensdiff.analyses.heads.pair_overlap import PairOverlap, pair_overlap
from lensdiff.analyses.heads.verb_shift import VerbShift, verb_shift
from lensdiff.analyses.instruction_use.measure import instruction_use
from lensdiff.analyses.instruction_use.result import InstructionUse
from lensdiff.analyses.knock_out.both import knock_out_shift
from lensdiff.analyses.knock_out.shift import KnockOutShift
from lensdiff.analyses.layer_similarity.measure import layer_similarity
from lensdiff.analyses.layer_similarity.result import LayerSimilarity
from lensdiff.analyses.mlp.coherence import Coherence, coherence
from lensdiff.analyses.mlp.concepts import MLPConcepts, mlp_concepts
from lensdiff.analyses.mlp.rotation import Rotation, rotation
from lensdiff.analyses.outputs.output_shift import OutputShift, output_shift
from lensdiff.analyses.residual_stream.direct import direct_logit_attribution
from lensdiff.analyses.residual_stream.lens import LogitLens, logit_lens
from lensdiff.analyses.residual_stream.lens_shift import LensCurves, LensShift, lens_shift
from lensdiff.analyses.residual_stream.parts_shift import PartsShift
from lensdiff.analyses.value_rotation.measure import ValueRotation, value_rotation
from lensdiff.analyses.weights.weight_shift import WeightShift, weight_shift
from lensdiff.inputs import Prompt, load_prompts
from lensdiff.inputs.texts import shipped_texts
from lensdiff.inputs.vocabulary import Vocabulary
from lensdiff.inputs.word_vectors import WordVectors
from lensdiff.models import load_pair, text, view_of
from lensdiff.models.pair import ModelPair
from lensdiff.models.text import Response, generate
from lensdiff.models.validity import validity
from lensdiff.pipeline import plans
from lensdiff.pipeline.door import _texts
from lensdiff.pipeline.execute import execute
from lensdiff.pipeline.graph import steps_of, tables_of
from lensdiff.pipeline.runner import blocks
from lensdiff.results import InputError, Result
from lensdiff.steps.columns import meaning
from lensdiff.steps.options import are_layers
from lensdiff.steps.responses import RESPONSES, SaidResponse
from lensdiff.steps.unit import Unit
from tests import toy_v1
from tests.pipeline.conftest import PROMPTS, Recorder, config_for

IDS = [prompt["id"] for prompt in PROMPTS]
COUNTS = [analysis.name for analysis in ANALYSES if analysis.controls is not None]
CONTROLS = [f"{kind}-{i}" for kind in ("spectrum", "norm") for i in range(3)]

# the tiny pair's tokenizer has no chat template, so prompts are read raw alone (both: tests/pipeline/test_templates.py)
OF_ONE_RENDERING = [analysis for analysis in ANALYSES if not analysis.both]


@pytest.fixture(scope="module")
def pair(models: Path) -> ModelPair:
    return load_pair(models / "base", models / "tuned", device="cpu", verify=False)


@pytest.fixture(scope="module")
def prompts(models: Path) -> dict[str, Prompt]:
    return {prompt.id: prompt for prompt in load_prompts(models / "prompts.jsonl")}


@pytest.fixture(scope="module")
def responses(pair: ModelPair, prompts: dict[str, Prompt]) -> dict[str, Response]:
    return {name: generate(pair.tuned, prompt, max_new_tokens=4) for name, prompt in prompts.items()}


def same(found: Result, expected: Result) -> None:
    """Assert that two results hold the same numbers."""
    assert type(found) is type(expected)
    for name, value in vars(expected).items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(getattr(found, name), value, equal_nan=True)
    pd.testing.assert_frame_equal(found.to_df(), expected.to_df())


def test_every_step_is_done_and_told(finished):
    store, recorder = finished
    # the choices of both models are of the target "choice" alone
    names = [step.name for step in steps_of(OF_ONE_RENDERING) if step.name != "attribution_choices"]
    assert {name: state.state for name, state in store.manifest.steps.items()} == dict.fromkeys(names, "done")
    assert all(len(state.wanted) == len(state.done) and not state.failures for state in store.manifest.steps.values())
    controls = {unit.model for unit in store.step("control_validity").units.values()}
    assert [event for event in recorder.units() if event.startswith("controls: ")] == [
        f"controls: {c}" for c in CONTROLS
    ]
    of_controls = [u for s in store.manifest.steps.values() for u in s.units.values() if u.model in controls]
    done = sum(len(state.done) for state in store.manifest.steps.values())
    assert len(recorder.units()) == done - len(of_controls) + len(controls)
    assert recorder.said[0].startswith("memory: about 1 MiB of ")
    assert recorder.said[1].startswith("loading ")
    assert recorder.said[2].startswith("time: about ")
    assert store.manifest.pair["base"]["n_layers"] == 2
    assert store.manifest.pair["comparable"] is True
    assert store.has_table("differences")
    assert store.manifest.ended


def test_what_only_readers_needed_is_gone(finished):
    store, _ = finished
    names = [name for name in store.names() if any(control in name.split("/") for control in CONTROLS)]
    assert {name.split("/")[0] for name in names} == {"control_responses", "attribution", "control_validity"}
    assert not [name for name in store.names() if name.endswith("_pair")]


def test_every_column_of_every_table_is_described(finished):
    store, _ = finished
    tables = {table.name: table for table in tables_of(OF_ONE_RENDERING) if table.build is not None}
    assert set(store.table_names()) == set(tables)
    for name, table in tables.items():
        columns = list(store.load_table(name).columns)
        assert store.columns(name) == columns
        assert [column for column in columns if not meaning(table, column)] == []
        assert all(any(f"{column}_".startswith(f"{own}_") for column in columns) for own in table.columns)
    text = (store.root / "tables" / "README.md").read_text()
    assert "- `kl`: KL(tuned || base)" in text
    assert "- `entropy_p`: entropy: of the difference over prompts" in text


def test_attributions_and_scores(finished, pair, prompts):
    store, _ = finished
    scores = store.load_table("instruction_scores")
    assert list(scores.columns) == ["prompt_id", "model", "kind", "seed", "instruction_score", "n_in", "n_out"]
    models = {"base": pair.base, "tuned": pair.tuned} | {f"spectrum-{i}": pair.control("spectrum", i) for i in range(2)}
    for name, model in models.items():
        seed = int(name.removeprefix("spectrum-")) if name.startswith("spectrum") else None
        for prompt_id, prompt in prompts.items():
            draws = 0 if seed is not None else 2
            expected = attribute(model, prompt, max_new_tokens=4, deletion_draws=draws)
            same(store.load_result(f"attribution/{name}/{prompt_id}", Attribution), expected)
            kind = scores.model == ("control" if seed is not None else name)
            row = scores[
                (scores.prompt_id == prompt_id) & kind & (scores.seed.fillna(-1) == (-1 if seed is None else seed))
            ]
            assert row.instruction_score.tolist() == [expected.instruction_score()]
            assert (row.n_in.item(), row.n_out.item()) == tuple(expected.scores.shape)
    assert len(scores) == 4 * len(prompts)
    sides = [
        [store.load_result(f"attribution/{side}/{name}", Attribution) for name in prompts] for side in ("base", "tuned")
    ]
    pd.testing.assert_frame_equal(store.load_table("replication"), replication(*sides).to_df())
    table = store.load_table("attribution")
    assert list(table.columns[:2]) == ["model", "prompt_id"]
    assert set(table.prompt_id) == set(IDS)


def test_attention_is_read_on_the_tuned_models_response(finished, pair, prompts, responses):
    store, _ = finished
    runs = []
    controls = [pair.control(kind, i) for kind in ("spectrum", "norm") for i in range(3)]
    for model in (pair.base, pair.tuned, *controls):
        runs.append([attention(model, prompts[i], responses[i]) for i in prompts])
    for i, prompt_id in enumerate(prompts):
        same(store.load_result(f"attention/base/{prompt_id}", AttentionPatterns), runs[0][i])
    same(store.load_result("attention_shift", AttentionShift), attention_shift(runs[0], runs[1], runs[2:]))
    assert set(store.load_table("attention").model) == {"base", "tuned"}


def test_the_residual_stream_beside_controls_of_the_first_kind(finished, pair, prompts, responses):
    store, _ = finished
    controls = [pair.control("spectrum", i) for i in range(3)]
    given = [list(prompts.values()), [responses[name] for name in prompts]]
    lenses = [list(logit_lens(model, *given)) for model in (pair.base, pair.tuned, *controls)]
    for side, found in zip(("base", "tuned"), lenses, strict=False):
        for one in found:
            same(store.load_result(f"logit_lens/{side}/{one.prompt_id}", LogitLens), one)
    base, tuned, *beside = (LensCurves.of(found) for found in lenses)
    found = store.load_result("logit_lens_shift", LensShift)
    same(found, lens_shift(base, tuned, beside, provenance=found.provenance))
    assert found.provenance.control_kinds == ("spectrum",) * 3
    parts = store.load_result("direct_logit_attribution", PartsShift)
    both = direct_logit_attribution(pair, *given)
    for side, model in ((both.base, 0), (both.tuned, 1)):
        means = torch.stack([one.contributions.mean(dim=1) for one in side])
        torch.testing.assert_close(parts.contributions[model], means)
    assert parts.provenance.control_kinds == ("spectrum",) * 3
    # what a control adds up to is its logit against the tokens that the pair was held against
    rivals = [lens.choices for lens in lenses[0]]
    for i, (prompt_id, prompt) in enumerate(prompts.items()):
        said = torch.tensor(responses[prompt_id].token_ids)
        ids = view_of(pair.base).tokenizer(prompt.text)["input_ids"]
        logits = view_of(controls[0]).forward.logits(torch.tensor([[*ids, *said.tolist()]]))[0, len(ids) - 1 : -1]
        rival = torch.where(rivals[i][:, 0] == said, rivals[i][:, 1], rivals[i][:, 0])
        expected = (logits.gather(-1, said[:, None]) - logits.gather(-1, rival[:, None])).mean()
        torch.testing.assert_close(parts.logit[2, i], expected.double(), rtol=1e-4, atol=1e-4)
    assert set(store.load_table("logit_lens").model) == {"base", "tuned"}


def test_layer_similarity_beside_controls_of_the_first_kind(finished, pair, prompts, responses):
    store, _ = finished
    controls = [pair.control("spectrum", i) for i in range(3)]
    given = [list(prompts.values()), [responses[name] for name in prompts]]
    found = store.load_result("layer_similarity", LayerSimilarity)
    expected = layer_similarity(pair, *given, controls=controls, max_tokens=64)
    pd.testing.assert_frame_equal(store.load_table("layer_similarity"), expected.to_df(), rtol=1e-9, atol=1e-12)
    assert found.provenance.control_kinds == ("spectrum",) * 3
    assert found.cka.shape[0] == 4


def test_directions_beside_controls_of_the_first_kind(finished, pair, prompts, responses):
    store, _ = finished
    marked = [name for name, prompt in prompts.items() if prompt.instruction]
    given: dict[str, Any] = {
        "prompts": [prompts[name] for name in marked],
        "response": [responses[name] for name in marked],
    }
    expected = directions(pair, **given, controls=[pair.control("spectrum", i) for i in range(3)])
    pd.testing.assert_frame_equal(store.load_table("directions"), expected.to_df(), rtol=1e-9, atol=1e-12)
    pd.testing.assert_frame_equal(store.load_table("direction_effects"), expected.effects(), rtol=1e-6, atol=1e-9)
    assert store.load_result("directions", Directions).provenance.control_kinds == ("spectrum",) * 3


def test_the_activation_difference_beside_controls_of_the_first_kind(finished, pair):
    store, _ = finished
    controls = [pair.control("spectrum", i) for i in range(3)]
    found = store.load_result("activation_difference", ActivationDifference)
    texts = shipped_texts()
    same(found, activation_difference(pair, texts, max_texts=16, controls=controls))
    assert found.provenance.control_kinds == ("spectrum",) * 3
    pd.testing.assert_frame_equal(store.load_table("activation_difference_words"), found.reads())
    pd.testing.assert_frame_equal(store.load_table("activation_difference_controls"), found.controls())
    effects = store.load_result("activation_difference_effects", DifferenceEffects)
    given: dict[str, Any] = {"texts": texts, "max_texts": 4, "draws": 2}
    assert (effects.layer, effects.chosen) == (1, False)
    for name, expected in (
        ("patchscope", found.patchscope(pair, 1, effects.position, draws=2, k=3)),
        ("steering", found.steer(pair, 1, effects.position, **given)),
    ):
        table = store.load_table(f"activation_difference_{name}")
        pd.testing.assert_frame_equal(table[[*expected.columns]], expected, rtol=1e-6, atol=1e-9)
    causal: Any = store.load_table("activation_difference_causal")
    for side in ("base", "tuned"):
        own = causal[causal["into"] == side].reset_index(drop=True)
        expected = found.causal(pair, 1, effects.position, into=side, **given)
        pd.testing.assert_frame_equal(own[[*expected.columns]], expected, rtol=1e-5, atol=1e-7)
    pd.testing.assert_frame_equal(store.load_table("activation_difference_effects"), effects.to_df())


def test_outputs_and_weights(finished, pair, prompts, responses):
    store, _ = finished
    for prompt_id, prompt in prompts.items():
        expected = output_shift(pair, prompt, responses[prompt_id])
        same(store.load_result(f"outputs/{prompt_id}", OutputShift), expected)
    same(store.load_result("weights", WeightShift), weight_shift(pair))
    assert len(store.load_table("outputs")) == sum(len(response.token_ids) for response in responses.values())


def test_heads(finished, pair, models):
    store, _ = finished
    words = Vocabulary.read(models / "words.tsv")
    vectors = WordVectors.from_model(view_of(pair.base), words.words)
    controls = [pair.control(kind, i) for kind in ("spectrum", "norm") for i in range(3)]
    found = [head_word_pairs(m, words, vectors, top_k=10) for m in (pair.base, pair.tuned, *controls)]
    same(store.load_result("heads/base", HeadWordPairs), found[0])
    same(store.load_result("heads/tuned", HeadWordPairs), found[1])
    same(
        store.load_result("verb_shift", VerbShift),
        verb_shift(found[0], found[1], layers_per_group=1, controls=found[2:], frequencies=words),
    )
    same(store.load_result("pair_overlap", PairOverlap), pair_overlap(found[0], found[1], controls=found[2:]))
    same(store.load_result("ov_reading/tuned", OVReading), ov_reading(pair.tuned, words))
    assert set(store.load_table("heads").model) == {"base", "tuned"}


def test_concepts_and_rotation(finished, pair, models):
    store, _ = finished
    words = Vocabulary.read(models / "words.tsv")
    base, tuned = (mlp_concepts(m, words, n_components=8, top_words=5) for m in (pair.base, pair.tuned))
    same(store.load_result("concepts/base", MLPConcepts), base)
    controls = [pair.control(kind, i) for kind in ("spectrum", "norm") for i in range(3)]
    found = store.load_result("rotation", Rotation)
    same(found, rotation(base, tuned, ranks=[1, 4], controls=controls))
    assert (found.kinds, found.n_controls) == (("spectrum", "norm"), (3, 3))
    shares = store.load_result("value_rotation", ValueRotation)
    same(shares, value_rotation(pair, controls=controls))
    assert shares.control_kinds == ("spectrum",) * 3 + ("norm",) * 3
    pd.testing.assert_frame_equal(store.load_table("value_rotation_controls"), shares.controls())


@pytest.mark.parametrize("by", ["swap", "deletion"])
def test_instruction_use_beside_controls_is_that_of_one_call(finished, pair, prompts, by):
    store, _ = finished
    controls = [pair.control(kind, i) for kind in ("spectrum", "norm") for i in range(3)]
    texts = {
        side: generate(getattr(pair, side), list(prompts.values()), max_new_tokens=4) for side in ("base", "tuned")
    }
    expected = instruction_use(pair, list(prompts.values()), texts, by=by, controls=controls)
    found = store.load_result({"swap": "instruction_use"}.get(by, "instruction_use_deletion"), InstructionUse)
    assert (found.models, found.control_kinds, found.texts) == (expected.models, expected.control_kinds, expected.texts)
    pd.testing.assert_frame_equal(_sorted(found), _sorted(expected))
    table = store.load_table("instruction_use")
    assert len(table[table["by"] == by]) == len(expected.use)
    differences = store.load_table("instruction_use_differences")
    assert set(differences["text"]) == {"base", "tuned", "mean"}


def test_a_knock_out_beside_controls_is_that_of_one_call(finished, pair, prompts):
    store, _ = finished
    controls = [pair.control(kind, i) for kind in ("spectrum", "norm") for i in range(3)]
    texts = {
        side: list(generate(getattr(pair, side), list(prompts.values()), max_new_tokens=4))
        for side in ("base", "tuned")
    }
    expected = knock_out_shift(pair, list(prompts.values()), texts, controls=controls)
    found = store.load_result("knock_out", KnockOutShift)
    assert found.provenance.control_kinds == ("spectrum",) * 3 + ("norm",) * 3
    same(found, expected)
    for name, frame in {
        "knock_out": found.tokens(),
        "knock_out_prompts": found.to_df(),
        "knock_out_windows": found.over_windows(),
        "knock_out_effects": found.summary(),
    }.items():
        pd.testing.assert_frame_equal(store.load_table(name), frame, check_dtype=False)


def _sorted(found: InstructionUse) -> pd.DataFrame:
    return found.to_df().sort_values(["prompt_id", "text", "model"], ignore_index=True)


def test_forced_texts_are_cut_and_references_are_read(models, tmp_path, pair):
    entries = [
        {"text": "Repeat the word: moon", "instruction": ["Repeat"], "id": "a", "kind": "x", "reference": "moon"},
        {"text": "List three fruits.", "instruction": ["List"], "id": "b", "kind": "y"},
    ]
    changes = {"prompts": None, "prompt": entries, "analyses": ["instruction_use"], "controls": {"instruction_use": 0}}
    changes |= {"instruction_use": {"draws": 1, "max_tokens": 2}}
    store = execute(config_for(models, tmp_path / "out", **changes))
    found = store.load_result("instruction_use", InstructionUse)
    assert found.texts == ("base", "tuned", "reference")
    frame: Any = found.to_df()
    assert frame[frame["text"] != "reference"]["n_out"].max() == 2
    assert set(frame[frame["text"] == "reference"]["prompt_id"]) == {"a"}
    prompts = [Prompt(e["text"], e["instruction"], id=e["id"], kind=e["kind"]) for e in entries]
    alone = instruction_use(pair.base, prompts[0], "moon", by="deletion")
    deletion: Any = store.load_result("instruction_use_deletion", InstructionUse).to_df()
    own = deletion[(deletion["text"] == "reference") & (deletion["model"] == "base")]
    assert own["use"].tolist() == pytest.approx(alone.use.tolist(), abs=1e-5)
    claim = store.load_result("claims", Claims).claims[0]
    assert claim.verdict == "too few controls"
    assert claim.statement.endswith(
        "no controls were made, so what meaningless changes of the same size give is unknown."
    )


def test_only_the_texts_that_are_asked_for_are_forced(models, tmp_path):
    entries = [
        {"text": "Repeat the word: moon", "instruction": ["Repeat"], "id": "a", "reference": "moon"},
        {"text": "List three fruits.", "instruction": ["List"], "id": "b"},
    ]
    changes = {"prompts": None, "prompt": entries, "analyses": ["instruction_use"], "controls": {"instruction_use": 0}}
    one = execute(config_for(models, tmp_path / "one", **changes, instruction_use={"texts": ["reference", "tuned"]}))
    assert one.load_result("instruction_use", InstructionUse).texts == ("tuned", "reference")
    alone = changes | {"prompt": [entries[1]], "instruction_use": {"texts": ["reference"]}}
    none = execute(config_for(models, tmp_path / "none", **alone))
    assert none.step("instruction_use").note == (
        "instruction_use.texts asks for references alone, and no prompt brings one"
    )


def test_a_change_that_ruins_the_base_is_not_testable(tmp_path):
    controls = {"kinds": ["spectrum", "gradient-noise"], "value_rotation": 3}
    config = {"base": str(toy_v1.BASE), "tuned": str(toy_v1.TUNED), "out": str(tmp_path / "out"), "device": "cpu"}
    config |= {"analyses": ["value_rotation"], "controls": controls}
    store = execute(config)
    assert not store.load_table("control_validity")["valid"].any()
    claim = store.load_result("claims", Claims).claims[2]
    assert claim.verdict == "not testable"
    assert claim.statement.startswith(
        "Not testable: a change of this size ruins the base, whatever it means (3 of 3 spectrum controls predict the "
    )


def test_a_kind_of_which_no_control_can_be_made_is_told(models, tmp_path, monkeypatch):
    def fail(pair, model, **options):
        if view_of(model).control.kind == "norm":  # pyright: ignore[reportOptionalMemberAccess]
            raise InputError("it cannot be run")
        return replace(validity(pair, model, **options), uniform=100.0)  # so that the other kind is valid

    monkeypatch.setattr("lensdiff.steps.validity.validity", fail)
    controls = {"kinds": ["spectrum", "norm"], "instruction_use": 2}
    store = execute(config_for(models, tmp_path / "out", analyses=["instruction_use"], controls=controls))
    assert set(store.step("control_validity").failures) == {"norm-0", "norm-1"}
    claim = store.load_result("claims", Claims).claims[0]
    assert claim.verdict == "too few controls"
    assert claim.statement.endswith("; of the kind norm none could be made and read.")


def test_a_run_goes_on_with_as_many_models_as_it_began_with(models, tmp_path, monkeypatch):
    monkeypatch.setattr("lensdiff.pipeline.execute.choose_keep", lambda *_: "one")
    out = tmp_path / "out"
    execute(config_for(models, out, analyses=["value_rotation"]))
    monkeypatch.setattr("lensdiff.pipeline.execute.choose_keep", lambda *_: pytest.fail("chosen again"))
    again = execute(config_for(models, out, analyses=["value_rotation", "weights"]))
    assert again.manifest.pair["keep"] == "one"
    assert again.step("value_rotation").state == again.step("weights").state == "skipped"


def test_prompts_without_an_instruction_are_told_where_others_have_one(models, tmp_path):
    entries = [
        {"text": "Repeat the word: moon", "instruction": ["Repeat"], "id": "a"},
        {"text": "List three fruits.", "instruction": ["List"], "id": "b"},
        {"text": "The sea is calm.", "id": "none"},
    ]
    recorder = Recorder()
    changes = {"prompts": None, "prompt": entries, "analyses": ["instruction_use"], "controls": {"instruction_use": 0}}
    store = execute(config_for(models, tmp_path / "out", **changes), listener=recorder)
    told = [message for message in recorder.said if message.startswith("instruction use by ")]
    assert told == [
        f"instruction use by {by}: without prompt 'none': prompt 'none' marks no instruction, expected a span of it"
        for by in ("swap", "deletion")
    ]
    assert set(store.load_result("instruction_use", InstructionUse).failures) == {"none"}


def test_a_prompt_that_fails_in_a_control_is_recorded(models, tmp_path, monkeypatch):
    def fail(model, prompt, *given, **options):
        control = view_of(model).control
        if control is not None and control.seed == 1 and prompt.id == "two-words":
            raise InputError("it cannot be attributed")
        return attribute(model, prompt, *given, **options)

    monkeypatch.setattr("lensdiff.analyses.attribute.steps.attribute", fail)
    entries = [
        {"text": "Repeat the word: moon", "instruction": ["Repeat"], "id": "two-words"},
        {"text": "List three fruits.", "instruction": ["List"], "id": "other"},
    ]
    recorder = Recorder()
    changes = {"prompts": None, "prompt": entries, "analyses": ["attribute", "instruction_use"]}
    store = execute(config_for(models, tmp_path / "out", **changes), listener=recorder)
    assert store.step("attribution").failures == {"spectrum-1/two-words": "it cannot be attributed"}
    assert "controls: spectrum-1, prompt 'two-words' failed: it cannot be attributed" in recorder.said
    assert store.step("attribution").state == "done"
    scores = store.load_table("instruction_scores")
    assert set(scores[scores["seed"] == 1]["prompt_id"]) == {"other"}
    # the control itself was made and read
    made = store.load_result("claims", Claims).claims[0].made
    assert [(kind.kind, kind.made) for kind in made] == [("spectrum", 3), ("norm", 3)]


def test_one_prompt_has_no_donor(models, tmp_path):
    entries = [{"text": "Repeat the word: moon", "instruction": ["Repeat"]}]
    changes = {"prompts": None, "prompt": entries, "analyses": ["instruction_use"], "controls": {"instruction_use": 0}}
    store = execute(config_for(models, tmp_path / "out", **changes))
    assert store.step("instruction_use").state == "skipped"
    assert "has no donor" in store.step("instruction_use").note
    assert "has no donor" in store.load_result("claims", Claims).claims[0].statement


def test_every_control_that_is_made_whole_is_run_on_the_bases_own_text(finished, pair):
    store, _ = finished
    table = store.load_table("control_validity")
    assert table["kind"].tolist() == ["spectrum"] * 3 + ["norm"] * 3
    assert table["seed"].tolist() == [0, 1, 2] * 2
    for row in table.itertuples():
        expected = validity(pair, pair.control(str(row.kind), int(row.seed)))
        assert (row.loss, row.limit, row.valid) == (expected.loss, expected.limit, expected.valid)
    rotation_claim = store.load_result("claims", Claims).claims[2]
    assert [(made.kind, made.made, made.checked) for made in rotation_claim.made] == [
        ("spectrum", 3, 3),
        ("norm", 3, 3),
    ]


def test_a_few_controls_of_a_kind_are_checked_where_weights_alone_are_read(models, tmp_path, monkeypatch):
    monkeypatch.setattr("lensdiff.pipeline.plans.CHECKED", 2)
    controls = {"kinds": ["norm", "spectrum"], "value_rotation": 4}
    store = execute(config_for(models, tmp_path / "out", analyses=["value_rotation"], controls=controls))
    assert store.load_table("control_validity")["kind"].tolist() == ["norm"] * 2 + ["spectrum"] * 2
    assert store.load_result("value_rotation", ValueRotation).control_kinds == ("norm",) * 4 + ("spectrum",) * 4


def test_shuffled_controls_are_made_of_the_tuning_data(models, tmp_path, pair):
    rows = [(f"Say {word}.", f"{word} {word}") for word in ("moon", "sea", "tree", "fish")]
    lines = [json.dumps({"prompt": prompt, "response": response}) for prompt, response in rows]
    (tmp_path / "tuning.jsonl").write_text("\n".join(lines) + "\n\n")
    controls = {"kinds": ["shuffled"], "data": str(tmp_path / "tuning.jsonl"), "value_rotation": 2}
    store = execute(config_for(models, tmp_path / "out", analyses=["value_rotation"], controls=controls))
    found = store.load_result("value_rotation", ValueRotation)
    expected = value_rotation(pair, controls=[pair.control("shuffled", i, data=rows, cache=None) for i in range(2)])
    torch.testing.assert_close(found.control_shares, expected.control_shares, atol=1e-4, rtol=1e-3)


def test_controls_are_made_as_the_config_says(models, tmp_path, pair):
    recipe = {"steps": 2, "rate": 1e-2, "batch": 2, "length": 6, "rank": 2}
    controls = {"kinds": ["distilled", "gradient-noise"], "divide": "rms", "value_rotation": 1, **recipe}
    store = execute(config_for(models, tmp_path / "out", analyses=["value_rotation"], controls=controls))
    found = store.load_result("value_rotation", ValueRotation)
    made = [pair.control("distilled", **recipe, cache=None), pair.control("gradient-noise", divide="rms", cache=None)]
    torch.testing.assert_close(found.control_shares, value_rotation(pair, controls=made).control_shares)
    usual = [pair.control("distilled", cache=None), pair.control("gradient-noise", cache=None)]
    differ = (found.control_shares - value_rotation(pair, controls=usual).control_shares).abs()
    assert (differ.flatten(1).amax(1) > 1e-3).all()


@pytest.mark.parametrize("line", ["{", "[1]", '{"prompt": "a"}', '{"prompt": "a", "response": " "}'])
def test_unusable_tuning_data_are_refused_by_line(models, tmp_path, line):
    good = json.dumps({"prompt": "a", "response": "b"})
    (tmp_path / "tuning.jsonl").write_text(f"{good}\n{line}\n")
    controls = {"kinds": ["shuffled"], "data": str(tmp_path / "tuning.jsonl")}
    with pytest.raises(InputError, match=r"tuning.jsonl, line 2: "):
        execute(config_for(models, tmp_path / "out", controls=controls))


def test_coherence(finished, pair, models):
    store, _ = finished
    words = Vocabulary.read(models / "words.tsv")
    vectors = WordVectors.from_model(view_of(pair.base), words.words)
    for side in ("base", "tuned"):
        concepts = store.load_result(f"concepts/{side}", MLPConcepts)
        same(store.load_result(f"coherence/{side}", Coherence), coherence(getattr(pair, side), concepts, vectors))
    assert set(store.load_table("coherence").model) == {"base", "tuned"}


def test_layers_in_groups_are_layers_at_once(finished, models, tmp_path, monkeypatch):
    store, _ = finished
    monkeypatch.setattr("lensdiff.steps.plan.LAYERS_AT_ONCE", 1)
    again = execute(config_for(models, tmp_path / "out", analyses=["heads", "mlp"]))
    assert again.step("heads").done[:2] == ["base/0", "base/1"]
    for name, kind in (("heads/base", HeadWordPairs), ("concepts/tuned", MLPConcepts)):
        found, expected = again.load_result(name, kind), store.load_result(name, kind)
        same(found, expected)
        assert found.provenance.options == expected.provenance.options


def test_a_finished_run_loads_no_model_and_does_nothing(finished, models, monkeypatch):
    store, _ = finished
    before = store.manifest.steps
    monkeypatch.setattr(plans, "load_pair", lambda *_, **__: pytest.fail("a model was loaded"))
    recorder = Recorder()
    again = execute(config_for(models, store.root), listener=recorder)
    assert recorder.events == []
    assert again.manifest.steps == before


def test_one_model_at_a_time_gives_the_same_without_controls(finished, models, tmp_path):
    store, _ = finished
    none = dict.fromkeys(COUNTS, 0)
    one = execute(config_for(models, tmp_path / "out", keep="one", controls=none))
    assert one.manifest.pair["keep"] == "one"
    assert one.step("weights").state == "skipped"
    assert "one at a time is held" in one.step("weights").note
    assert one.step("outputs").done == IDS
    for name, kind in (
        ("attribution/tuned/sea", Attribution),
        ("outputs/fruit", OutputShift),
        ("heads/base", HeadWordPairs),
    ):
        same(one.load_result(name, kind), store.load_result(name, kind))
    assert one.load_result("attention_shift", AttentionShift).whole is None
    states = {name: state.state for name, state in one.manifest.steps.items()}
    impossible = {"weights", "value_rotation_pair", "value_rotation", "dose_pair", "dose"}
    impossible |= {"activation_difference_pair", "activation_difference", "activation_difference_effects"}
    assert {name for name, state in states.items() if state == "skipped"} == impossible
    assert {state for name, state in states.items() if name not in impossible} == {"done"}
    assert not any(unit.model in CONTROLS for state in one.manifest.steps.values() for unit in state.units.values())


def test_memory_decides_how_many_models_are_held(models, tmp_path, monkeypatch):
    monkeypatch.setattr("lensdiff.pipeline.memory.available_memory", lambda device: 200_000)
    recorder = Recorder()
    store = execute(config_for(models, tmp_path / "out", analyses=["attribute"]), listener=recorder)
    assert "one is held at a time and no controls are made" in recorder.said[0]
    assert store.manifest.pair["keep"] == "one"
    assert set(store.load_table("instruction_scores").model) == {"base", "tuned"}


def test_patterns_of_the_first_prompts_alone_are_kept(models, tmp_path):
    changes = {"analyses": ["attention"], "attention": {"keep_patterns": 1}}
    store = execute(config_for(models, tmp_path / "out", **changes))
    sizes = [store.load_result(f"attention/tuned/{i}", AttentionPatterns).patterns.numel() for i in IDS]
    assert sizes[0] > 0
    assert sizes[1:] == [0, 0]
    assert store.names("attention/spectrum") == []


def test_prompts_of_the_config_and_a_given_response(models, tmp_path, pair):
    entries = [
        {"text": "Repeat the word: moon", "instruction": ["Repeat"], "response": "moon moon"},
        {"text": "Repeat the word: moon", "id": "own"},
    ]
    changes = {"prompts": None, "prompt": entries, "analyses": ["attribute", "attention", "outputs"]}
    store = execute(config_for(models, tmp_path / "out", **changes))
    prompt = Prompt("Repeat the word: moon", ["Repeat"])
    same(
        store.load_result("attribution/spectrum-1/1", Attribution),
        attribute(
            pair.control("spectrum", 1), Prompt(prompt.text, prompt.instruction, id="1"), "moon moon", deletion_draws=0
        ),
    )
    assert store.load_result("attribution/tuned/1", Attribution).response_kind == "text"
    assert store.load_result("attribution/tuned/own", Attribution).response_kind == "generated"
    assert store.load_result("outputs/1", OutputShift).prompt_id == "1"
    scores = store.load_table("instruction_scores")
    assert set(scores.prompt_id) == {"1"}  # the other one marks no instruction


def test_retokenise_reads_the_own_response_as_text(models, tmp_path, pair, prompts):
    changes = {
        "analyses": ["attribute"],
        "attribute": {"retokenise": True, "deletion_draws": 0},
        "controls": {"attribute": 0},
    }
    store = execute(config_for(models, tmp_path / "out", **changes))
    expected = attribute(pair.base, prompts["sea"], retokenise=True, max_new_tokens=4, deletion_draws=0)
    found = store.load_result("attribution/base/sea", Attribution)
    torch.testing.assert_close(found.scores, expected.scores)
    assert found.response_kind == expected.response_kind


def test_a_failing_prompt_is_told_and_the_rest_goes_on(models, tmp_path):
    entries = [
        {"text": "moon " * 300, "id": "long"},
        {"text": "Repeat the word: moon", "instruction": ["Repeat"], "id": "ok"},
    ]
    recorder = Recorder()
    changes = {"prompts": None, "prompt": entries, "analyses": ["attribute", "outputs", "attention"]}
    store = execute(config_for(models, tmp_path / "out", **changes), listener=recorder)
    assert set(store.step("responses").failures) == {"base/long", "tuned/long"}
    assert "the model's context holds 128" in store.step("outputs").units["long"].reason
    assert [store.step(name).state for name in ("responses", "attribution", "attention", "control_attention")] == (
        ["done"] * 4
    )
    assert store.names("outputs/") == ["outputs/ok"]
    assert any(message.startswith("responses: base, prompt 'long' failed: ") for message in recorder.said)


@pytest.mark.parametrize("keep", ["both", "one"])
def test_half_a_character_fails_its_prompt_alone(models, tmp_path, keep):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": "half", "text": "Say \\ud83d"}\n{"id": "ok", "text": "Repeat the word: moon"}\n')
    changes = {"prompts": str(path), "analyses": ["attribute", "outputs", "attention"], "keep": keep}
    changes |= {"controls": dict.fromkeys(COUNTS, 0)}
    store = execute(config_for(models, tmp_path / "out", **changes))
    assert set(store.step("responses").failures) == {"base/half", "tuned/half"}
    reason = store.step("responses").failures["base/half"]
    assert reason == r"prompt 'half' holds half a character ('\ud83d' at 4), expected whole ones"
    assert reason in store.step("outputs").units["half"].reason
    assert store.names("outputs/") == ["outputs/ok"]
    assert store.names("attribution/base/") == ["attribution/base/ok"]
    assert store.names("attention/tuned/") == ["attention/tuned/ok"]


def test_blocks_are_of_one_model_each():
    units = [Unit(side, str(n)) for side in ("base", "tuned") for n in range(5)]
    found = blocks(RESPONSES, units, 4)
    assert [[(unit.model, unit.prompt) for unit in block] for block in found] == [
        [("base", "0"), ("base", "1"), ("base", "2"), ("base", "3")],
        [("base", "4")],
        [("tuned", "0"), ("tuned", "1"), ("tuned", "2"), ("tuned", "3")],
        [("tuned", "4")],
    ]
    assert [len(block) for block in blocks(replace(RESPONSES, block=None), units, 4)] == [1] * 10


@pytest.mark.parametrize("keep", ["both", "one"])
def test_what_a_model_has_to_say_is_decoded_together(models, tmp_path, monkeypatch, pair, prompts, keep):
    decode, together = text.greedy_to_the_end, []

    def counted(view: Any, rows: Any, **options: Any) -> Any:
        together.append((view.info.id, len(rows)))
        return decode(view, rows, **options)

    monkeypatch.setattr(text, "greedy_to_the_end", counted)
    changes = {"analyses": ["outputs"], "keep": keep, "controls": dict.fromkeys(COUNTS, 0)}
    store = execute(config_for(models, tmp_path / "out", **changes))
    assert together == [("base", 3), ("tuned", 3)]
    monkeypatch.undo()
    for side, model in (("base", pair.base), ("tuned", pair.tuned)):
        for name, prompt in prompts.items():
            alone = generate(model, prompt, max_new_tokens=4)
            assert store.load_result(f"responses/{side}/{name}", SaidResponse).token_ids == alone.token_ids


def test_what_a_control_has_to_say_is_decoded_together(models, tmp_path, monkeypatch, pair, prompts):
    decode, together = text.greedy_to_the_end, []

    def counted(view: Any, rows: Any, **options: Any) -> Any:
        together.append(len(rows))
        return decode(view, rows, **options)

    monkeypatch.setattr(text, "greedy_to_the_end", counted)
    counts = dict.fromkeys(COUNTS, 0) | {"attribute": 2}
    changes = {"analyses": ["attribute"], "attribute": {"curve_prompts": 0}}
    config = config_for(models, tmp_path / "out", **changes, controls={"kinds": ["spectrum"], **counts})
    store = execute(config)
    assert together == [3] * 4, "base, tuned and two controls, three prompts each"
    monkeypatch.undo()
    for seed in range(2):
        control = pair.control("spectrum", seed)
        for name, prompt in prompts.items():
            alone = generate(control, prompt, max_new_tokens=4)
            assert store.load_result(f"control_responses/spectrum-{seed}/{name}", SaidResponse).said() == alone


def test_nothing_to_score_is_no_failure(models, tmp_path):
    changes = {"prompts": None, "prompt": [{"text": "Repeat the word: moon"}], "analyses": ["attribute"]}
    store = execute(config_for(models, tmp_path / "out", **changes))
    assert store.manifest.tables["instruction_scores"].note == "no prompt marks an instruction"
    assert not store.has_table("instruction_scores")
    assert store.step("attribution").state == "done"


def test_an_option_that_the_model_does_not_allow_fails_its_step_alone(models, tmp_path, monkeypatch):
    for name in ("door.stated_layers", "prepare.stated_layers", "prepare.n_layers"):
        monkeypatch.setattr(f"lensdiff.pipeline.{name}", lambda *_: None)  # as of a file that must be loaded first
    changes = {"analyses": ["heads", "mlp"], "heads": {"layers": [7]}}
    store = execute(config_for(models, tmp_path / "out", **changes))
    assert store.step("heads").state == "failed"
    assert "layers=[7]" in store.step("heads").note
    assert store.step("rotation").state == "done"
    mended = execute(
        config_for(models, tmp_path / "out", analyses=["heads", "mlp"], heads={"layers": [1], "top_k": 10})
    )
    assert mended.step("heads").state == mended.step("verb_shift").state == "done"


# of two layers, and of the stream where it leaves the last one
LAST_LAYERS = {"heads": 1, "mlp": 1, "value_rotation": 1, "attention": 1, "patch": 1}
LAST_LAYERS |= {"first_divergence": 2, "residual_stream": 2, "activation_difference": 2, "layer_similarity": 2}


def test_every_analysis_with_layers_is_among_those_that_are_tried():
    takers = {a.name for a in ANALYSES for field in a.options.model_fields.values() if are_layers(field)}
    assert takers == LAST_LAYERS.keys()


@pytest.mark.parametrize("analysis", LAST_LAYERS)
def test_the_last_layer_that_an_analysis_reads_may_be_asked_for(models, tmp_path, analysis):
    given = {"analyses": [analysis], analysis: {"layers": [LAST_LAYERS[analysis]]}}
    store = execute(config_for(models, tmp_path / "out", **given))
    states = {name: step.state for name, step in store.manifest.steps.items()}
    assert states == dict.fromkeys(states, "done")
    own = {step.name for found in ANALYSES if found.name == analysis for step in found.steps}
    assert own & states.keys() - {"responses", "control_validity"}


def test_texts_are_looked_at_however_deep_they_lie():
    deep: dict[str, Any] = {"leaf": ["a", "b"], "last": "c"}
    for _ in range(5_000):
        deep = {"in": deep}
    found = [*_texts({"first": "x", "table": {"one": "y"}, "deep": deep})]
    below = "deep." + "in." * 5_000
    assert found == [
        ("first", "x"),
        ("table.one", "y"),
        (f"{below}leaf", "a"),
        (f"{below}leaf", "b"),
        (f"{below}last", "c"),
    ]


def test_unusable_inputs_are_refused_before_a_model_is_loaded(models, tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "load_pair", lambda *_, **__: pytest.fail("a model was loaded"))

    def assert_refused(message: str, **changes: object) -> None:
        with pytest.raises(InputError, match=message):
            execute(config_for(models, tmp_path / "out", **changes))
        assert not (tmp_path / "out").exists()

    assert_refused("no file at", prompts=str(tmp_path / "none.jsonl"))
    assert_refused("no file at", vocabulary=str(tmp_path / "none.tsv"))
    assert_refused("no file at", texts=str(tmp_path / "none.txt"))
    assert_refused("no file of word vectors at", vectors=str(tmp_path / "none.txt"))
    assert_refused("device 'abacus' cannot be used here", device="abacus")
    assert_refused("unknown key 'colour'", colour=1)
    for analysis, last in LAST_LAYERS.items():
        given = {"analyses": [analysis], analysis: {"layers": [1, last + 1]}}
        message = rf"^{analysis}\.layers=\[1, {last + 1}\] given, expected at least one of 0 to {last}, each once$"
        assert_refused(message, **given)
        assert_refused(rf"{analysis}\.layers is \[\], expected a list that is not empty", **{analysis: {"layers": []}})
        assert_refused(rf"{analysis}\.layers is \[1, 1\], expected distinct layers", **{analysis: {"layers": [1, 1]}})
    halves: tuple[dict[str, Any], ...] = (
        {"text": "Say \ud83d"},
        *({"text": "Say", key: "\ud83d"} for key in ("response", "kind", "reference", "id")),
        *({"text": "Say", key: ["Say", "\ud83d"]} for key in ("instruction", "context")),
    )
    for entry in halves:  # where a manifest would have to hold it
        key = list(entry)[-1]
        number = repr(entry.get("id", "1")).replace("\\", r"\\")
        assert_refused(rf"the {key} of prompt {number} holds half a character", prompts=None, prompt=[entry])
    assert_refused("tuned is .* expected whole characters, it holds half a one", tuned="tuned-\ud83d")
    assert_refused("base_revision of the config holds half a character", base_revision="\ud83d")


LONG_IDS = {"x" * 241: "240 bytes of a file's name", "é" * 41: "240 bytes", "a/" * 600: "1000 bytes of a file's path"}


@pytest.mark.parametrize(("name", "message"), LONG_IDS.items(), ids=["one part", "encoded", "many parts"])
def test_an_id_that_no_file_can_have_is_refused_in_the_config_and_fails_alone_in_a_file(
    models, tmp_path, name, message
):
    entries = [{"id": name, "text": "Repeat the word: sea"}, {"id": "ok", "text": "Repeat the word: moon"}]
    with pytest.raises(InputError, match=f"^no result can be kept by the id .* of a prompt: .*{message}"):
        execute(config_for(models, tmp_path / "refused", prompts=None, prompt=entries))
    assert not (tmp_path / "refused").exists()
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(entries[0]))
    with pytest.raises(InputError, match=message):  # there is no other one
        execute(config_for(models, tmp_path / "refused", prompts=str(path)))
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    changes = {"prompts": str(path), "analyses": ["attribute", "outputs"], "controls": {"attribute": 0}}
    store = execute(config_for(models, tmp_path / "out", **changes))
    assert set(store.step("responses").failures) == {f"base/{name}", f"tuned/{name}"}
    assert message in store.step("responses").failures[f"base/{name}"]
    assert store.names("attribution/") == ["attribution/base/ok", "attribution/tuned/ok"]
    assert store.names("outputs/") == ["outputs/ok"]
    again = execute(config_for(models, tmp_path / "out", **changes))  # what failed is tried again
    assert again.names() == store.names()


def test_ids_that_look_like_files_and_folders_keep_apart(models, tmp_path):
    ids = ["a", "a.safetensors/b", "a.safetensors", "a/b", "..", "../a", ".", "a%2Esafetensors/b"]
    entries = [{"id": name, "text": f"Repeat the word: {'moon' if i % 2 else 'sea'}"} for i, name in enumerate(ids)]
    changes = {"prompts": None, "prompt": entries, "analyses": ["outputs"]}
    store = execute(config_for(models, tmp_path / "out", **changes))
    assert sorted(store.names("outputs/")) == sorted(f"outputs/{name}" for name in ids)
    for name in ids:
        assert store.load_result(f"outputs/{name}", OutputShift).prompt_id == name
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
