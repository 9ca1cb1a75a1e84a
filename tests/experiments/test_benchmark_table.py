"""The table of benchmarks: its comparisons on the toy base, in small, and what is printed beside what is kept."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from lensdiff.inputs import toy_pair
from lensdiff.models.inside.wrappers import HookedTransformer

if HookedTransformer is None:
    pytest.skip("this transformer-lens has no HookedTransformer", allow_module_level=True)

from experiments.benchmarks import comparisons, inseq_rival, patching, table
from experiments.benchmarks.compared import HEADINGS, Comparison, cells, here, markdown, measured

SMALL = comparisons.Sizes(
    attributed=((4, 3), (2, 5)),
    read=(4, 5),
    patched=(4, 3),
    sampled=5,
    generated=4,
    prompts=3,
    words=200,
    layers=2,
    components=12,
    top_k=10,
    top_words=5,
)


def ticking() -> Any:
    """A clock that is one second further each time that it is read."""
    now = iter(range(10**6))
    return lambda: float(next(now))


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """The whole table of the toy base, by a clock that ticks: nothing is timed."""
    subject = comparisons.Subject(str(toy_pair.BASE), SMALL)
    found = table.about(subject, "processor", 1)
    patching.CLOCKS["ticks"] = clock = ticking()
    try:
        for _ in table.compare(subject, found, clock, only="", repeats=1, most=9.0):
            pass
    finally:
        del patching.CLOCKS["ticks"]
    return found


def test_every_analysis_gives_its_rivals_numbers(report: dict[str, Any]):
    assert {(row["analysis"].split(",")[0], row["rival"]) for row in report["rows"]} == {
        ("attribute", "captum"),
        ("attribute", "a loop of backward passes"),
        ("patch_sweep", "TransformerLens"),
        ("patch_sweep", "a loop of whole passes"),
        ("attention", "TransformerLens"),
        ("logit_lens", "TransformerLens"),
        ("direct_logit_attribution", "TransformerLens"),
        ("generate", "TransformerLens"),
        ("head_word_pairs", "a loop over dimensions"),
        ("mlp_concepts", "a loop over components"),
        ("rotation", "scipy, layer by layer"),
    }
    assert {row["case"] for row in report["rows"] if row["rival"] == "captum"} == {"4 + 3 tokens", "2 + 5 tokens"}
    assert report["left_out"] == {"inseq": table.NO_INSEQ}


def test_the_table_says_what_the_file_says(report: dict[str, Any]):
    lines = markdown(json.loads(json.dumps(report))).splitlines()
    printed = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert printed[0] == list(HEADINGS)
    assert len(printed) == 1 + len(report["rows"])
    for row, line in zip(report["rows"], printed[1:], strict=True):
        said: dict[str, str] = dict(zip(HEADINGS, line, strict=True))
        assert (said["analysis"], said["case"], said["rival"]) == (row["analysis"], row["case"], row["rival"])
        for heading, name in (("lensdiff, s", "seconds"), ("rival, s", "rival_seconds"), ("ratio", "ratio")):
            assert float(said[heading]) == pytest.approx(row[name], rel=0.06), heading
        assert row["ratio"] == row["rival_seconds"] / row["seconds"]
    assert lines[-1] == f"- inseq: left out, {table.NO_INSEQ}"


def test_the_readme_has_the_table_of_the_file_beside_it():
    folder = Path(table.__file__).parent
    kept = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    assert markdown(kept) in (folder / "README.md").read_text(encoding="utf-8")


def test_the_file_says_what_was_measured_with(report: dict[str, Any]):
    assert {"torch", "transformer-lens", "captum", "python"} <= report["versions"].keys()
    assert (report["clock"], report["threads"], report["dtype"]) == ("processor", 1, "float32")
    assert len(report["gflop_per_second"]) == len(comparisons.GROUPS)


@pytest.mark.parametrize(
    ("seconds", "ratio", "expected"), [(0.01234, 0.5, "0.0123"), (12.0, 3.0, "12.0"), (456, 20, "456")]
)
def test_three_figures_of_seconds_are_printed(seconds: float, ratio: float, expected: str):
    row = {"analysis": "a", "case": "c", "rival": "r", "difference": 0.0, "of": "nats", "ratio": ratio}
    assert cells(row | {"seconds": seconds, "rival_seconds": seconds * ratio})[2] == expected


def compared(gap: float) -> Comparison:
    ours, rivals = {"mine": here(lambda: 1), "also mine": here(lambda: 2)}, {"theirs": here(lambda: 3)}
    return Comparison("a", "b", ours, rivals, lambda _, other: gap * (other == 3), 0.5, "nats")


def test_the_best_of_the_rounds_counts_and_rounds_end_when_time_is_up():
    times = iter([5.0, 1.0, 9.0, 4.0, 2.0, 8.0])
    lasting = SimpleNamespace(now=0.0)

    def clock() -> float:  # read twice by each way: its second reading is later by the next of the times
        lasting.now += next(times) if (odd := getattr(lasting, "odd", False)) else 0.0
        lasting.odd = not odd
        return lasting.now

    rows = measured(compared(0.1), clock, repeats=3, most=20.0)
    assert [(row["analysis"], row["seconds"], row["rival_seconds"], row["rounds"]) for row in rows] == [
        ("mine", 4.0, 8.0, 2),
        ("also mine", 1.0, 8.0, 2),
    ]
    assert [row["difference"] for row in rows] == [0.1, 0.1]


def test_other_numbers_end_the_comparison():
    with pytest.raises(SystemExit, match=r"a, b: theirs differs from mine by 1.0e\+00 nats"):
        measured(compared(1.0), ticking(), repeats=1, most=1.0)


# inseq, which no environment of the tests has
def test_an_older_transformers_is_given_the_rotation_and_the_tokenizer_that_it_knows(tmp_path):
    inseq_rival.older(toy_pair.BASE, tmp_path)
    config, own = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, toy_pair.BASE))
    assert config == own | {"rope_theta": own["rope_parameters"]["rope_theta"]}
    tokenizer = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    for path in toy_pair.BASE.glob("*.safetensors"):
        assert (tmp_path / path.name).resolve() == path.resolve()


def test_what_cannot_be_given_to_it_is_said(tmp_path):
    with pytest.raises(SystemExit, match="inseq needs a folder with a checkpoint"):
        inseq_rival.older(tmp_path / "none", tmp_path)
    config = {"rope_parameters": {"rope_type": "llama3"}}
    (source := tmp_path / "source").mkdir()
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit, match="rotation of type 'llama3'"):
        inseq_rival.older(source, tmp_path)


def test_a_process_answers_a_case_at_a_time(tmp_path):
    """A stand-in for inseq's Python: it gives as many scores as the case has tokens, and 3 seconds."""
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\nexec python3 -c '\nimport json, sys\n"
        'print(json.dumps({"inseq": "0"}), flush=True)\n'
        "for line in sys.stdin:\n    case = json.loads(line)\n"
        '    assert case["clock"] == "processor"\n'
        '    print(json.dumps({"scores": [case["ids"]], "seconds": 3.0}), flush=True)\n\'\n'
    )
    python.chmod(0o755)
    with inseq_rival.running(str(python), str(toy_pair.BASE), 1) as found:
        assert found.versions == {"inseq": "0"}
        scores, seconds = found.way("a", "a b", [1, 2])(inseq_rival.CLOCKS["processor"])
        assert (scores.tolist(), seconds) == ([[1, 2]], 3.0)


