"""`lensdiff demo`, on fewer prompts and controls than a user's; `make demo` runs the whole."""

from pathlib import Path

from lensdiff.cli import whole
from lensdiff.results import ResultStore
from lensdiff.stats import FEWEST_FOR_VERDICT
from tests.cli.conftest import Command

LESS = {
    "max_prompts": 5,  # of two kinds: a donor of instructions is of another one
    "max_new_tokens": 4,
    "templates": ["raw", "chat"],
    "template_effects": {"measures": ["attention", "knock_out"], "max_prompts": 3},
    "controls": {
        "kinds": ["spectrum"],
        **dict.fromkeys(("instruction_use", "knock_out", "dose", "first_divergence"), 1),
        **dict.fromkeys(("residual_stream", "layer_similarity", "directions", "activation_difference"), 1),
        "value_rotation": 1,
        "mlp": 2,
        **dict.fromkeys(("attention", "heads", "attribute", "patch"), 0),
    },
    "instruction_use": {"draws": 1},
    "dose": {"amounts": [], "parts": [], "part_amounts": []},
    "mlp": {"n_components": 16, "ranks": [1, 5]},
    "activation_difference": {"max_texts": 32, "effect_texts": 3, "draws": 2},
}


def test_the_demo_gives_a_report(lensdiff: Command, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(whole, "DEMO", LESS)
    out = tmp_path / "demo"
    ran = lensdiff("demo", "--out", out)
    assert ran.code == 0, ran.err
    first, *_, last = ran.out.strip().split("\n")
    assert (first, last) == ("What changed", str(out / "report.html"))
    assert "  – The responses differ in " in ran.out
    assert "memory: about " in ran.err
    assert "time: about " in ran.err
    store = ResultStore(out)
    assert {state.state for state in store.manifest.steps.values()} == {"done"}
    page = (out / "report.html").read_text()
    assert "The pair" in page
    assert "prompts are raw, without a chat template" in page
    assert 'id="template_effects"' in page
    effects = store.load_table("template_effects")
    assert set(effects.effect) == {"model", "template", "interaction"}
    assert lensdiff("demo", "--out", out, "--quiet") == (0, f"{out / 'report.html'}\n", "")


def test_the_demos_own_config_is_valid():
    from lensdiff.pipeline.toml import check_config

    models = {side: str(whole.TOY_PAIR / side) for side in ("base", "tuned")}
    config = check_config(models | {"prompts": str(whole.TOY_PAIR / "prompts.jsonl")} | whole.DEMO)
    counts = config.controls
    claimed = ("instruction_use", "heads", "value_rotation")
    assert min(counts.count(name) for name in claimed) == FEWEST_FOR_VERDICT
    assert Path(config.source("base"), "config.json").is_file()
