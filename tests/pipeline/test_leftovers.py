"""What is left of a run that was killed, or that somebody changed: made again, or refused by name, and never shown."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from lensdiff.analyses.heads.head_word_pairs import HeadWordPairs
from lensdiff.analyses.mlp.concepts import MLPConcepts
from lensdiff.pipeline.report import Report
from lensdiff.results import InputError, ResultStore
from lensdiff.results.journal import Journal
from lensdiff.steps import plan as plans
from lensdiff.steps.found import Found
from tests.pipeline.conftest import PROMPTS, Recorder
from tests.pipeline.resuming import (
    Stop,
    Watch,
    arrays,
    assert_same,
    copied,
    digests,
    files,
    matching,
    prompts_file,
    run,
    seen,
    small,
    stale,
)

pytestmark = pytest.mark.usefixtures("loaded_once")
SEA, FRUIT, _ = PROMPTS


@pytest.fixture(scope="module")
def whole(models: Path, tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    return run(small(models, tmp_path_factory.mktemp("whole") / "out"))


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


DAMAGES = {"a changed byte": change_a_byte, "a truncated file": truncate, "a missing file": lambda path: path.unlink()}


# files of finished units
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("pair", set()),
        ("responses/tuned/sea", set()),
        ("attribution/base/fruit", set()),
        ("rotation", {"control_concepts/spectrum-0"}),  # was removed, and is read again
        ("claims", set()),
    ],
)
def test_a_damaged_result_is_refused_and_made_again_alone(models, tmp_path, whole, monkeypatch, damage, name, again):
    out, watch, recorder = copied(whole, tmp_path / "out"), Watch(monkeypatch), Recorder()
    DAMAGES[damage](out / "arrays" / f"{name}.safetensors")
    if name in ("rotation", "claims"):  # what the page reads
        with pytest.raises(InputError, match=rf"{name}\.safetensors (is damaged|cannot be read)"):
            Report(out).html()
    store = run(small(models, out), recorder)
    assert set(watch.take()) == {name} | again
    assert [line for line in recorder.said if "made again" in line] == [
        f"{out / 'arrays' / name} is not as the run left it: it is made again"
    ]
    assert_same(store, whole)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_is_refused_and_written_again(models, tmp_path, whole, monkeypatch, damage):
    out, watch = copied(whole, tmp_path / "out"), Watch(monkeypatch)
    DAMAGES[damage](out / "tables/outputs.parquet")
    with pytest.raises(InputError, match=r"outputs\.parquet (is damaged|cannot be read)"):
        Report(out).html()
    store = run(small(models, out))
    assert watch.take() == []
    assert_same(store, whole)


def test_every_damaged_file_at_once(models, tmp_path, whole):
    out = copied(whole, tmp_path / "out")
    for path in [*(out / "arrays").rglob("*.safetensors"), *(out / "tables").rglob("*.parquet")]:
        change_a_byte(path)
    assert_same(run(small(models, out)), whole)


@pytest.mark.parametrize(
    ("name", "reader", "lost"),
    [
        ("responses/base/sea", "attribution/base/sea", 2),  # what a model cannot answer, no control is asked
        ("control_responses/spectrum-0/sea", "attribution/spectrum-0/sea", 1),
    ],
)
def test_a_damaged_result_that_cannot_be_had_again_takes_its_readers_along(
    models, tmp_path, whole, monkeypatch, name, reader, lost
):
    out, watch = copied(whole, tmp_path / "out"), Watch(monkeypatch)
    change_a_byte(out / f"arrays/{name}.safetensors")

    def fail(working: str) -> None:
        if working == name:
            raise InputError("too long")

    watch.before = fail
    store = run(small(models, out))
    assert not store.has(name)
    assert not store.has(reader)
    scores = store.load_table("instruction_scores")
    assert len(whole.load_table("instruction_scores")) - len(scores) == lost
    watch.before = lambda working: None
    assert_same(run(small(models, out)), whole)


def test_a_damaged_result_of_what_is_not_asked_for_goes(models, tmp_path, whole):
    out = copied(whole, tmp_path / "out")
    change_a_byte(out / "arrays/attribution/base/sea.safetensors")
    store = run(small(models, out, analyses=["weights"]))
    assert store.damaged() == []
    assert not store.has("attribution/base/sea")
    assert set(store.load_table("attribution").query("model == 'base'").prompt_id) == {"fruit"}
    assert_same(run(small(models, out)), whole)


# records
def test_a_directory_without_its_manifest_is_refused(models, tmp_path, whole):
    out = copied(whole, tmp_path / "out")
    (out / "manifest.json").unlink()
    before = files(out)
    message = r"out holds arrays but no manifest\.json that says what they are: choose another directory"
    with pytest.raises(InputError, match=message):
        run(small(models, out))
    with pytest.raises(InputError, match=r"is no results directory of lensdiff: it has no manifest\.json"):
        Report(out)
    assert files(out) == before
    assert not (out / "manifest.json").exists()


def test_a_directory_of_another_schema_is_refused(models, tmp_path, whole):
    out = copied(whole, tmp_path / "out")
    stored = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(stored | {"schema_version": 1}))
    with pytest.raises(InputError, match="out holds results of schema 1, this version reads 2"):
        run(small(models, out))
    with pytest.raises(InputError, match="out holds results of schema 1, this version reads 2"):
        Report(out).html()


def half_done(models: Path, out: Path, event: str) -> None:
    """A directory whose run was killed: what happened is in its journal alone."""

    def stop(told: str) -> None:
        if told == event:
            raise Stop

    with pytest.raises(Stop):
        run(small(models, out), Recorder(stop))
    assert (out / "journal.jsonl").is_file()


HALF = "outputs: prompt 'sea'"


def test_the_journal_of_a_killed_run_is_believed(models, tmp_path, whole, monkeypatch):
    half_done(models, tmp_path / "out", HALF)
    now, watch = ResultStore(tmp_path / "out"), Watch(monkeypatch)
    assert now.has("outputs/sea")
    assert {name: digest for name, digest in seen(now).items() if whole.has(name)}.items() <= seen(whole).items()
    store = run(small(models, tmp_path / "out"))
    assert set(watch.take()) == digests(whole).keys() - digests(now).keys()
    assert_same(store, whole)


def test_the_journal_of_a_killed_run_without_its_last_line(models, tmp_path, whole, monkeypatch):
    half_done(models, tmp_path / "out", HALF)
    journal = tmp_path / "out/journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-40])
    now, watch = ResultStore(tmp_path / "out"), Watch(monkeypatch)
    assert not now.has("outputs/sea")
    assert (tmp_path / "out/arrays/outputs/sea.safetensors").exists()
    store = run(small(models, tmp_path / "out"))
    assert set(watch.take()) == digests(whole).keys() - digests(now).keys()
    assert_same(store, whole)


def test_a_lost_journal_loses_what_it_says(models, tmp_path, whole, monkeypatch):
    half_done(models, tmp_path / "out", HALF)
    (tmp_path / "out/journal.jsonl").unlink()
    watch = Watch(monkeypatch)
    now = seen(ResultStore(tmp_path / "out"))
    assert set(now) == {"pair"}
    assert_same(run(small(models, tmp_path / "out")), whole)
    assert set(watch.take()) == digests(whole).keys() - {"pair"}


def test_the_journal_of_another_run_is_not_believed_of_other_files(models, tmp_path, whole):
    """A directory put together of two: what the journal says was written is not what lies there."""
    half_done(models, tmp_path / "other", HALF)
    out = copied(run(small(models, tmp_path / "seed", seed=1)), tmp_path / "out")
    shutil.copy(tmp_path / "other/journal.jsonl", out / "journal.jsonl")
    assert_same(run(small(models, out)), whole)


# what a killed run wrote of something else
def test_a_killed_runs_response_of_another_list_of_prompts(models, tmp_path):
    paths = [prompts_file(tmp_path / f"{p['id']}.jsonl", p) for p in (SEA, FRUIT)]
    changes = {"analyses": ["outputs"], "max_prompts": None}

    def stop(event: str) -> None:
        if event.startswith("responses: tuned"):
            raise Stop

    with pytest.raises(Stop):
        run(small(models, tmp_path / "out", prompts=paths[0], **changes), Recorder(stop))
    assert ResultStore(tmp_path / "out").has("responses/tuned/sea")
    # and one that was written and not recorded
    (tmp_path / "out/arrays/outputs").mkdir()
    shutil.copy(
        tmp_path / "out/arrays/responses/tuned/sea.safetensors", tmp_path / "out/arrays/outputs/sea.safetensors"
    )
    store = run(small(models, tmp_path / "out", prompts=paths[1], **changes))
    assert set(store.load_table("responses").prompt_id) == set(store.load_table("outputs").prompt_id) == {"fruit"}
    assert_same(store, run(small(models, tmp_path / "fresh", prompts=paths[1], **changes)))


def test_a_file_of_a_failed_unit(models, tmp_path, whole, monkeypatch):
    out, watch = copied(whole, tmp_path / "out"), Watch(monkeypatch)
    name = "attribution/base/sea"

    def fail(working: str) -> None:
        if working == name:
            raise InputError("too long")

    watch.before = fail
    config = small(models, out, attribute={"target": "logit"})
    store = run(config)
    path = out / f"arrays/{name}.safetensors"
    assert not path.exists()
    assert store.step("attribution").failures == {"base/sea": "too long"}
    shutil.copy(whole.root / f"arrays/{name}.safetensors", path)  # of the unit before it failed
    now = ResultStore(out)
    assert not now.has(name)
    assert set(now.load_table("attribution").query("model == 'base'").prompt_id) == {"fruit"}
    run(config)
    assert not path.exists()
    watch.before = lambda working: None
    fresh = run(small(models, tmp_path / "fresh", attribute={"target": "logit"}))
    assert_same(run(config), fresh)


@pytest.mark.parametrize("when", ["first", "middle", "last"])
@pytest.mark.parametrize("back", [True, False])
def test_killed_while_old_results_are_cleared(models, tmp_path, whole, monkeypatch, when, back):
    """The next run, with the old config or the new one, takes nothing for there that went."""
    out, changes = copied(whole, tmp_path / "out"), {"max_new_tokens": 2, "seed": 1}
    add, removed = Journal.add, [0]
    total = len(removals(models, tmp_path / "counted", whole, changes))
    at = {"first": 1, "middle": total // 2, "last": total}[when]

    def stop(self: Journal, **event: object) -> None:
        add(self, **event)  # recorded, and the file is still there
        removed[0] += event.get("checksum", "") is None
        if removed[0] == at:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", stop)
        with pytest.raises(Stop):
            run(small(models, out, **changes))
    now = ResultStore(out)
    assert not seen(now).keys() & (
        stale(small(models, out, **changes), whole) | {f"tables/{t}" for t in whole.table_names()}
    )
    assert now.damaged() == []
    if back:
        assert_same(run(small(models, out)), whole)
    else:
        assert_same(run(small(models, out, **changes)), run(small(models, tmp_path / "fresh", **changes)))


def removals(models: Path, out: Path, whole: ResultStore, changes: dict) -> list[str]:
    """The files that go before a changed run begins."""
    found: list[str] = []
    add = Journal.add

    def count(self: Journal, **event: object) -> None:
        if event.get("checksum", "") is None:
            found.append(str(event["file"]))
        add(self, **event)

    def stop(event: str) -> None:
        raise Stop

    copied(whole, out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "add", count)
        with pytest.raises(Stop):
            run(small(models, out, **changes), Recorder(stop))
    assert len(found) > 20
    return found


def test_killed_while_what_is_damaged_is_forgotten(models, tmp_path, whole, monkeypatch):
    out = copied(whole, tmp_path / "out")
    for name in ("outputs/sea", "concepts/base/0,1"):
        change_a_byte(out / f"arrays/{name}.safetensors")
    add = Journal.add

    def stop(self: Journal, **event: object) -> None:
        add(self, **event)
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", stop)
        with pytest.raises(Stop):
            run(small(models, out))
    assert_same(run(small(models, out)), whole)


def test_a_table_that_a_killed_run_left(models, tmp_path, whole):
    """Written at the run's end, and not yet known to be of its results: another config does not take it over."""
    out = copied(whole, tmp_path / "out")
    with ResultStore(out).writing() as store:
        tables = dict(store.manifest.tables)
        del tables["outputs"]
        store.update(tables=tables, ended=False)
        store.save_table("outputs", pd.DataFrame({"prompt_id": ["old"]}))

    def look(event: str) -> None:
        assert not ResultStore(out).has_table("outputs")

    recorder = Recorder(look)
    store = run(small(models, out, seed=1), recorder)
    assert recorder.units()
    assert "old" not in set(store.load_table("outputs").prompt_id)


