"""A run of two folders of one name: responses, results and manifest tell the models apart."""

import shutil
from pathlib import Path

import pytest

from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.models import load_model, view_of
from lensdiff.models.identity import digest_of
from lensdiff.models.text import Response, generate
from lensdiff.pipeline import workspace
from lensdiff.pipeline.config import RunConfig
from lensdiff.pipeline.execute import execute
from lensdiff.pipeline.listener import Silent
from lensdiff.pipeline.toml import check_config
from lensdiff.results import ResultStore
from tests.pipeline.conftest import config_for


@pytest.fixture(scope="module")
def config(models: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    root = tmp_path_factory.mktemp("named")
    for side in ("base", "tuned"):
        shutil.copytree(models / side, root / side / "hf")
    sides = {side: str(root / side / "hf") for side in ("base", "tuned")}
    only = {"analyses": ["attribution", "outputs"], "controls": {"prompts": 3}}
    return check_config(config_for(models, root / "out", **sides, **only))


@pytest.fixture(scope="module")
def store(config: RunConfig) -> ResultStore:
    return execute(config, estimate=False)


def test_two_folders_of_one_name_are_two_models(store):
    assert [store.manifest.pair[side]["model"] for side in ("base", "tuned")] == ["base/hf", "tuned/hf"]
    table = store.load_table("responses")
    own = table[table.model != "control"]
    assert dict(zip(own.model, own.model_id, strict=True)) == {"base": "base/hf", "tuned": "tuned/hf"}
    for side in ("base", "tuned"):
        assert store.load_result(f"attribution/{side}/sea", Attribution).provenance.model == f"{side}/hf"


def test_a_response_is_read_back_with_its_tokenizer(store, config, models):
    model = load_model(models / "tuned", device="cpu", verify=False)
    found = workspace.Workspace(config, store, Silent(), "both").response("tuned", "sea")
    expected = generate(model, "Write a short poem about the sea.", max_new_tokens=4)
    assert isinstance(found, Response)
    assert (found.token_ids, found.text) == (expected.token_ids, expected.text)
    assert found.tokenizer == digest_of(view_of(model)) != ""
    assert found.model == "tuned/hf"


def test_a_response_of_an_older_run_has_no_digest(store, config, tmp_path):
    older = ResultStore(shutil.copytree(store.root, tmp_path / "older"))
    row = older.load_table("responses/tuned/sea").drop(columns="tokenizer")
    older.save_table("responses/tuned/sea", row)
    found = workspace.Workspace(config, older, Silent(), "both").response("tuned", "sea")
    assert isinstance(found, Response)
    assert found.tokenizer == ""
