"""Every command with what cannot be: exit code 2, one sentence on standard error, no traceback."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lensdiff.cli import app
from lensdiff.pipeline.config import parse
from lensdiff.pipeline.toml import load_config
from lensdiff.results import InputError
from lensdiff.results.manifest import Manifest
from tests.bad_inputs.refusals import Case, assert_command_refuses, case, is_sentence
from tests.cli.conftest import Command, lensdiff, models
from tests.pipeline.conftest import config_for

__all__ = ["lensdiff", "models"]

COMMANDS = sorted(c.callback.__name__.replace("_", "-") for c in app.registered_commands if c.callback)
WHOLE = ("demo", "init", "plan", "run", "report", "published", "annotate")
VERBS = [name for name in COMMANDS if name not in WHOLE]
PROMPTED = (
    *("attention", "attribute", "directions", "dose", "first-divergence", "instruction-use", "knock-out"),
    *("layer-similarity", "outputs", "patch", "residual-stream", "template-effects"),
)
DEEP = "[" * 100_000
DIGITS = "9" * 5_000


def test_no_command_is_missing():
    assert set(COMMANDS) > set(WHOLE)
    assert len(VERBS) >= 8


class Places:
    """Where a case finds what it names: the tiny pair, and a folder of its own."""

    def __init__(self, models: Path, tmp_path: Path):
        self.models, self.tmp = models, tmp_path
        self.base, self.tuned = models / "base", models / "tuned"
        self.file = tmp_path / "file"
        self.file.write_text("")
        self.dangling = tmp_path / "dangling"
        self.dangling.symlink_to(tmp_path / "nowhere" / "at" / "all")
        self.results = tmp_path / "results"
        self.results.mkdir()
        (self.results / "manifest.json").write_text(Manifest().model_dump_json())


@pytest.fixture
def places(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-the-test")
    return Places(models, tmp_path)


def verb(name: str, *options: Any, base: Any = None, tuned: Any = None) -> Callable[[Places], list[Any]]:
    """A command on the tiny pair; paths among the options are made of what `Places` has."""

    def arguments(places: Places) -> list[Any]:
        given = [option(places) if callable(option) else option for option in options]
        prompt = ["--prompt", "Write a poem.", "--instruction", "Write"] if name in PROMPTED else []
        prompt += ["--measure", "weights.relative_norm"] if name == "series" else []
        if any(option in ("--prompts", "--prompt") for option in given):
            prompt = []
        out = [] if "--out" in given else ["--out", places.tmp / "out"]
        first, second = (base or places.base), (tuned or places.tuned)
        device = [] if "--device" in given else ["--device", "cpu"]
        return [name, first, second, *prompt, *given, *out, *device, "--quiet"]

    return arguments


def plain(*arguments: Any) -> Callable[[Places], list[Any]]:
    return lambda places: [argument(places) if callable(argument) else argument for argument in arguments]


SHARED = {
    "a base of 5,000 letters": (lambda name: verb(name, base="b" * 5_000), ("bbb",)),
    "a base that is not there": (lambda name: verb(name, base="./none"), ("none",)),
    "out below a file": (lambda name: verb(name, "--out", lambda places: places.file / "below"), ("below",)),
    "out a dangling link": (lambda name: verb(name, "--out", lambda places: places.dangling), ("dangling",)),
    "out a file": (lambda name: verb(name, "--out", lambda places: places.file), ("file",)),
    "out of 5,000 letters": (lambda name: verb(name, "--out", "o" * 5_000), ("ooo",)),
    "device zzz": (lambda name: verb(name, "--device", "zzz"), ("zzz",)),
    "device meta": (lambda name: verb(name, "--device", "meta"), ("meta",)),
    "device cuda:77": (lambda name: verb(name, "--device", "cuda:77"), ("cuda:77",)),
    "dtype zzz": (lambda name: verb(name, "--dtype", "zzz"), ("zzz",)),
    "an option that it has not": (lambda name: verb(name, "--zzz", "3"), ("--zzz",)),
}
ALL = [case(f"{name}: {what}", make(name), *says) for name in VERBS for what, (make, says) in SHARED.items()]

OWN = [
    case("heads: top_k 10^9", verb("heads", "--top-k", 10**9), "top_k", "1000000000"),
    case("heads: top_k 5,000 digits", verb("heads", "--top-k", DIGITS), "--top-k"),
    case("heads: top_k 0", verb("heads", "--top-k", 0), "--top-k"),
    case("heads: controls 10^9", verb("heads", "--controls", 10**9), "controls"),
    case("heads: a kind that is none", verb("heads", "--kinds", "zzz"), "zzz"),
    case("heads: a kind twice", verb("heads", "--kinds", "norm,norm"), "kinds"),
    case("heads: shuffled without data", verb("heads", "--kinds", "shuffled"), "shuffled"),
    case("heads: seed 2^70", verb("heads", "--seed", 2**70), "seed"),
    case("heads: seed -1", verb("heads", "--seed", -1), "--seed"),
    case("heads: seed in words", verb("heads", "--seed", "one"), "--seed"),
    case("heads: layers to 10^12", verb("heads", "--layers", "0-999999999999"), "--layers"),
    case("heads: layers of 5,000 digits", verb("heads", "--layers", DIGITS), "--layers"),
    case("heads: layers backwards", verb("heads", "--layers", "5-1"), "5-1"),
    case("heads: layers in words", verb("heads", "--layers", "all"), "all"),
    case("heads: layers of nothing", verb("heads", "--layers", ""), "--layers"),
    case("heads: layers twice", verb("heads", "--layers", "1,1"), "layers"),
    case("heads: a threshold of NaN", verb("heads", "--threshold-std", "nan"), "threshold_std"),
    case("heads: a word list that is not there", verb("heads", "--vocabulary", "none.tsv"), "none.tsv"),
    case("heads: a word list of 5,000 letters", verb("heads", "--vocabulary", "w" * 5_000), "www"),
    case("heads: vectors that are not there", verb("heads", "--vectors", "none.txt"), "none.txt"),
    case("heads: vectors of 5,000 letters", verb("heads", "--vectors", "v" * 5_000), "vvv"),
    case("mlp: components 10^9", verb("mlp", "--components", 10**9), "n_components"),
    case("mlp: a side that is none", verb("mlp", "--sides", "zzz"), "zzz"),
    case("mlp: no side", verb("mlp", "--sides", ""), "sides"),
    case("mlp: ranks in words", verb("mlp", "--ranks", "one"), "one"),
    case("mlp: ranks of 5,000 digits", verb("mlp", "--ranks", DIGITS), "--ranks"),
    case("mlp: rank 0", verb("mlp", "--ranks", "0"), "ranks"),
    case("attention: a sink that is none", verb("attention", "--sink", "zzz"), "zzz"),
    case("attention: keep 10^9 patterns", verb("attention", "--keep-patterns", 10**9), "keep_patterns"),
    case("attribute: a target that is none", verb("attribute", "--target", "zzz"), "zzz"),
    case("attribute: a method that is none", verb("attribute", "--method", "zzz"), "zzz"),
    case("attribute: 10^9 draws", verb("attribute", "--deletion-draws", 10**9), "deletion_draws"),
    case("attribute: 10^9 tokens", verb("attribute", "--max-new-tokens", 10**9), "max_new_tokens"),
    case("attribute: 0 tokens", verb("attribute", "--max-new-tokens", 0), "--max-new-tokens"),
    case("attribute: controls in half precision", verb("attribute", "--dtype", "float16"), "float16"),
    case("attribute: no prompts", verb("attribute", "--prompts", "none.jsonl"), "none.jsonl"),
    case("attribute: prompts of 5,000 letters", verb("attribute", "--prompts", "p" * 5_000 + ".jsonl"), "ppp"),
    case("attribute: prompts of another kind", verb("attribute", "--prompts", lambda places: places.file), ".jsonl"),
    case("attribute: an empty prompt", verb("attribute", "--prompt", " "), "empty"),
    case("attribute: an instruction that is not there",
         verb("attribute", "--prompt", "Write.", "--instruction", "zzz"), "zzz"),
    case("attribute: an empty response", verb("attribute", "--prompt", "Write.", "--response", " "), "response"),
    case("attribute: both", verb("attribute", "--prompt", "Write.", "--prompts", "a.jsonl"), "either"),
    case("attribute: a prompt beyond the context", verb("attribute", "--prompt", "poem " * 999), "128"),
    case("instruction-use: 10^9 draws", verb("instruction-use", "--draws", 10**9), "draws"),
    case("instruction-use: texts that are none", verb("instruction-use", "--texts", "zzz"), "zzz"),
    case("init: below a file", plain("init", lambda places: places.file / "a.toml"), "a.toml"),
    case("init: over a file", plain("init", lambda places: places.file), "--force"),
    case("init: over a folder", plain("init", lambda places: places.results, "--force"), "results"),
    case("init: 5,000 letters", plain("init", "i" * 5_000), "iii"),
    case("plan: no config", plain("plan", "none.toml"), "none.toml"),
    case("plan: a folder", plain("plan", lambda places: places.tmp), "no config file"),
    case("plan: 5,000 letters", plain("plan", "p" * 5_000), "ppp"),
    case("plan: an empty config", plain("plan", lambda places: places.file), "base"),
    case("run: no config", plain("run", "none.toml"), "none.toml"),
    case("run: a folder", plain("run", lambda places: places.tmp), "no config file"),
    case("run: 5,000 letters", plain("run", "r" * 5_000), "rrr"),
    case("run: an empty config", plain("run", lambda places: places.file), "base"),
    case("report: no directory", plain("report", "none"), "none"),
    case("report: a file", plain("report", lambda places: places.file), "manifest.json"),
    case("report: 5,000 letters", plain("report", "r" * 5_000), "rrr"),
    case("report: out below a file",
         plain("report", lambda places: places.results, "--out", lambda places: places.file / "below"), "file"),
    case("report: out a folder",
         plain("report", lambda places: places.results, "--out", lambda places: places.tmp), "a file cannot be made"),
    case("report: out of 5,000 letters",
         plain("report", lambda places: places.results, "--out", "o" * 5_000), "ooo"),
    case("published: no directory", plain("published", "none"), "FinalDataset.tsv"),
    case("published: 5,000 letters", plain("published", "p" * 5_000), "ppp"),
    case("annotate: no directory", plain("annotate", "none", "--model", "m"), "none"),
    case("annotate: no concepts", plain("annotate", lambda places: places.results, "--model", "m"), "concepts"),
    case("annotate: seeds 0",
         plain("annotate", lambda places: places.results, "--model", "m", "--seeds", 0), "--seeds"),
    case("annotate: concurrency in words",
         plain("annotate", lambda places: places.results, "--model", "m", "--concurrency", "many"), "--concurrency"),
    case("annotate: no model", plain("annotate", lambda places: places.results), "--model"),
    case("demo: out below a file", plain("demo", "--quiet", "--out", lambda places: places.file / "below"), "below"),
    case("demo: out a dangling link", plain("demo", "--quiet", "--out", lambda places: places.dangling), "dangling"),
    case("a command that is none", plain("zzz"), "zzz"),
]  # fmt: skip


@pytest.mark.parametrize("bad", [*ALL, *OWN])
def test_a_command_is_refused(lensdiff: Command, places: Places, bad: Case):
    assert_command_refuses(lensdiff(*bad.make(places)), *bad.says)


@pytest.mark.parametrize("wrong", ["zzz", "http://", "ftp://a/b", "http://a:b/v1", ""])
def test_annotate_tries_no_server_that_is_none(lensdiff: Command, places: Places, wrong):
    from lensdiff.results import ResultStore
    from lensdiff.steps.unit import Unit
    from tests.analyses.mlp.results import concepts
    from tests.directories import put

    store = ResultStore(places.results)
    with store.writing():
        for side in ("base", "tuned"):
            put(store, "concepts", Unit(model=side), concepts(side))
    ran = lensdiff("annotate", places.results, "--model", "m", "--base-url", wrong)
    assert_command_refuses(ran, "base_url", repr(wrong))


# configs


def toml_of(models: Path, tmp_path: Path, extra: str) -> Path:
    lines = [f'base = "{models}/base"', f'tuned = "{models}/tuned"', f'prompts = "{models}/prompts.jsonl"']
    path = tmp_path / "config.toml"
    path.write_text("\n".join([*lines, f'out = "{tmp_path}/out"', extra]))
    return path


CONFIGS = [
    case("no TOML", "= =", "TOML"),
    case("in brackets", "a = " + DEEP, "TOML", "nested"),
    case("5,000 digits", f"seed = {DIGITS}", "TOML", "digits"),
    case("5,000 hexadecimal digits", f"seed = 0x{'f' * 5_000}", "seed"),
    case("seed 2^70", f"seed = {2**70}", "seed"),
    case("seed -1", "seed = -1", "seed"),
    case("seed of a half", "seed = 0.5", "seed"),
    case("an unknown key", "zzz = 3", "zzz"),
    case("a key of 5,000 letters", f"{'z' * 5_000} = 3", "zzz"),
    case("a dtype of 5,000 letters", f'dtype = "{"d" * 5_000}"', "dtype"),
    case("no analyses", "analyses = []", "analyses"),
    case("an analysis that is none", 'analyses = ["zzz"]', "zzz"),
    case("an analysis twice", 'analyses = ["heads", "heads"]', "twice"),
    case("0 prompts", "max_prompts = 0", "max_prompts"),
    case("10^9 tokens", "max_new_tokens = 1000000000", "max_new_tokens"),
    case("a device of a number", "device = 3", "device"),
    case("a vocabulary of nothing", 'vocabulary = ""', "vocabulary"),
    case("a word list of 5,000 letters", f'vocabulary = "{"w" * 5_000}"', "www"),
    case("a word list with a null character", 'vocabulary = "a\\u0000b"', "a"),
    case("a home of nobody", 'vocabulary = "~nobody-of-that-name/w.tsv"', "~nobody"),
    case("top_k 10^9", "[heads]\ntop_k = 1000000000", "heads.top_k"),
    case("top_k in quotes", '[heads]\ntop_k = "10"', "heads.top_k"),
    case("controls 10^9", "[controls]\nheads = 1000000000", "controls.heads"),
    case("a table that is a number", "heads = 3", "heads"),
    case("a prompt that is a number", "prompt = [3]", "prompt"),
    case("layers that are empty", "[heads]\nlayers = []", "heads.layers"),
    case("no text", "\ud800", "UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize("bad", CONFIGS)
def test_a_config_is_refused(lensdiff: Command, places: Places, bad: Case):
    path = toml_of(places.models, places.tmp, "" if bad.name == "no text" else bad.make)  # type: ignore[arg-type]
    if bad.name == "no text":
        path.write_bytes(path.read_bytes() + b"\xff\xfe")
    ran = lensdiff("run", path, "--quiet")
    assert_command_refuses(ran, *bad.says)


VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
KEYS = [key for key in config_for(Path("models"), Path("out")) if key not in ("base", "tuned", "out")]


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(key=st.sampled_from([*KEYS, "seed", "dtype", "keep", "max_prompts", "analyses", "prompt"]), value=VALUES)
def test_any_value_of_a_config_is_one_or_refused(key, value):
    from lensdiff.pipeline.toml import check_config

    try:
        assert isinstance(check_config(config_for(Path("models"), Path("out")) | {key: value}), type(parse(
            config_for(Path("models"), Path("out")))))  # fmt: skip
    except InputError as error:
        is_sentence(str(error), key)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(text=st.text(alphabet="ab=[]{}\"'\n.,#019-:T \\\0", max_size=40) | st.binary(max_size=30))
def test_any_text_is_a_config_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("toml") / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:  # the shortest config is longer
        load_config(path)
    is_sentence(str(caught.value), "config.toml")


# as real processes

REAL = [
    ["weights", "b" * 5_000, "none"],
    ["plan", "none.toml"],
    ["run", "none.toml"],
    ["init", "/dev/null/a.toml"],
]


@pytest.mark.parametrize("arguments", REAL, ids=lambda arguments: arguments[0])
def test_a_process_ends_with_2_and_one_sentence(tmp_path: Path, arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "lensdiff", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment)
    assert ran.returncode == 2, ran.stderr
    assert ran.stdout == ""
    assert "Traceback" not in ran.stderr
    if "Usage:" not in ran.stderr:
        assert len(ran.stderr.strip().split("\n")) == 1, ran.stderr


def test_the_manifest_of_the_cases_is_what_a_run_writes(places: Places):
    assert json.loads((places.results / "manifest.json").read_text())["schema_version"] == Manifest().schema_version
