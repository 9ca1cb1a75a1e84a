"""What one model takes: the numbers of the toy base, and a text that is too short."""

import json
from pathlib import Path

import pytest

from experiments.single_model import run
from lensdiff.inputs import toy_pair
from tests.checkpoints import tokenizer_of


def test_each_part_is_measured(tmp_path: Path, capsys):
    run.main(str(toy_pair.BASE), layers="0,2", prompt_tokens=5, response_tokens=7, threads=1, out=tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert [row["part"] for row in found["parts"]] == ["open", "attribute", "word pairs of 2 layers"]
    assert all(row["cpu_s"] > 0 and row["wall_s"] > 0 for row in found["parts"])
    peaks = [row["peak_mib"] for row in found["parts"]]
    assert peaks == sorted(peaks)
    assert 100 < peaks[0] < 20_000  # of a process with torch in it, in MiB
    assert "(5, " in capsys.readouterr().out


def test_a_text_is_cut_to_its_tokens():
    tokenizer = tokenizer_of()
    text = run.cut(tokenizer, "the sea is simple and the moon is blue", 4)
    assert "the sea is simple and the moon is blue".startswith(text)
    assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 4
    with pytest.raises(SystemExit, match=r"has \d+ tokens, 400 were asked for"):
        run.cut(tokenizer, "the sea", 400)