# what only readers need
def test_what_only_readers_need_is_gone_in_the_end(whole):
    found = files(whole.root)
    for step in (
        *("control_attention", "control_concepts", "value_rotation_pair"),
        *("instruction_use_pair", "knock_out_pair", "dose_pair", "first_divergence_pair"),
        *("layer_similarity_pair", "directions_pair"),
        *("activation_difference_pair", "activation_difference_control"),
    ):
        assert whole.step(step).done
        assert not [name for name in found if name.startswith(f"arrays/{step}")]
    assert whole.step("heads").units["spectrum-0/0,1"].kept == "nothing"
    assert whole.names("heads") == ["heads/base/0,1", "heads/tuned/0,1"]


def test_what_was_removed_is_made_for_those_alone_that_read_it(models, tmp_path, whole, monkeypatch):
    out, watch = copied(whole, tmp_path / "out"), Watch(monkeypatch)
    config = small(models, out, heads={"layers_per_group": 2})
    there: dict[str, set[str]] = {}
    watch.before = lambda name: there.setdefault(name, {n for n in files(out) if "spectrum" in n and "/heads/" in n})
    store = run(config)
    assert watch.take() == [*(f"heads/spectrum-{i}/0,1" for i in range(3)), "verb_shift", "claims"]
    assert there["verb_shift"] == {f"arrays/heads/spectrum-{i}/0,1.safetensors" for i in range(3)}
    assert there["claims"] == set()  # nobody is left that reads them
    assert_same(store, run(small(models, tmp_path / "fresh", heads={"layers_per_group": 2})))


