"""The commit of a hub name, told from a cache of the hub and by a hub that answers, and what a model is known by."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from lensdiff.models import load_model, view_of
from lensdiff.models.loading import checkpoints, opening
from lensdiff.models.loading.commits import commit_of, model_identity, reach
from lensdiff.models.loading.places import is_hub_name
from lensdiff.results import InputError
from tests.checkpoints import hf_model, save_checkpoint

OLD, NEW, TAGGED = "a" * 40, "b" * 40, "0123456789abcdef" * 2 + "01234567"


class Cache:
    """A cache of the hub that the test fills: a file of a snapshot is a link to a blob, as the hub's are."""

    def __init__(self, folder: Path):
        self.folder = folder

    def put(self, name: str, commit: str, file: str = "config.json", text: str = "{}") -> Path:
        blob = self._repository(name) / "blobs" / f"{commit}-{file}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_text(text)
        snapshot = self.snapshot(name, commit)
        snapshot.mkdir(parents=True, exist_ok=True)
        (snapshot / file).symlink_to(Path("..", "..", "blobs", blob.name))
        return snapshot

    def snapshot(self, name: str, commit: str) -> Path:
        return self._repository(name) / "snapshots" / commit

    def point(self, name: str, commit: str, revision: str = "main") -> None:
        reference = self._repository(name) / "refs" / revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit)

    def _repository(self, name: str) -> Path:
        return self.folder / f"models--{name.replace('/', '--')}"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return Cache(tmp_path / "hub")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[dict[str, Any]]]:
    """A function that puts a hub online, which says a commit or raises; it returns what the hub is asked."""

    def online(answer: str | Exception) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        def model_info(api: Any, name: str, **options: Any) -> SimpleNamespace:
            asked.append({"name": name} | options)
            if isinstance(answer, Exception):
                raise answer
            return SimpleNamespace(sha=answer)

        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
        return asked

    return online


# offline


def test_a_branch_that_moves_is_another_commit(cache):
    cache.put("somebody/model", OLD)
    cache.point("somebody/model", OLD)
    assert commit_of("somebody/model", None) == commit_of("somebody/model", "main") == OLD
    cache.put("somebody/model", NEW)
    assert commit_of("somebody/model", None) == OLD
    cache.point("somebody/model", NEW)
    assert commit_of("somebody/model", None) == commit_of("somebody/model", "main") == NEW


def test_tags_pull_requests_and_names_without_an_owner(cache):
    cache.put("gpt2", TAGGED)
    cache.point("gpt2", TAGGED, "v1.0")
    cache.point("gpt2", TAGGED, "refs/pr/7")
    assert commit_of("gpt2", "v1.0") == commit_of("gpt2", "refs/pr/7") == TAGGED
    assert commit_of("gpt2", "main") is None


def test_a_whole_hash_is_itself(cache, hub):
    asked = hub(NEW)
    assert commit_of("somebody/missing", OLD) == OLD
    assert asked == []


def test_an_adapter_has_a_commit_without_a_config(cache):
    cache.put("somebody/adapter", NEW, "adapter_config.json")
    cache.point("somebody/adapter", NEW)
    assert commit_of("somebody/adapter", None) == NEW
    # as the cache has it once config.json was asked for in vain
    nothing = cache.folder / "models--somebody--adapter" / ".no_exist" / NEW / "config.json"
    nothing.parent.mkdir(parents=True)
    nothing.touch()
    assert commit_of("somebody/adapter", None) == NEW


def test_what_the_cache_lacks_cannot_be_told(cache):
    begun = time.perf_counter()
    assert commit_of("somebody/missing", None) is None
    cache.point("somebody/begun", NEW)  # a download that got no file
    assert commit_of("somebody/begun", None) is None
    cache.put("somebody/strange", "c0ffee")
    cache.point("somebody/strange", "c0ffee")
    assert commit_of("somebody/strange", None) is None
    assert commit_of("no name, as the hub has them", None) is None
    assert time.perf_counter() - begun < 1


def test_a_folder_and_a_file_have_no_commit(cache, hub, tmp_path, monkeypatch):
    asked = hub(NEW)
    snapshot = cache.put("somebody/model", OLD)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    paths = ("here", "./gone", "~/gone", "a/b/c", "gone.gguf", "org/model/file.gguf", str(snapshot), tmp_path / "gone")
    for path in paths:
        assert not is_hub_name(path)
        assert commit_of(path, None) is None
    assert asked == []
    assert is_hub_name("somebody/model")
    assert is_hub_name("gpt2")


# online


def test_the_hub_is_asked_before_the_cache(cache, hub):
    cache.put("somebody/model", OLD)
    cache.point("somebody/model", OLD)
    asked = hub(NEW)
    assert commit_of("somebody/model", "v2") == NEW
    [question] = asked
    assert (question["name"], question["revision"]) == ("somebody/model", "v2")
    assert 0 < question["timeout"] <= 5


@pytest.mark.parametrize("error", [OSError("unreachable"), ValueError("no such revision"), TimeoutError()])
def test_where_the_hub_does_not_answer_the_cache_does(cache, hub, error):
    cache.put("somebody/model", OLD)
    cache.point("somebody/model", OLD)
    asked = hub(error)
    assert commit_of("somebody/model", None) == OLD
    assert commit_of("somebody/missing", None) is None
    assert len(asked) == 2


