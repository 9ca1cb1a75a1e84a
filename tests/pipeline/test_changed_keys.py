"""A changed key recomputes exactly what depends on it: every key of a config, and what is worked on then."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensdiff.pipeline.config import ASKED, COUNTED, TABLES, ControlOptions, RunConfig
from lensdiff.results import ResultStore
from tests.pipeline.conftest import PROMPTS, WORDS
from tests.pipeline.resuming import (
    CONTROLS,
    SMALL,
    Watch,
    arrays,
    assert_same,
    copied,
    digests,
    matching,
    run,
    small,
    stale,
)

pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture(scope="module")
def whole(models: Path, tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    folder = tmp_path_factory.mktemp("whole")
    vectors = np.random.default_rng(0).normal(size=(len(WORDS), 5))
    lines = (f"{word} {' '.join(f'{x:.4f}' for x in row)}\n" for word, row in zip(WORDS, vectors, strict=True))
    (models / "glove.txt").write_text("".join(lines))
    (models / "texts.txt").write_text("The moon is far.\nList a word.\nAnother sea of words.\n")
    (models / "fewer.tsv").write_text("".join(f"{word}\t1\n" for word in WORDS[1:]))
    return run(small(models, folder / "out"))


PAIR, ONES = ("instruction_use_pair", "instruction_use_deletion_pair"), ("instruction_use", "instruction_use_deletion")
OF_CONTROLS = ("instruction_use_control", "instruction_use_deletion_control", "knock_out_control")
USE = {*PAIR, *OF_CONTROLS[:2], *ONES, "claims"}
CUT = {"knock_out_pair", "knock_out_control", "knock_out", "claims"}
DOSE = {"dose_pair", "dose_control", "dose", "claims"}
PARTED = {"first_divergence_pair", "first_divergence_control", "first_divergence"}
HEADS = {"heads", "verb_shift", "pair_overlap", "claims"}
CONCEPTS = {"concepts", "coherence", "control_concepts", "rotation"}
ATTENTION = {"attention", "control_attention", "attention_shift"}
BESIDE_CONTROLS = {*ONES, "attention_shift", "verb_shift", "pair_overlap", "rotation", "value_rotation", "claims"}
BESIDE_CONTROLS |= {"knock_out", "dose", "first_divergence"}
OF_ANY_CONTROL = {
    f"{name}:controls" for name in ("control_validity", *OF_CONTROLS, "control_responses", "attribution", "heads")
}
OF_ANY_CONTROL |= {
    f"{name}:controls" for name in ("control_attention", "control_concepts", "value_rotation_control", "dose_control")
}
OF_ANY_CONTROL |= {"first_divergence_control:controls"}
STREAMS = ("logit_lens_shift", "direct_logit_attribution")
STREAM = {"logit_lens", "control_logit_lens", "logit_parts", *STREAMS}
STREAM_PAIR = {"logit_parts:base", "logit_parts:tuned"}
BESIDE_CONTROLS |= {*STREAMS}
OF_ANY_CONTROL |= {f"{name}:controls" for name in ("control_logit_lens", "logit_parts")}
SIMILAR = {"layer_similarity_pair", "layer_similarity_control", "layer_similarity"}
BESIDE_CONTROLS |= {"layer_similarity"}
OF_ANY_CONTROL |= {"layer_similarity_control:controls"}
DIRECTED = {"directions_pair", "directions_control", "directions"}
BESIDE_CONTROLS |= {"directions"}
OF_ANY_CONTROL |= {"directions_control:controls"}
PATCH, SET = {"patch_prompt", "patch_control", "patch"}, {"patch_set_pair", "patch_set_control", "patch_set", "claims"}
HEADS |= SET
BESIDE_CONTROLS |= {"patch", "patch_set"}
OF_ANY_CONTROL |= {f"{name}:controls" for name in ("patch_control", "patch_set_control")}
MAPS = {"attribution", "deletion_curves", "claims"}
ADDED = {f"activation_difference{part}" for part in ("_pair", "_control", "", "_effects")}
BESIDE_CONTROLS |= {"activation_difference", "activation_difference_effects"}
OF_ANY_CONTROL |= {"activation_difference_control:controls"}
# what a changed key does: the units that are known by it, and those that are made again because they are read and were
# removed when their readers were done
KEYS: dict[str, tuple[Any, set[str], set[str]]] = {
    "keep": ("both", set(), set()),  # what "auto" chose
    "stream": (False, set(), set()),  # the same numbers come of both; so does test_streaming
    "workers": (3, set(), set()),
    "engine": ("ray", set(), set()),
    "ray": ({"actors": 2, "gpus_per_actor": 0.5}, set(), set()),
    "seed": (
        1,
        OF_ANY_CONTROL
        | BESIDE_CONTROLS
        | {*PAIR, *PARTED, "knock_out_pair", "directions_pair", "coherence", "patch_prompt", "patch_set_pair"}
        | {"deletion_curves"},
        {"value_rotation_pair", "dose_pair", "layer_similarity_pair", "activation_difference_pair", *STREAM_PAIR},
    ),
    "max_new_tokens": (
        2,
        {"responses", "control_responses", "attribution", "deletion_curves", "outputs"}
        | ATTENTION
        | USE
        | CUT
        | DOSE
        | STREAM
        | SIMILAR
        | DIRECTED
        | PATCH
        | SET,
        set(),
    ),
    "max_prompts": (
        3,
        {f"{name}:a/b .." for name in ("responses", "control_responses", "attribution", "attention", "logit_lens")}
        | {"outputs/a/b ..", "control_attention", "attention_shift", "control_logit_lens", "logit_parts", *STREAMS}
        | {"patch_control", "patch", "deletion_curves"}
        | USE
        | CUT
        | DOSE
        | PARTED
        | SIMILAR
        | DIRECTED
        | SET,
        {"patch_prompt"},
    ),
    "prompt": (PROMPTS, set(), set()),  # the same, in the config
    "vocabulary": ("fewer.tsv", HEADS | CONCEPTS | {"ov_reading"}, set()),
    "vectors": ("glove.txt", HEADS | {"coherence"}, set()),
    "texts": ("texts.txt", ADDED, set()),
    "attribute.target": ("logit", MAPS, set()),
    "attribute.method": ("forward", MAPS, set()),
    "attribute.deletion_draws": (2, {"attribution", "claims"}, set()),
    "attribute.curve_prompts": (1, {"deletion_curves"}, set()),
    "attribute.curve_draws": (3, {"deletion_curves"}, set()),
    "attribute.curve_tokens": (2, {"deletion_curves"}, set()),
    "attribute.retokenise": (True, {"attribution", "claims"}, set()),
    "residual_stream.layers": ([1], STREAM, set()),
    "residual_stream.max_tokens": (2, STREAM, set()),
    "layer_similarity.layers": ([1], SIMILAR, set()),
    "layer_similarity.max_tokens": (2, SIMILAR, set()),
    "directions.folds": (2, DIRECTED, set()),
    "directions.permutations": (19, DIRECTED, set()),
    "directions.layer": (0, DIRECTED, set()),
    "directions.draws": (1, DIRECTED, set()),
    "directions.max_tokens": (2, DIRECTED, set()),
    "activation_difference.layers": ([1], ADDED, set()),
    "activation_difference.positions": (3, ADDED, set()),
    "activation_difference.max_texts": (9, ADDED, set()),
    "activation_difference.layer": (0, {"activation_difference_effects"}, set()),
    "activation_difference.position": (0, {"activation_difference_effects"}, set()),
    "activation_difference.effect_texts": (2, {"activation_difference_effects"}, set()),
    "activation_difference.draws": (2, {"activation_difference_effects"}, set()),
    "attention.layers": ([1], ATTENTION, set()),
    "attention.sink": ("counted", ATTENTION, set()),
    "attention.keep_patterns": (1, set(), set()),
    "heads.layers": ([1], HEADS | {"ov_reading"}, set()),
    "heads.top_k": (5, HEADS, set()),
    "heads.threshold_words": (7, HEADS, set()),
    "heads.threshold_std": (1.5, HEADS, set()),
    "heads.layers_per_group": (2, {"verb_shift", "claims"}, {"heads:controls"}),
    "heads.table_top": (1, set(), set()),
    "patch.layers": ([1], PATCH, set()),
    "patch.max_prompts": (1, {"patch_control", "patch"} | SET, {"patch_prompt"}),
    "patch.max_tokens": (2, PATCH | SET, set()),
    "patch.method": ("estimate", PATCH, set()),
    "patch.rerun": (2, PATCH, set()),
    "patch.set_size": (1, SET, set()),
    "attribute.path": ("integrated", MAPS, set()),
    "attribute.baseline": ("zero", MAPS, set()),
    "attribute.nodes": (3, MAPS, set()),
    "instruction_use.texts": (["tuned"], USE, set()),
    "instruction_use.draws": (2, USE, set()),
    "instruction_use.max_tokens": (2, USE, set()),
    "knock_out.draws": (2, CUT, set()),
    "knock_out.max_tokens": (2, CUT, set()),
    "dose.amounts": ([2.0], DOSE, set()),
    "dose.parts": (["head 0.1"], DOSE, set()),
    "dose.part_amounts": ([0.5], DOSE, set()),
    "dose.max_tokens": (2, DOSE, set()),
    "first_divergence.layers": ([1], PARTED, set()),
    "first_divergence.max_tokens": (2, PARTED, set()),
    "first_divergence.unembed": ("tuned", PARTED, set()),
    "first_divergence.draws": (1, PARTED, set()),
    "mlp.layers": ([1], CONCEPTS, set()),
    "mlp.sides": (["key"], CONCEPTS, set()),
    "mlp.n_components": (3, CONCEPTS, set()),
    "mlp.top_words": (2, CONCEPTS, set()),
    "mlp.fold_gain": (False, CONCEPTS, set()),
    "mlp.ranks": ([1], {"rotation"}, {"control_concepts"}),
    "value_rotation.layers": (
        [1],
        {"value_rotation_pair", "value_rotation_control", "value_rotation", "claims"},
        set(),
    ),
    "controls.kinds": (
        ["norm"],
        OF_ANY_CONTROL | BESIDE_CONTROLS,
        {
            *PAIR,
            *("knock_out_pair", "value_rotation_pair", "dose_pair", "first_divergence_pair"),
            *("patch_prompt", "patch_set_pair", "layer_similarity_pair", "directions_pair"),
            "activation_difference_pair",
            *STREAM_PAIR,
        },
    ),
    "controls.instruction_use": (
        2,
        {f"{name}:spectrum-1" for name in OF_CONTROLS[:2]} | {*ONES, "claims"},
        {*PAIR, *(f"{name}:spectrum-0" for name in OF_CONTROLS[:2])},
    ),
    "controls.knock_out": (
        2,
        {"knock_out_control:spectrum-1", "knock_out", "claims"},
        {"knock_out_pair", "knock_out_control:spectrum-0"},
    ),
    "controls.dose": (2, {"dose_control:spectrum-1", "dose", "claims"}, {"dose_pair", "dose_control:spectrum-0"}),
    "controls.first_divergence": (
        2,
        {"first_divergence_control:spectrum-1", "first_divergence"},
        {"first_divergence_pair", "first_divergence_control:spectrum-0"},
    ),
    "controls.attribute": (2, {"control_responses:spectrum-1", "attribution:spectrum-1"}, set()),
    "controls.residual_stream": (
        2,
        {"control_logit_lens:spectrum-1", "logit_parts:spectrum-1", *STREAMS},
        {"control_logit_lens:spectrum-0", "logit_parts:spectrum-0", *STREAM_PAIR},
    ),
    "controls.layer_similarity": (
        2,
        {"layer_similarity_control:spectrum-1", "layer_similarity"},
        {"layer_similarity_pair", "layer_similarity_control:spectrum-0"},
    ),
    "controls.directions": (
        2,
        {"directions_control:spectrum-1", "directions"},
        {"directions_pair", "directions_control:spectrum-0"},
    ),
    "controls.activation_difference": (
        2,
        {"activation_difference_control:spectrum-1", "activation_difference", "activation_difference_effects"},
        {"activation_difference_pair", "activation_difference_control:spectrum-0"},
    ),
    "controls.attention": (
        2,
        {"control_attention:spectrum-1", "attention_shift"},
        {"control_attention:spectrum-0"},
    ),
    # the fourth is not run on text: three of a kind are, where weights alone are read
    "controls.heads": (
        4,
        {"heads:spectrum-3", "verb_shift", "pair_overlap", "claims"},
        {f"heads:spectrum-{i}" for i in range(3)},
    ),
    "controls.patch": (
        2,
        {"patch_control:spectrum-1", "patch_set_control:spectrum-1", "patch", "patch_set", "claims"},
        {"patch_control:spectrum-0", "patch_set_control:spectrum-0", "patch_prompt", "patch_set_pair"},
    ),
    "controls.mlp": (2, {"control_concepts:spectrum-1", "rotation"}, {"control_concepts:spectrum-0"}),
    "controls.value_rotation": (
        2,
        {"value_rotation_control:spectrum-1", "value_rotation", "claims"},
        {"value_rotation_pair", "value_rotation_control:spectrum-0"},
    ),
}
# what a user is warned of: a control's integrated gradients have too few nodes
WARNS = {"attribute.path": "the integrated gradients of prompt 'sea' add up to"}
EVERYTHING = {"device": "cpu:0", "dtype": "float64", "weights": "folded", "wrapper": "bridge"}
ELSEWHERE = {  # in test_changed_inputs, test_identity, test_templates, or of no result
    *("base", "tuned", "base_revision", "tuned_revision", "prompts", "analyses", "out", "about"),
    *(f"controls.{name}" for name in ("data", "divide", "steps", "rate", "batch", "length", "rank")),
    *("templates", "template_effects.measures", "template_effects.draws", "template_effects.max_prompts"),
}


def changed(models: Path, key: str, value: Any) -> dict[str, Any]:
    """The keys of the small config that another value of one changes."""
    table, _, name = key.rpartition(".")
    if key == "prompt":
        return {"prompt": value, "prompts": None}
    if key in ("vocabulary", "vectors", "texts"):
        return {key: str(models / value)}
    if key == "mlp.n_components":
        return {"mlp": {"n_components": value, "ranks": [1, 2]}}
    return {table: {name: value}} if table else {key: value}


def test_every_key_is_in_the_table():
    keys = {name for name in RunConfig.model_fields if name != "controls"}
    keys |= {f"{analysis.name}.{key}" for analysis in TABLES for key in analysis.options.model_fields}
    keys |= {f"controls.{name}" for name in (*ControlOptions.model_fields, *(analysis.name for analysis in COUNTED))}
    assert keys == KEYS.keys() | EVERYTHING.keys() | ELSEWHERE
    assert SMALL["analyses"] == list(ASKED)


@pytest.mark.parametrize("key", KEYS)
def test_a_changed_key_repeats_what_depends_on_it(models, tmp_path, whole, monkeypatch, key):
    value, expected, again = KEYS[key]
    out = copied(whole, tmp_path / "out")
    config = small(models, out, **changed(models, key, value))
    before, watch = digests(whole), Watch(monkeypatch)
    predicted = stale(config, ResultStore(out))
    with pytest.warns(UserWarning, match=WARNS[key]) if key in WARNS else nullcontext():
        store = run(config)
    after = digests(store)
    differ = {name for name, digest in after.items() if before.get(name) != digest}
    assert differ == (matching(after, expected) if expected else set())
    assert predicted == differ
    worked = watch.take()
    assert set(worked) - differ == (matching(after, again) if again else set())
    assert set(worked) >= differ
    assert len(worked) == len(set(worked))
    run(config)
    assert watch.take() == []


@pytest.mark.parametrize("key", EVERYTHING)
def test_how_models_are_loaded_is_what_everything_depends_on(models, whole, key):
    config = small(models, whole.root, **{key: EVERYTHING[key]})
    assert stale(small(models, whole.root), whole) == set()
    assert stale(config, whole) == digests(whole).keys()


@pytest.mark.parametrize(
    "changes",
    [
        {"heads": {"table_top": 1}},
        {"attention": {"keep_patterns": 1}},
        {"heads": {"layers_per_group": 2}, "mlp": {"ranks": [1]}},
        {"controls": {"kinds": ["norm", "spectrum"], "heads": 1, "attention": 2}},
        {
            "seed": 1,
            "max_prompts": 3,
            "max_new_tokens": 2,
            "heads": {"layers": [1], "top_k": 5},
            "mlp": {"sides": ["key"], "n_components": 3},
            "attention": {"layers": [1], "keep_patterns": 0},
            "controls": CONTROLS | {"kinds": ["norm"], "attribute": 2},
            "instruction_use": {"texts": ["tuned"]},
        },
    ],
    ids=["a table", "patterns", "what was removed", "controls", "many"],
)
def test_there_and_back_is_what_a_fresh_directory_is(models, tmp_path, whole, changes):
    out = copied(whole, tmp_path / "out")
    fresh = run(small(models, tmp_path / "fresh", **changes))
    assert_same(run(small(models, out, **changes)), fresh)
    assert_same(run(small(models, out)), whole)


def test_a_changed_table_is_written_again_and_no_other(models, tmp_path, whole):
    out = copied(whole, tmp_path / "out")
    store = run(small(models, out, heads={"table_top": 1}))
    before, after = whole.manifest.tables, store.manifest.tables
    assert {name for name in after if after[name].digest != before[name].digest} == {"heads"}
    counts = [
        each.load_table("heads").groupby(["model", "layer", "head_index", "dim"]).size().max()
        for each in (whole, store)
    ]
    assert counts[0] > counts[1] == 1


def test_patterns_that_were_not_kept_are_made_again(models, tmp_path, whole, monkeypatch):
    out = copied(whole, tmp_path / "out")
    watch = Watch(monkeypatch)
    run(small(models, out, attention={"keep_patterns": 1}))
    sizes = {name: value.numel() for name, value in arrays(out).items() if name.endswith(" patterns")}
    assert [name for name, size in sizes.items() if not size] == [
        f"attention/{side}/fruit.safetensors patterns" for side in ("base", "tuned")
    ]
    assert watch.take() == []
    run(small(models, out))
    assert watch.take() == ["attention/base/fruit", "attention/tuned/fruit"]