def test_a_process_that_ends_is_said(tmp_path):
    with (
        pytest.raises(SystemExit, match="inseq's process ended with 1"),
        inseq_rival.running("false", str(toy_pair.BASE), 1),
    ):
        pass


@pytest.mark.parametrize(("option", "expected"), [("--only", "words"), ("--clock", "wall")])
def test_a_group_or_a_clock_that_there_is_not_is_refused(monkeypatch, option: str, expected: str):
    monkeypatch.setattr(table, "GROUPS", {"words": lambda _: iter([])})
    app = typer.Typer()
    app.command()(table.main)
    done = CliRunner().invoke(app, ["no model", option, "typo"])
    assert done.exit_code == 2
    assert "'typo' is none of" in done.output
    assert expected in done.output


def test_one_group_alone_is_compared(monkeypatch):
    monkeypatch.setattr(table, "GROUPS", {"a": lambda _: iter([]), "b": lambda _: iter([compared(0.1)])})
    monkeypatch.setattr(table.attribution, "matmul_rate", lambda clock: 1e9)
    rows = {
        only: sum(len(some) for some in table.compare(None, found, ticking(), only=only, repeats=1, most=1.0))
        for only in ("a", "b", "")
        if (found := {"rows": [], "gflop_per_second": []}) is not None
    }
    assert rows == {"a": 0, "b": 2, "": 2}


def test_the_command_prints_the_table_and_writes_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "GROUPS", {"words": lambda _: iter([compared(0.1)])})
    place = tmp_path / "table.json"
    app = typer.Typer()
    app.command()(table.main)
    threads = torch.get_num_threads()
    try:
        done = CliRunner().invoke(app, [str(toy_pair.BASE), "--json", str(place), "--repeats", "1", "--clock", "wall"])
    finally:
        torch.set_num_threads(threads)
    assert done.exit_code == 0, done.output
    kept = json.loads(place.read_text())
    assert markdown(kept) in done.output
    assert kept["clock"] == "wall"
    assert [row["rival"] for row in kept["rows"]] == ["theirs", "theirs"]
    assert re.search(r"mine, b: theirs", done.output)