def test_a_refused_connection_is_answered_at_once(cache, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # the port that discards
    cache.put("somebody/model", OLD)
    cache.point("somebody/model", OLD)
    begun = time.perf_counter()
    assert commit_of("somebody/model", None) == OLD
    assert commit_of("somebody/missing", None) is None
    assert time.perf_counter() - begun < 5


class ConnectError(Exception):
    """As httpx, httpx2 and requests call it, of which one or another is there."""


def of_the_hub(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "404")
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectError("no such host"), "no folder of that name is here, and the hub cannot be reached"),
        (
            of_the_hub(RepositoryNotFoundError),
            "no folder of that name is here, and the hub has no such model, or it is private",
        ),
        (of_the_hub(RevisionNotFoundError), "the hub has no revision 'v1' of it"),
    ],
)
def test_a_model_that_cannot_be_had_is_refused_after_one_question(cache, hub, error, said):
    asked = hub(error)
    with pytest.raises(InputError, match=f"cannot load somebody/missing: {said}"):
        load_model("somebody/missing", revision="v1")
    assert [question["name"] for question in asked] == ["somebody/missing"]
    cache.put("somebody/model", OLD)
    cache.point("somebody/model", OLD, "v1")
    assert reach("somebody/model", "v1") == OLD


def test_a_hub_that_stumbles_may_answer_when_files_are_asked_for(cache, hub):
    hub(TimeoutError())
    assert reach("somebody/missing", None) is None
    hub(NEW)
    assert reach("somebody/missing", None) == NEW


# what a model is known by


def test_a_moved_folder_is_the_same_model_and_a_changed_one_is_not(cache, tmp_path):
    folder = save_checkpoint("llama", tmp_path / "model")
    found = model_identity(folder, None)
    assert found == model_identity(str(folder), None) == json.loads(json.dumps(found))
    moved = folder.rename(tmp_path / "moved")
    assert model_identity(moved, None) == found
    assert str(tmp_path) not in json.dumps(found)
    save_checkpoint("llama", moved, seed=1)
    assert model_identity(moved, None) != found


def test_an_adapters_folder_is_known_by_the_adapter_alone(cache, tmp_path):
    base, adapter = save_checkpoint("llama", tmp_path / "base"), tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    found = model_identity(adapter, "main")
    save_checkpoint("llama", base, seed=1)
    assert model_identity(adapter, None) == found
    (adapter / "adapter_model.safetensors").write_bytes(b"others")
    assert model_identity(adapter, None) != found


def test_a_gguf_file_is_known_by_its_bytes(cache, tmp_path):
    one, two = tmp_path / "one.gguf", tmp_path / "two.gguf"
    one.write_bytes(b"weights")
    two.write_bytes(b"weights")
    assert model_identity(one, None) == model_identity(two, None)
    two.write_bytes(b"others")
    assert model_identity(one, None) != model_identity(two, None)


def test_a_hub_name_is_known_by_its_commit(cache):
    cache.put("somebody/model", OLD)
    cache.point("somebody/model", OLD)
    assert model_identity("somebody/model", None) == {"name": "somebody/model", "revision": OLD}
    assert model_identity("somebody/model", None) == model_identity("somebody/model", OLD)
    cache.put("somebody/model", NEW)
    cache.point("somebody/model", NEW)
    assert model_identity("somebody/model", "main") == {"name": "somebody/model", "revision": NEW}
    assert model_identity("somebody/missing", "v1") == {"name": "somebody/missing", "revision": "v1"}
    assert model_identity("somebody/missing", None) == {"name": "somebody/missing", "revision": None}


# what was loaded


def test_a_loaded_model_says_the_commit_it_is_of(cache):
    for commit in (OLD, NEW):
        save_checkpoint("llama", cache.snapshot("somebody/model", commit))
        cache.point("somebody/model", commit)
        for revision in (None, "main", commit):
            assert view_of(load_model("somebody/model", device="cpu", revision=revision)).info.revision == commit
    found = view_of(load_model("somebody/model", device="cpu", revision=OLD))
    assert found.info.revision == OLD
    assert found.provenance("lens", {}).revision == OLD


@pytest.mark.parametrize("wrapper", ["hooked", "bridge"])
def test_a_commit_is_loaded_where_the_cache_has_no_branch(cache, wrapper):
    save_checkpoint("llama", cache.snapshot("somebody/model", OLD))
    found = view_of(load_model("somebody/model", device="cpu", revision=OLD, wrapper=wrapper))
    assert found.info.revision == OLD
    assert found.tokenizer("the sea")["input_ids"]


def test_a_folder_of_the_cache_is_a_folder(cache):
    folder = save_checkpoint("llama", cache.snapshot("somebody/model", OLD))
    assert view_of(load_model(folder, device="cpu")).info.revision is None


def test_a_branch_that_moves_while_a_model_is_loaded_changes_nothing(cache, monkeypatch):
    save_checkpoint("llama", cache.snapshot("somebody/model", OLD))
    save_checkpoint("llama", cache.snapshot("somebody/model", NEW), seed=1)
    cache.point("somebody/model", OLD)
    config_of = opening._config

    def moving(*args):
        found = config_of(*args)
        cache.point("somebody/model", NEW)
        return found

    monkeypatch.setattr(opening, "_config", moving)
    source = checkpoints.from_name("somebody/model", "model", revision=None, dtype=torch.float32)
    assert source.revision == OLD
    expected = hf_model("llama").state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in source.model.state_dict().items())
