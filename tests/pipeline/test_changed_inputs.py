"""Prompts, models, word lists, versions and analyses that changed: what is of the old ones is made again or goes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lensdiff.analyses.annotate.annotations import Annotations
from lensdiff.analyses.annotate.steps import finish, keep
from lensdiff.pipeline import execute as executing
from lensdiff.pipeline import identity
from lensdiff.pipeline.report import Report
from lensdiff.results import InputError, Provenance, ResultStore
from lensdiff.steps.found import Found
from tests.checkpoints import save_checkpoint
from tests.pipeline.conftest import PROMPTS, WORDS, Recorder
from tests.pipeline.resuming import (
    COUNTED,
    EVERY,
    Stop,
    Watch,
    assert_same,
    copied,
    digests,
    files,
    matching,
    prompts_file,
    run,
    seen,
    small,
)

SEA, FRUIT, MOON = PROMPTS
RIVER = {"id": "river", "text": "Describe the bridge in one sentence.", "instruction": ["Describe the bridge"]}
READS_ALL = {
    "dose_pair",
    "dose_control",
    "dose",
    "instruction_use_pair",
    "instruction_use_control",
    "instruction_use",
    "control_attention",
}
READS_ALL |= {"instruction_use_deletion_pair", "instruction_use_deletion_control", "instruction_use_deletion"}
READS_ALL |= {"deletion_curves", "knock_out_pair", "knock_out_control", "knock_out", "attention_shift", "claims"}
READS_ALL |= {"first_divergence_pair", "first_divergence_control", "first_divergence"}
READS_ALL |= {"patch_prompt", "patch_control", "patch", "patch_set_pair", "patch_set_control", "patch_set"}
READS_ALL |= {"layer_similarity_pair", "layer_similarity_control", "layer_similarity"}
READS_ALL |= {"directions_pair", "directions_control", "directions"}
READS_ALL |= {"control_logit_lens", "logit_lens_shift", "logit_parts", "direct_logit_attribution"}
OF_A_PROMPT = ("responses", "control_responses", "attribution", "attention", "outputs", "logit_lens")


pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture(scope="module")
def whole(models: Path, tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    return run(small(models, tmp_path_factory.mktemp("whole") / "out"))


# prompts
@pytest.mark.parametrize(
    ("prompts", "again"),
    [
        ([SEA, RIVER], {f"{step}:river" for step in OF_A_PROMPT} | READS_ALL),
        ([RIVER | {"id": "sea"}, FRUIT], {f"{step}:sea" for step in OF_A_PROMPT} | READS_ALL),
        ([SEA, FRUIT | {"context": ["Apples"]}], {f"{step}:fruit" for step in OF_A_PROMPT} | READS_ALL),
        ([FRUIT, SEA], READS_ALL),  # in another order
    ],
    ids=["another prompt", "another text", "another part", "another order"],
)
def test_another_list_of_prompts(models, tmp_path, whole, monkeypatch, prompts, again):
    out, path = copied(whole, tmp_path / "out"), prompts_file(tmp_path / "prompts.jsonl", *prompts)
    watch = Watch(monkeypatch)
    store = run(small(models, out, prompts=path))
    assert set(watch.take()) == matching(digests(store), again)
    assert_same(store, run(small(models, tmp_path / "fresh", prompts=path)))
    assert set(store.load_table("attribution").prompt_id) == {prompt["id"] for prompt in prompts}


def test_fewer_prompts(models, tmp_path, whole):
    out = copied(whole, tmp_path / "out")
    store = run(small(models, out, max_prompts=1))
    assert_same(store, run(small(models, tmp_path / "fresh", max_prompts=1)))
    assert not [name for name in files(out) if "fruit" in name]
    assert FRUIT["text"] in Report(whole).html()
    assert FRUIT["text"] not in Report(store).html()


def test_prompts_without_ids_are_known_by_more_than_their_number(models, tmp_path):
    first, second, third = ({key: prompt[key] for key in ("text", "instruction")} for prompt in (SEA, FRUIT, RIVER))
    path, analyses = tmp_path / "prompts.jsonl", {"analyses": ["outputs"], "max_prompts": None}
    config = small(models, tmp_path / "out", prompts=prompts_file(path, first, second), **analyses)
    run(config)
    prompts_file(path, third, first, second)
    fresh = run(small(models, tmp_path / "fresh", prompts=str(path), **analyses))
    assert_same(run(config), fresh)
    assert list(fresh.load_table("responses").prompt_id) == ["1", "2", "3"] * 2


def test_an_id_that_another_prompts_number_takes_is_refused(models, tmp_path, whole):
    out = copied(whole, tmp_path / "out")
    before, bare = files(out), {"text": SEA["text"]}
    path = prompts_file(tmp_path / "prompts.jsonl", FRUIT | {"id": "2"}, bare)
    with pytest.raises(InputError, match=r"prompts\.jsonl, line 2: the id '2' was used before, expected it once"):
        run(small(models, out, prompts=path))
    own = [{"text": FRUIT["text"], "id": "2"}, bare]
    with pytest.raises(
        InputError, match="the id '2' is the number of another prompt, which has no id: give that one an id"
    ):
        run(small(models, out, prompts=None, prompt=own))
    assert files(out) == before
    assert_same(ResultStore(out), whole)


def test_a_given_response_is_what_is_read(models, tmp_path, whole, monkeypatch):
    out, own = copied(whole, tmp_path / "out"), [SEA | {"response": "the moon"}, FRUIT]
    watch = Watch(monkeypatch)
    store = run(small(models, out, prompts=None, prompt=own))
    expected = {f"{step}:sea" for step in OF_A_PROMPT} | READS_ALL
    assert set(watch.take()) == matching(digests(store), expected)
    assert set(store.load_table("responses").query("prompt_id == 'sea'").text) == {"the moon"}


# models, words, versions
@pytest.fixture
def own(models: Path, tmp_path: Path) -> Path:
    """A folder of models that a test may change."""
    return Path(shutil.copytree(models, tmp_path / "models"))


def test_other_weights_in_the_same_place(own, tmp_path, monkeypatch):
    config = small(own, tmp_path / "out", analyses=["weights", "outputs", "mlp"])
    run(config)
    save_checkpoint("llama", own / "tuned", seed=7)
    fresh = run(small(own, tmp_path / "fresh", analyses=["weights", "outputs", "mlp"]))
    watch = Watch(monkeypatch)
    store = run(config)
    kept = {"responses/base/sea", "responses/base/fruit", "concepts/base/0,1", "coherence/base"}  # of the base alone
    assert digests(store).keys() - set(watch.take()) == kept
    assert_same(store, fresh)


def test_models_of_another_size_in_the_same_place(own, tmp_path):
    config = small(own, tmp_path / "out", analyses=["weights", "heads", "value_rotation", "outputs"])
    run(config)
    before = files(tmp_path / "out")
    save_checkpoint("llama", own / "base", seed=5, num_hidden_layers=3)
    with pytest.raises(InputError, match="n_layers"):
        run(config)
    assert files(tmp_path / "out") == before  # a pair that cannot be compared changes nothing
    save_checkpoint("llama", own / "tuned", seed=6, num_hidden_layers=3)
    store = run(config)
    assert store.manifest.pair["base"]["n_layers"] == store.manifest.pair["tuned"]["n_layers"] == 3
    assert store.names("heads/base") == ["heads/base/0,1,2"]
    fresh = small(own, tmp_path / "fresh", analyses=["weights", "heads", "value_rotation", "outputs"])
    assert_same(store, run(fresh))


def test_a_word_list_that_was_edited_in_the_middle(own, tmp_path, monkeypatch):
    config = small(own, tmp_path / "out", analyses=["heads", "weights"], vocabulary=str(own / "long.tsv"))
    comments = [f"# {i:075}\n" for i in range(70_000)]  # 5.5 MB
    for name, word in (("long.tsv", WORDS[5]), ("edited.tsv", WORDS[6])):
        (own / name).write_text("".join([*(f"{w}\t1\n" for w in WORDS[8:]), *comments, f"{word}\t1\n", *comments]))
    run(config)
    (own / "edited.tsv").replace(own / "long.tsv")
    assert (own / "long.tsv").stat().st_size > 5e6
    watch = Watch(monkeypatch)
    store = run(config)
    assert set(watch.take()) == matching(
        digests(store), {"heads", "verb_shift", "pair_overlap", "ov_reading", "claims"}
    )
    assert_same(store, run(config | {"out": str(tmp_path / "fresh")}))


def as_of(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    versions = {"python": "3", "torch": version}
    for module in (identity, executing):
        monkeypatch.setattr(module, "package_versions", lambda: versions)


def test_other_versions_make_everything_anew(models, tmp_path, whole, monkeypatch):
    out, watch = copied(whole, tmp_path / "out"), Watch(monkeypatch)
    as_of(monkeypatch, "99")
    store = run(small(models, out))
    assert set(watch.take()) == digests(store).keys()
    assert store.manifest.versions == {"python": "3", "torch": "99"}
    assert_same(store, run(small(models, tmp_path / "fresh")))


def test_versions_that_changed_between_two_halves(models, tmp_path, monkeypatch):
    config, watch = small(models, tmp_path / "out", analyses=["outputs", "mlp"]), Watch(monkeypatch)

    def stop(event: str) -> None:
        if event == "concepts: base, layers 0,1":
            raise Stop

    as_of(monkeypatch, "1")
    with pytest.raises(Stop):
        run(config, Recorder(stop))
    half = watch.take()
    assert {"outputs/fruit", "concepts/base/0,1"} <= set(half)
    assert "concepts/tuned/0,1" not in half
    as_of(monkeypatch, "2")
    store = run(config)
    assert set(watch.take()) == digests(store).keys()
    assert store.manifest.versions["torch"] == "2"
    assert_same(store, run(config | {"out": str(tmp_path / "fresh")}))


# what is seen while a changed run is under way
@pytest.mark.parametrize("what", ["a prompt's text", "a key", "versions"])
def test_nothing_of_before_is_seen_while_a_run_goes_on(models, tmp_path, whole, monkeypatch, what):
    out, changes = copied(whole, tmp_path / "out"), {}
    if what == "a prompt's text":
        changes = {"prompts": prompts_file(tmp_path / "prompts.jsonl", RIVER | {"id": "sea"}, FRUIT)}
    elif what == "a key":
        changes = {"seed": 1}
    else:
        as_of(monkeypatch, "99")
    fresh = seen(run(small(models, tmp_path / "fresh", **changes)))
    told: list[int] = []

    def look(event: str) -> None:
        now = ResultStore(out)
        reduced = {name for name in seen(now) if name not in fresh}
        assert {name: digest for name, digest in seen(now).items() if name in fresh}.items() <= fresh.items()
        assert all(now.step(name.partition("/")[0]).wanted for name in reduced)
        told.append(len(seen(now)))

    store = run(small(models, out, **changes), Recorder(look))
    assert told[0] < told[-1]
    assert seen(store) == fresh
    if what == "a prompt's text":
        assert RIVER["text"] in Report(store).html()
        assert SEA["text"] not in Report(store).html()


# how many models are held
def test_both_models_where_one_was_held(models, tmp_path, monkeypatch):
    none = dict.fromkeys(COUNTED, 0)
    analyses = {"analyses": ["weights", "heads", "value_rotation"]}
    config = small(models, tmp_path / "out", **analyses)
    store = run(config | {"keep": "one", "controls": {"kinds": ["spectrum"], **none}})
    assert store.step("weights").note == "weights needs both models in memory, and one at a time is held"
    assert not store.has("weights")
    assert not store.has_table("weights")
    assert "controls, meaningless changes" not in Report(store).html()
    watch = Watch(monkeypatch)
    both = run(config | {"keep": "both"})
    of_both = {
        "control_validity",
        "weights",
        "value_rotation_pair",
        "value_rotation_control",
        "value_rotation",
        "claims",
    }
    expected = of_both | {"heads:controls", "verb_shift", "pair_overlap"}
    assert set(watch.take()) == matching(digests(both), expected)
    assert both.has_table("weights")
    page = Report(both).html()
    for made in ("1 spectrum for rotation", "3 spectrum for heads"):
        assert made in page
    assert set(both.load_table("value_rotation").kind) == {"spectrum"}
    assert_same(both, run(small(models, tmp_path / "fresh", keep="both", **analyses)))


def test_a_pair_in_the_place_of_another_is_held_as_itself_allows(own, tmp_path, monkeypatch):
    config = small(own, tmp_path / "out", analyses=["weights"], keep="auto")
    run(config | {"keep": "one", "controls": dict.fromkeys(small(own, tmp_path)["controls"].keys() - {"kinds"}, 0)})
    assert run(config).step("weights").state == "skipped"  # as it began
    save_checkpoint("llama", own / "tuned", seed=7)
    assert run(config).step("weights").state == "done"


# analyses that are not chosen now
def test_what_is_not_asked_for_now_stays_as_long_as_it_holds(models, tmp_path, whole, monkeypatch):
    out, watch = copied(whole, tmp_path / "out"), Watch(monkeypatch)
    before = seen(whole)
    store = run(small(models, out, analyses=["weights"]))
    assert watch.take() == ["claims"]  # of what was asked for: of nothing
    of_claims = {"claims", "tables/claims", "tables/claim_controls"}
    assert {name: digest for name, digest in seen(store).items() if name not in of_claims}.items() <= before.items()
    assert before.keys() - seen(store).keys() <= of_claims
    assert_same(run(small(models, out)), whole)
    assert watch.take() == ["claims"]


def test_what_is_not_asked_for_now_goes_with_what_it_rests_on(models, tmp_path, whole, monkeypatch):
    out, watch = copied(whole, tmp_path / "out"), Watch(monkeypatch)
    store = run(small(models, out, analyses=["weights"], max_new_tokens=2))
    assert watch.take() == ["claims"]
    gone = {name.partition("/")[0] for name in seen(whole)} - {name.partition("/")[0] for name in seen(store)}
    assert gone == {"responses", "control_responses", "attribution", "outputs", "attention", "attention_shift"} | {
        "deletion_curves",
        "instruction_use",
        "instruction_use_deletion",
        *("knock_out", "dose", "patch", "patch_set", "logit_lens", "logit_lens_shift", "direct_logit_attribution"),
        *("layer_similarity", "directions"),
    }
    assert not store.has_table("attribution")
    assert not store.has_table("responses")
    assert store.has_table("heads")
    assert not [name for name in files(out) if "sea" in name]
    assert "attribution" not in Found(store).store.manifest.steps
    assert_same(run(small(models, out)), whole)


def test_a_shared_step_keeps_what_another_analysis_made_with_it(models, tmp_path, whole, monkeypatch):
    out, watch = copied(whole, tmp_path / "out"), Watch(monkeypatch)
    run(small(models, out, analyses=["outputs"]))  # asks for both models' responses, and for no control's
    watch.take()
    assert_same(run(small(models, out, analyses=EVERY)), whole)
    assert watch.take() == ["claims"]


def test_a_table_changes_with_a_key_of_its_own_whatever_is_asked_for(models, tmp_path, whole):
    out = copied(whole, tmp_path / "out")
    store = run(small(models, out, analyses=["weights"], heads={"table_top": 1}))
    assert len(store.load_table("heads")) < len(whole.load_table("heads"))


def annotate_concepts(out: Path) -> None:
    """Keep annotations as `lensdiff annotate` does: of two components and seeds, none explained in the base."""
    nothing = ("",) * 4
    with ResultStore(out).writing() as store:
        for status, side in ((1, "base"), (0, "tuned")):
            origin = Provenance("annotate", side, options={"annotator": "m", "temperature": 1.0})
            shape = (1, 1, 2, 2)
            found = Annotations(
                *(origin, (0,), ("value",), (0, 1), ("coding",), ("semantics",), {}),
                torch.full(shape, status, dtype=torch.int8),
                torch.full((*shape, 1), status == 0),
                torch.full(shape, -status, dtype=torch.int8),
                *(nothing, nothing),
            )
            keep(store, side, found)
        finish(store)
        for name in ("annotations", "annotation_shift", "annotation_groups"):
            store.publish(name)


def test_annotations_go_with_the_concepts_that_they_are_of(models, tmp_path, whole):
    out = copied(whole, tmp_path / "out")
    annotate_concepts(out)
    tables = {"annotations", "annotation_shift", "annotation_groups"}
    store = run(small(models, out, heads={"top_k": 5}))
    assert tables <= set(store.table_names())
    assert store.names("annotation") == ["annotation_shift", "annotations/base", "annotations/tuned"]
    store = run(small(models, out, mlp={"top_words": 2}))
    assert not tables & set(store.table_names())
    assert store.names("annotation") == []
    assert not (out / "annotations.parquet").exists()
    assert_same(store, run(small(models, tmp_path / "fresh", mlp={"top_words": 2})))


def test_the_manifest_says_what_the_last_run_was_asked(models, tmp_path, whole):
    out = copied(whole, tmp_path / "out")
    store = run(small(models, out, seed=1))
    stored: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    assert (stored["config"]["seed"], store.manifest.config["seed"]) == (1, 1)
    assert stored["ended"] is True
