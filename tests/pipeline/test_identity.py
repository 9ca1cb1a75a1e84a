"""What results are known by: the content of what they depend on, and of nothing else."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.models import load_model, view_of
from lensdiff.models.identity import digest_of
from lensdiff.models.loading import commits
from lensdiff.models.text import Response, generate
from lensdiff.pipeline.config import RunConfig
from lensdiff.pipeline.execute import execute
from lensdiff.pipeline.identity import Identities
from lensdiff.pipeline.material import Material
from lensdiff.pipeline.plans import plan_of
from lensdiff.pipeline.toml import check_config
from lensdiff.results import ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.responses import SaidResponse
from lensdiff.steps.unit import Unit
from tests.checkpoints import save_checkpoint
from tests.pipeline.conftest import config_for
from tests.pipeline.resuming import COUNTS, digests, run, small, stale

SIDES = ("base", "tuned")


# two folders of one name
@pytest.fixture(scope="module")
def config(models: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    root = tmp_path_factory.mktemp("named")
    for side in SIDES:
        shutil.copytree(models / side, root / side / "hf")
    sides = {side: str(root / side / "hf") for side in SIDES}
    only = {"analyses": ["attribute", "outputs"], "controls": {"attribute": 1}}
    return check_config(config_for(models, root / "out", **sides, **only))


@pytest.fixture(scope="module")
def store(config: RunConfig) -> ResultStore:
    return execute(config, estimate=False)


def test_two_folders_of_one_name_are_two_models(store):
    assert [store.manifest.pair[side]["model"] for side in SIDES] == ["base/hf", "tuned/hf"]
    table = store.load_table("responses")
    own = table[table.model != "control"]
    assert dict(zip(own.model, own.model_id, strict=True)) == {"base": "base/hf", "tuned": "tuned/hf"}
    for side in SIDES:
        assert store.load_result(f"attribution/{side}/sea", Attribution).provenance.model == f"{side}/hf"


def test_a_response_is_read_back_with_its_tokenizer(store, models):
    model = load_model(models / "tuned", device="cpu", verify=False)
    found = Found(store).one("responses", SaidResponse, Unit("tuned", "sea")).said()
    expected = generate(model, "Write a short poem about the sea.", max_new_tokens=4)
    assert isinstance(found, Response)
    assert (found.token_ids, found.text) == (expected.token_ids, expected.text)
    assert found.tokenizer == digest_of(view_of(model)) != ""
    assert found.model == "tuned/hf"


def test_a_moved_model_is_the_same_model(models, tmp_path):
    config = small(models, tmp_path / "out", analyses=["weights", "heads"])
    found = run(config)
    moved = Path(shutil.copytree(models, tmp_path / "moved"))
    assert stale(small(moved, tmp_path / "out", analyses=["weights", "heads"]), found) == set()
    save_checkpoint("llama", moved / "tuned", seed=9)
    changed = stale(small(moved, tmp_path / "out", analyses=["weights", "heads"]), found)
    assert digests(found).keys() - changed == {"heads/base/0,1", "ov_reading/base"}


# what each need is known by
UNITS = {
    "base": Unit("base", "sea"),
    "tuned": Unit("tuned", "sea"),
    "spectrum": Unit("spectrum-0", "sea"),
    "shuffled": Unit("shuffled-0", "sea"),
    "gradient-noise": Unit("gradient-noise-0", "sea"),
}
MODELS = {"base", "tuned", "spectrum", "shuffled", "gradient-noise"}


@pytest.fixture
def folder(models: Path, tmp_path: Path) -> Path:
    """Models, prompts, words, word vectors and tuning data that a test may change."""
    found = Path(shutil.copytree(models, tmp_path / "models"))
    (found / "glove.txt").write_text("sea 1 2\nmoon 2 1\n")
    (found / "data.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    return found


def known(folder: Path, **changes: Any) -> dict[str, Any]:
    """What a unit of each model, and each need, is known by."""
    told = changes.pop("controls", {})
    kinds = {"kinds": ["spectrum", "shuffled", "gradient-noise"], "data": str(folder / "data.jsonl")}
    own = {"controls": kinds | told, "vectors": str(folder / "glove.txt")} | changes
    config = check_config(small(folder, folder / "out", **own))
    plan, identities = plan_of(Material(config), config.keep != "one", 2, config.chosen), Identities(config)
    found = {f"model of {name}": identities.of("model", plan, unit) for name, unit in UNITS.items()}
    needs = ("pair", "both", "prompt", "prompts", "vocabulary", "vectors", "seed", "base")
    return found | {need: identities.of(need, plan, UNITS["base"]) for need in needs}


def append(name: str, text: str) -> Callable[[Path], object]:
    def act(folder: Path) -> None:
        with (folder / name).open("a") as opened:
            opened.write(text)

    return act


def replace(name: str, old: str, new: str) -> Callable[[Path], object]:
    def act(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return act


ALL_MODELS = {f"model of {name}" for name in MODELS} | {"pair"}
OF_CONTROLS = {"model of spectrum", "model of shuffled", "model of gradient-noise"}
FILES: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "nothing": (lambda folder: None, set()),
    "the base's weights": (lambda f: save_checkpoint("llama", f / "base", seed=9), ALL_MODELS | {"base"}),
    "the base's tokenizer": (append("base/tokenizer.json", "\n"), ALL_MODELS | {"base"}),
    "the tuned model's config": (
        replace("tuned/config.json", '"bos_token_id": 1', '"bos_token_id": 2'),
        ALL_MODELS - {"model of base"},
    ),
    "a chat template": (
        lambda f: (f / "tuned/chat_template.jinja").write_text("{{ x }}"),
        ALL_MODELS - {"model of base"},
    ),
    "a note beside a model": (lambda f: (f / "base/README.md").write_text("a note"), set()),
    "the word list": (append("words.tsv", "water\t1\n"), {"vocabulary", "vectors"}),
    "the word vectors": (append("glove.txt", "word 3 1\n"), {"vectors"}),
    "the tuning data": (append("data.jsonl", '{"prompt": "c", "response": "d"}\n'), {"model of shuffled"}),
    "a prompt": (replace("prompts.jsonl", "about the sea", "about a sea"), {"prompt", "prompts"}),
    "an instruction": (replace("prompts.jsonl", '["Write a short poem"]', '["Write a short"]'), {"prompt", "prompts"}),
    "another prompt": (replace("prompts.jsonl", "Apples are", "Apples were"), {"prompts"}),
}


@pytest.mark.parametrize("what", FILES)
def test_a_need_is_known_by_its_files(folder, what):
    act, expected = FILES[what]
    before = known(folder)
    act(folder)
    after = known(folder)
    assert {need for need in before if before[need] != after[need]} == expected


KEYS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "device": ({"device": "cpu:0"}, ALL_MODELS | {"base"}),
    "dtype": ({"dtype": "float64"}, ALL_MODELS | {"base"}),
    "seed": ({"seed": 3}, OF_CONTROLS | {"seed"}),
    "vocabulary": ({"vocabulary": "default"}, {"vocabulary", "vectors"}),
    "vectors": ({"vectors": "base"}, {"vectors"}),
    "max_new_tokens": ({"max_new_tokens": 9}, set()),
    "divide": ({"controls": {"divide": "rms"}}, {"model of gradient-noise"}),
    "steps": ({"controls": {"steps": 3}}, {"model of shuffled"}),
    "rate": ({"controls": {"rate": 0.1}}, {"model of shuffled"}),
    "batch": ({"controls": {"batch": 3}}, {"model of shuffled"}),
    "length": ({"controls": {"length": 9}}, {"model of shuffled"}),
    "rank": ({"controls": {"rank": 2}}, {"model of shuffled"}),
    "what is the default anyway": ({"controls": {"divide": "none", "steps": 40}}, set()),
}


@pytest.mark.parametrize("key", KEYS)
def test_a_need_is_known_by_its_keys(folder, key):
    changes, expected = KEYS[key]
    before, after = known(folder), known(folder, **changes)
    assert {need for need in before if before[need] != after[need]} == expected


def test_how_many_models_are_held_is_known_to_those_alone_that_need_both(folder):
    none = dict.fromkeys(COUNTS, 0)
    one, both = (known(folder, keep=keep, controls=none) for keep in ("one", "both"))
    assert {need for need in one if one[need] != both[need]} == {"both"}


def test_vectors_of_the_base_change_with_it(folder):
    before = known(folder, vectors="base")
    save_checkpoint("llama", folder / "base", seed=9)
    assert known(folder, vectors="base")["vectors"] != before["vectors"]


def test_a_hub_name_is_known_by_the_commit_that_its_branch_stands_for(folder, monkeypatch):
    stands_for = {"main": "a" * 40, "v2": "b" * 40}
    monkeypatch.setattr(commits, "commit_of", lambda source, revision: stands_for[revision or "main"])
    hub = {"base": "org/base", "tuned": "org/tuned"}
    before = known(folder, **hub)
    assert known(folder, **hub, base_revision="main") == before
    assert known(folder, **hub, base_revision="v2")["base"] != before["base"]
    second = known(folder, **hub, tuned_revision="v2")
    assert (second["base"], second["pair"] == before["pair"]) == (before["base"], False)
    stands_for["main"] = "c" * 40
    moved = known(folder, **hub)
    assert {need for need in moved if moved[need] != before[need]} == ALL_MODELS | {"base"}
