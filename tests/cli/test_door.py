"""A mistake on the command line is told before anything large is imported, in the words of the command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lensdiff.inputs import toy_pair

LARGE = ("torch", "pandas", "transformers", "transformer_lens")
RUN = (
    "import sys\n"
    "from lensdiff.cli import main\n"
    "code = main(sys.argv[1:])\n"
    f"print(code, *[name for name in {LARGE} if name in sys.modules])\n"
)
BASE, TUNED = str(toy_pair.BASE), str(toy_pair.TUNED)
PROMPT = ("--prompt", "Name three colours", "--instruction")

MISTAKES = {
    "no such folder": (("heads", BASE, "./nowhere"), "no model folder at ./nowhere"),
    "no such base": (("weights", "/nowhere/at/all", TUNED), "no model folder at /nowhere/at/all"),
    "a folder of something else": (("weights", ".", TUNED), "folder . has no config.json"),
    "no such GGUF file": (("weights", BASE, "gone.gguf"), "no GGUF file at gone.gguf"),
    "layers": (("heads", BASE, TUNED, "--layers", "2,40"), "--layers=[2, 40] given, expected at least one of 0 to 3"),
    "the last layer but one": (
        ("activation-difference", BASE, TUNED, "--layers", "9"),
        "--layers=[9] given, expected at least one of 0 to 4",
    ),
    "an instruction that is not there": (
        ("attribute", BASE, TUNED, *PROMPT, "Say no"),
        "--instruction 'Say no' is no part of --prompt 'Name three colours'",
    ),
    "an empty context": (
        ("attribute", BASE, TUNED, *PROMPT, "Name", "--context", " "),
        "--context ' ' is no part of --prompt 'Name three colours'",
    ),
    "no such prompts": (("outputs", BASE, TUNED, "--prompts", "gone.jsonl"), "gone.jsonl"),
    "no such texts": (("activation-difference", BASE, TUNED, "--texts", "gone.txt"), "gone.txt"),
    "no such words": (("mlp", BASE, TUNED, "--vocabulary", "gone.txt"), "gone.txt"),
    "no such vectors": (("heads", BASE, TUNED, "--vectors", "gone.txt"), "no file of word vectors at"),
}  # fmt: skip


def run(folder: Path, *arguments: str) -> tuple[str, str]:
    """Run the command in a process of its own, and return what it printed at last and what it complained of."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return ran.stdout.strip().split("\n")[-1], ran.stderr


@pytest.mark.parametrize(("arguments", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_before_anything_large_is_imported(arguments, said, tmp_path):
    found, complaint = run(tmp_path, *arguments, "--out", "out")
    assert found == "2"  # and nothing large
    assert said in complaint
    assert complaint.count(said) == 1
    assert not (tmp_path / "out").exists()


def test_a_device_is_asked_of_torch_alone(tmp_path):
    found, complaint = run(tmp_path, "weights", BASE, TUNED, "--device", "zzz")
    assert found == "2 torch"
    assert "device 'zzz' cannot be used here" in complaint


def test_a_config_is_told_of_its_keys(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(f'base = "{BASE}"\ntuned = "{TUNED}"\nanalyses = ["heads"]\n[heads]\nlayers = [40]\n')
    found, complaint = run(tmp_path, "run", str(config))
    assert found == "2"
    assert "heads.layers=[40] given, expected at least one of 0 to 3" in complaint


def test_what_a_config_does_not_say_is_asked_of_the_library(tmp_path):
    """A config that calls its layers by none of the names that are read leaves the choice to what reads it whole."""
    folder = tmp_path / "base"
    folder.mkdir()
    for path in toy_pair.BASE.iterdir():
        (folder / path.name).symlink_to(path)
    config = json.loads((folder / "config.json").read_text()) | {"n_layer": 7}
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    found, complaint = run(tmp_path, "heads", "./base", TUNED, "--layers", "40")
    assert found == "2 torch pandas transformers transformer_lens"
    assert "--layers=[40] given, expected at least one of 0 to 3" in complaint