def test_killed_before_what_was_made_again_is_removed_again(models, tmp_path, whole, monkeypatch):
    out, watch = copied(whole, tmp_path / "out"), Watch(monkeypatch)
    config = small(models, out, heads={"layers_per_group": 2})

    def stop(name: str) -> None:
        if name == "verb_shift":
            raise Stop

    watch.before = stop
    with pytest.raises(Stop):
        run(config)
    assert watch.take() == [*(f"heads/spectrum-{i}/0,1" for i in range(3)), "verb_shift"]
    watch.before = lambda name: None
    store = run(config)
    assert watch.take() == ["verb_shift", "claims"]
    assert_same(store, run(small(models, tmp_path / "fresh", heads={"layers_per_group": 2})))


# results in groups of layers
@pytest.fixture
def layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "LAYERS_AT_ONCE", 1)


def test_a_group_of_layers_that_is_not_done_is_not_left_out_in_silence(models, tmp_path, whole, layer_by_layer):
    def stop(event: str) -> None:
        if event == "word pairs of heads: tuned, layers 0":
            raise Stop

    config = small(models, tmp_path / "out", analyses=["heads"])
    with pytest.raises(Stop):
        run(config, Recorder(stop))
    now = ResultStore(tmp_path / "out")
    assert now.load_result("heads/base", HeadWordPairs).layers == (0, 1)
    with pytest.raises(InputError, match="has the result 'heads/tuned' without layers 1"):
        now.load_result("heads/tuned", HeadWordPairs)
    found = Found(now)
    assert found.models("heads") == ["base"]
    with pytest.raises(InputError, match="there is no result 'heads/tuned/1': it was not done"):
        found.of_model("heads", HeadWordPairs, "tuned")
    store = run(config)
    names = ["verb_shift", "heads", "pair_overlap"]
    for name in names:
        pd.testing.assert_frame_equal(store.load_table(name), whole.load_table(name))


def test_layers_that_are_asked_for_otherwise(models, tmp_path, layer_by_layer, monkeypatch):
    """The order of layers is that of the last run, whatever the files are called."""
    config, watch = small(models, tmp_path / "out", analyses=["mlp"]), Watch(monkeypatch)
    run(config)
    watch.take()
    store = run(small(models, tmp_path / "out", analyses=["mlp"], mlp={"layers": [1, 0]}))
    expected = {"coherence", "control_concepts", "rotation"}
    assert set(watch.take()) == matching(digests(store), expected)  # each layer's concepts are as they were
    assert store.load_result("concepts/base", MLPConcepts).layers == (1, 0)
    assert_same(store, run(small(models, tmp_path / "fresh", analyses=["mlp"], mlp={"layers": [1, 0]})))
    one = run(small(models, tmp_path / "out", analyses=["mlp"], mlp={"layers": [1]}))
    assert one.load_result("concepts/base", MLPConcepts).layers == (1,)
    assert not [name for name in arrays(tmp_path / "out") if "concepts/base/0" in name]
