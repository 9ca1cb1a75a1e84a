"""Nothing asks for a network where nothing is asked for that lies there."""

import os
import subprocess
import sys
from pathlib import Path

from tests.checkpoints import save_checkpoint
from tests.conftest import ROOT

PROGRAM = """
import socket, sys
asked = []
def refuse(*arguments, **options):
    asked.append(arguments)
    raise OSError("no network here")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = socket.create_connection = refuse
import lensdiff
from lensdiff.results import InputError
from lensdiff.models.text import generate
if "hub" in sys.argv:
    try:
        lensdiff.load_model("somebody/model", device="cpu")
    except InputError:
        pass
else:
    pair = lensdiff.load_pair(sys.argv[1], sys.argv[2], device="cpu")
    generate(pair.tuned, lensdiff.Prompt("the moon"), max_new_tokens=2)
    lensdiff.weight_shift(pair)
print(len(asked))
"""


def connections(tmp_path: Path, *arguments: object) -> int:
    """How often a program asks for a connection, with nothing in its environment that keeps it from that."""
    own = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
    own |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hub"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, *map(str, arguments)]
    ran = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout.strip().split("\n")[-1])


def test_models_in_folders_are_loaded_and_compared_without_a_network(tmp_path):
    folders = [save_checkpoint("llama", tmp_path / side, seed=seed) for seed, side in enumerate(("base", "tuned"))]
    assert connections(tmp_path, *folders) == 0


def test_a_hub_name_asks_for_one(tmp_path):
    assert connections(tmp_path, "hub") > 0
