"""Code that a checkpoint brings: it never runs, nobody is asked whether it may, and no file can say that it may."""

import ast
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import peft
import pytest

from lensdiff.models import load_model, view_of
from lensdiff.models.loading.opening import EMPTY_OPTIONS, OPTIONS
from lensdiff.pipeline.memory import n_parameters
from lensdiff.results import InputError
from tests.checkpoints import hf_model, save_checkpoint
from tests.conftest import ROOT

CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
def generate(*arguments, **options):
    pass
"""
MODEL = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel", "AutoModel": "own.OwnModel"}
TOKENIZER = {"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]}
YES = {"trust_remote_code": True}


def planted(folder: Path) -> Path:
    """A checkpoint with code beside it, which nothing names yet; where the file would be that the code writes."""
    save_checkpoint("llama", folder)
    marker = folder.with_suffix(".ran")
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    return marker


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def own_model(folder: Path) -> None:
    edit(folder / "config.json", model_type="own", auto_map=MODEL, architectures=["OwnModel"], **YES)


def another_task(folder: Path) -> None:
    """A config that transformers knows, of a model that is no language model but by its own code."""
    (folder / "config.json").write_text(json.dumps({"model_type": "vit", "auto_map": MODEL} | YES))


def own_tokenizer(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", auto_map=TOKENIZER, tokenizer_class="OwnTokenizer", **YES)


def own_generation(folder: Path) -> None:
    (folder / "custom_generate").mkdir()
    shutil.copy(folder / "own.py", folder / "custom_generate" / "generate.py")
    edit(folder / "generation_config.json", custom_generate=str(folder), **YES)


def known_model(folder: Path) -> None:
    edit(folder / "config.json", auto_map=MODEL, **YES)


def known_tokenizer(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", auto_map=TOKENIZER, add_bos_token=False, **YES)


NEVER = "brings code of its own (auto_map), which is never run"
REFUSED = (own_model, another_task, own_tokenizer)
READ = (own_generation, known_model, known_tokenizer)  # all that is needed is in transformers


@pytest.fixture
def willing(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Somebody who answers yes to everything."""
    answers = io.StringIO("y\n" * 20)
    monkeypatch.setattr(sys, "stdin", answers)
    return answers


@pytest.mark.parametrize("wrapper", ["auto", "bridge"])
@pytest.mark.parametrize("plant", [*REFUSED, *READ], ids=lambda plant: plant.__name__)
def test_the_code_of_a_checkpoint_never_runs(plant: Callable[[Path], None], wrapper, willing, tmp_path, capsys):
    marker = planted(tmp_path / "checkpoint")
    plant(tmp_path / "checkpoint")
    n_parameters(str(tmp_path / "checkpoint"))  # what an estimate looks at
    if plant in READ:
        notes = view_of(load_model(tmp_path / "checkpoint", device="cpu", wrapper=wrapper)).info.notes
        own = "its own code (own.OwnConfig, own.OwnModel, own.OwnModel) was not run: a LlamaForCausalLM it is"
        assert (own in notes) is (plant is known_model)
    else:
        with pytest.raises(InputError) as caught:
            load_model(tmp_path / "checkpoint", device="cpu", wrapper=wrapper)
        assert NEVER in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not marker.exists()
    assert willing.tell() == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("on", ["its base", "its own"])
def test_the_code_of_an_adapters_folder_never_runs(on, willing, tmp_path, capsys):
    marker = planted(tmp_path / "base")
    tuned = peft.get_peft_model(hf_model("llama"), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    tuned.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    tuned.save_pretrained(tmp_path / "adapter")
    for name in ("tokenizer.json", "tokenizer_config.json", "own.py"):
        shutil.copy(tmp_path / "base" / name, tmp_path / "adapter")
    if on == "its own":
        own_tokenizer(tmp_path / "adapter")
        edit(tmp_path / "adapter" / "adapter_config.json", auto_mapping={"parent_library": "own"}, **YES)
    else:
        own_model(tmp_path / "base")
    with pytest.raises(InputError) as caught:
        load_model(tmp_path / "adapter", device="cpu")
    assert NEVER in str(caught.value)
    assert not marker.exists()
    assert willing.tell() == 0
    assert capsys.readouterr().out == ""


def test_the_planted_code_would_run_if_it_were_let(tmp_path):
    marker = planted(tmp_path / "checkpoint")
    own_model(tmp_path / "checkpoint")
    code = (
        "from transformers import AutoConfig; "
        f"AutoConfig.from_pretrained({str(tmp_path / 'checkpoint')!r}, trust_remote_code=True)"
    )
    home = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", code], env=home, check=True, capture_output=True, timeout=120)
    assert marker.exists()


def test_the_command_asks_nothing(tmp_path):
    marker = planted(tmp_path / "tuned")
    another_task(tmp_path / "tuned")
    save_checkpoint("llama", tmp_path / "base")
    command = [sys.executable, "-m", "lensdiff", "weights", tmp_path / "base", tmp_path / "tuned"]
    ran = subprocess.run(
        [*map(str, command), "--out", str(tmp_path / "out"), "--device", "cpu"],
        input="y\n" * 20,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    assert ran.returncode == 2
    assert NEVER in ran.stderr.strip().split("\n")[-1]
    assert "y/N" not in ran.stdout + ran.stderr
    assert not marker.exists()


READERS = {"from_pretrained", "from_config"}


def test_every_call_says_that_no_code_is_run():
    said = []
    for path in [*ROOT.glob("lensdiff/**/*.py"), *ROOT.glob("experiments/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in READERS and "Auto" in ast.unparse(node.value):
                said.append((path, node.lineno))
    calls = []
    for path in {path for path, _ in said}:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in READERS):
                continue
            if "Auto" in ast.unparse(node.func.value):
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                by_options = "OPTIONS" in ast.unparse(node)  # of `checkpoints`, which say it once
                assert options.get("trust_remote_code") == "False" or by_options, f"{path}, line {node.lineno}"
                calls.append(node)
    assert OPTIONS["trust_remote_code"] is EMPTY_OPTIONS["trust_remote_code"] is False
    assert len(calls) == len(said) > 8  # none is handed on to be called elsewhere
