"""Each option of each analysis' command reaches the config, as if a config file had said it."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from lensdiff.analyses import ANALYSES
from lensdiff.cli import app
from lensdiff.pipeline import door, execute
from lensdiff.pipeline.config import RunConfig
from lensdiff.pipeline.toml import load_config
from lensdiff.results import InputError
from tests.cli.conftest import Command

VERBS = [analysis.name.replace("_", "-") for analysis in ANALYSES if analysis.done == "asked"]
PROMPT = "--prompt 'a b c' --instruction a --instruction b --context c --response r --template chat"
PROMPT_TOML = '[[prompt]]\ntext = "a b c"\ninstruction = ["a", "b"]\ncontext = ["c"]\nresponse = "r"\n'
MACHINE = "--out o --device cuda:1 --dtype float64 --quiet"
MACHINE_TOML = 'base = "b"\ntuned = "t"\nout = "o"\ndevice = "cuda:1"\ndtype = "float64"\n'
WORDS, WORDS_TOML = "--vocabulary w.tsv --vectors v.txt", 'vocabulary = "w.tsv"\nvectors = "v.txt"\n'
KINDS, KINDS_TOML = "--kinds 'norm, spectrum' --seed 4", 'kinds = ["norm", "spectrum"]\n'
# each option at a value that is not its default, and the config that says the same
EVERY = {
    "weights": ("--stream", "stream = true\n"),
    "instruction-use": (
        f"{PROMPT} --texts 'tuned, reference' --draws 3 --max-tokens 5 --max-new-tokens 7 --controls 2 {KINDS}",
        'max_new_tokens = 7\ntemplates = ["chat"]\n'
        'seed = 4\n[instruction_use]\ntexts = ["tuned", "reference"]\ndraws = 3\nmax_tokens = 5\n'
        f"[controls]\ninstruction_use = 2\n{KINDS_TOML}{PROMPT_TOML}",
    ),
    "knock-out": (
        f"{PROMPT} --draws 3 --max-tokens 5 --max-new-tokens 7 --controls 2 {KINDS}",
        'max_new_tokens = 7\ntemplates = ["chat"]\n'
        "seed = 4\n[knock_out]\ndraws = 3\nmax_tokens = 5\n"
        f"[controls]\nknock_out = 2\n{KINDS_TOML}{PROMPT_TOML}",
    ),
    "dose": (
        f"{PROMPT} --amounts -1,0.5,2 --parts 'not layer 1, head 0.1' --part-amounts 0.25 --max-tokens 5 "
        f"--max-new-tokens 7 --controls 2 {KINDS}",
        'max_new_tokens = 7\ntemplates = ["chat"]\n'
        "seed = 4\n[dose]\namounts = [-1, 0.5, 2]\nparts = ['not layer 1', 'head 0.1']\n"
        f"part_amounts = [0.25]\nmax_tokens = 5\n[controls]\ndose = 2\n{KINDS_TOML}{PROMPT_TOML}",
    ),
    "attribute": (
        f"{PROMPT} --target logit --path integrated --baseline 'token: a' --nodes 5 --method reverse "
        f"--deletion-draws 3 --curve-prompts 2 --curve-draws 5 --curve-tokens 6 --retokenise --max-new-tokens 7 "
        f"--controls 0 {KINDS}",
        'max_new_tokens = 7\ntemplates = ["chat"]\n'
        'seed = 4\n[attribute]\ntarget = "logit"\npath = "integrated"\nbaseline = "token: a"\n'
        'nodes = 5\nmethod = "reverse"\ndeletion_draws = 3\ncurve_prompts = 2\ncurve_draws = 5\ncurve_tokens = 6\n'
        f"retokenise = true\n[controls]\nattribute = 0\n{KINDS_TOML}{PROMPT_TOML}",
    ),
    "outputs": (
        f"{PROMPT} --max-new-tokens 7 --seed 4",
        f'max_new_tokens = 7\ntemplates = ["chat"]\nseed = 4\n{PROMPT_TOML}',
    ),
    "first-divergence": (
        f"{PROMPT} --layers 0,2-3 --max-tokens 5 --unembed tuned --draws 3 --max-new-tokens 7 --controls 2 {KINDS}",
        'max_new_tokens = 7\ntemplates = ["chat"]\n'
        'seed = 4\n[first_divergence]\nlayers = [0, 2, 3]\nmax_tokens = 5\nunembed = "tuned"\n'
        f"draws = 3\n[controls]\nfirst_divergence = 2\n{KINDS_TOML}{PROMPT_TOML}",
    ),
    "residual-stream": (
        f"{PROMPT} --layers 0,2-3 --max-tokens 5 --max-new-tokens 7 --controls 2 {KINDS}",
        'max_new_tokens = 7\ntemplates = ["chat"]\n'
        "seed = 4\n[residual_stream]\nlayers = [0, 2, 3]\nmax_tokens = 5\n"
        f"[controls]\nresidual_stream = 2\n{KINDS_TOML}{PROMPT_TOML}",
    ),
    "layer-similarity": (
        f"{PROMPT} --layers 0,2-3 --max-tokens 5 --max-new-tokens 7 --controls 2 {KINDS}",
        'max_new_tokens = 7\ntemplates = ["chat"]\n'
        "seed = 4\n[layer_similarity]\nlayers = [0, 2, 3]\nmax_tokens = 5\n"
        f"[controls]\nlayer_similarity = 2\n{KINDS_TOML}{PROMPT_TOML}",
    ),
    "directions": (
        f"{PROMPT} --folds 3 --permutations 29 --layer 1 --draws 3 --max-tokens 5 --max-new-tokens 7 --controls 2 "
        f"{KINDS}",
        'max_new_tokens = 7\ntemplates = ["chat"]\n'
        "seed = 4\n[directions]\nfolds = 3\npermutations = 29\nlayer = 1\ndraws = 3\n"
        f"max_tokens = 5\n[controls]\ndirections = 2\n{KINDS_TOML}{PROMPT_TOML}",
    ),
    "activation-difference": (
        f"--texts t.txt --layers 0,2-3 --positions 3 --max-texts 9 --layer 2 --position 1 --effect-texts 5 --draws 3 "
        f"--controls 2 {KINDS}",
        'seed = 4\ntexts = "t.txt"\n[activation_difference]\nlayers = [0, 2, 3]\npositions = 3\nmax_texts = 9\n'
        "layer = 2\nposition = 1\neffect_texts = 5\ndraws = 3\n"
        f"[controls]\nactivation_difference = 2\n{KINDS_TOML}",
    ),
    "attention": (
        f"{PROMPT} --layers 0,2-3 --sink counted --keep-patterns 1 --max-new-tokens 7 --controls 2 {KINDS}",
        'max_new_tokens = 7\ntemplates = ["chat"]\n'
        'seed = 4\n[attention]\nlayers = [0, 2, 3]\nsink = "counted"\nkeep_patterns = 1\n'
        f"[controls]\nattention = 2\n{KINDS_TOML}{PROMPT_TOML}",
    ),
    "template-effects": (
        f"{PROMPT.removesuffix(' --template chat')} --measures 'density, knock_out' --draws 3 --max-prompts 2 "
        "--max-new-tokens 7 --seed 4",
        'max_new_tokens = 7\ntemplates = ["raw", "chat"]\nseed = 4\n[template_effects]\n'
        f'measures = ["density", "knock_out"]\ndraws = 3\nmax_prompts = 2\n{PROMPT_TOML}',
    ),
    "heads": (
        f"{WORDS} --layers 1 --top-k 7 --threshold-words 50 --threshold-std 2.5 --layers-per-group 2 --table-top 3 "
        f"--no-stream --controls 2 {KINDS}",
        f"seed = 4\nstream = false\n{WORDS_TOML}"
        "[heads]\nlayers = [1]\ntop_k = 7\nthreshold_words = 50\nthreshold_std = 2.5\n"
        f"layers_per_group = 2\ntable_top = 3\n[controls]\nheads = 2\n{KINDS_TOML}",
    ),
    "patch": (
        f"{PROMPT} --layers 0,2-3 --max-prompts 2 --max-tokens 5 --method estimate --rerun 3 --set-size 4 "
        f"--max-new-tokens 7 --controls 2 {KINDS}",
        'max_new_tokens = 7\ntemplates = ["chat"]\n'
        "seed = 4\n[patch]\nlayers = [0, 2, 3]\nmax_prompts = 2\nmax_tokens = 5\n"
        f'method = "estimate"\nrerun = 3\nset_size = 4\n[controls]\npatch = 2\n{KINDS_TOML}{PROMPT_TOML}',
    ),
    "mlp": (
        f"{WORDS} --layers 1 --sides key,gate --components 9 --ranks 2,4 --top-words 6 --no-fold-gain "
        f"--stream --controls 2 {KINDS}",
        f"seed = 4\nstream = true\n{WORDS_TOML}"
        '[mlp]\nlayers = [1]\nsides = ["key", "gate"]\nn_components = 9\nranks = [2, 4]\n'
        f"top_words = 6\nfold_gain = false\n[controls]\nmlp = 2\n{KINDS_TOML}",
    ),
    "value-rotation": (
        f"--layers 1 --stream --controls 2 {KINDS}",
        f"seed = 4\nstream = true\n[value_rotation]\nlayers = [1]\n[controls]\nvalue_rotation = 2\n{KINDS_TOML}",
    ),
}
# the paper's, and those that the pages tell to be the defaults
DEFAULTS = {
    "instruction-use": {"--texts": "base,tuned,reference", "--draws": 8, "--max-tokens": 64, "--controls": 19},
    "dose": {
        "--amounts": "-0.5,0.0,0.25,0.5,0.75,1.0,1.5",
        "--parts": "not W_out,attention,mlp,embedding",
        "--part-amounts": "0.5",
        "--max-tokens": 64,
        "--controls": 19,
    },
    "attribute": {"--target": "probability", "--method": "auto", "--deletion-draws": 8, "--controls": 5},
    "residual-stream": {"--layers": None, "--max-tokens": 64, "--controls": 19, "--max-new-tokens": 300},
    "layer-similarity": {"--layers": None, "--max-tokens": 64, "--controls": 19, "--max-new-tokens": 300},
    "directions": {"--folds": 5, "--permutations": 99, "--layer": None, "--draws": 19, "--max-tokens": 32},
    "activation-difference": {
        "--texts": "default",
        "--positions": 5,
        "--max-texts": None,
        "--layer": None,
        "--position": None,
        "--effect-texts": 32,
        "--draws": 19,
        "--controls": 19,
    },
    "attention": {"--sink": "apart", "--layers": None, "--controls": 19, "--max-new-tokens": 300},
    "heads": {"--top-k": 100, "--threshold-words": 3000, "--threshold-std": 1.96, "--layers-per-group": 8},
    "patch": {"--max-prompts": 4, "--max-tokens": 32, "--method": "exact", "--rerun": 20, "--controls": 19},
    "mlp": {"--sides": "value", "--components": 300, "--top-words": 50, "--controls": 99, "--fold-gain": True},
    "value-rotation": {"--controls": 99, "--kinds": "gradient-noise,spectrum", "--seed": 0},
    "outputs": {"--max-new-tokens": 300, "--device": "auto", "--dtype": "float32"},
}


class Asked(InputError):
    """Ends a command where its run would begin."""


@pytest.fixture
def configured(lensdiff: Command, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs a command up to its config."""

    def config_of(*arguments: object) -> RunConfig:
        found: list[RunConfig] = []

        def stop(config: RunConfig, **_: object) -> None:
            found.append(config)
            raise Asked("asked")

        monkeypatch.setattr(door, "check", lambda *_: None)  # what is named is nowhere
        monkeypatch.setattr(execute, "execute", stop)
        ran = lensdiff(*arguments)
        assert ran.err.strip().split("\n")[-1] == "lensdiff: asked", ran.err
        return found[0]

    return config_of


def said_by(tmp_path: Path, text: str) -> dict[str, Any]:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return load_config(path).model_dump()


def options_of(verb: str) -> dict[str, Any]:
    """The options of a command, by each of their flags."""
    group: Any = typer.main.get_command(app)
    options = [parameter for parameter in group.commands[verb].params if parameter.param_type_name == "option"]
    return {flag: option for option in options for flag in option.opts}


def test_every_analysis_is_looked_at():
    assert list(EVERY) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_says_what_a_config_says(configured: Any, tmp_path: Path, verb: str):
    arguments, text = EVERY[verb]
    config = configured(verb, "b", "t", *shlex.split(f"{MACHINE} {arguments}"))
    chosen = f'analyses = ["{verb.replace("-", "_")}"]\n'
    assert config.model_dump() == said_by(tmp_path, chosen + MACHINE_TOML + text)


@pytest.mark.parametrize("verb", VERBS)
def test_no_option_is_left_out_above(verb: str):
    words = shlex.split(f"{MACHINE} {EVERY[verb][0]}")
    given = {f"--{word.removeprefix('--').removeprefix('no-')}" for word in words if word.startswith("--")}
    flags = {option.opts[0] for option in options_of(verb).values()}
    assert flags - {"--prompts", "--help"} == given


@pytest.mark.parametrize("verb", VERBS)
def test_without_options_a_command_is_a_config_without_keys(configured: Any, tmp_path: Path, verb: str):
    prompts = ("--prompts", "p.jsonl") if "--prompts" in options_of(verb) else ()
    config = configured(verb, "b", "t", *prompts)
    chosen = f'base = "b"\ntuned = "t"\nanalyses = ["{verb.replace("-", "_")}"]\nout = "lensdiff-{verb}"\n'
    chosen += 'templates = ["raw", "chat"]\n' if verb == "template-effects" else ""
    assert config.model_dump() == said_by(tmp_path, chosen + ('prompts = "p.jsonl"\n' if prompts else ""))


@pytest.mark.parametrize(("verb", "flag"), [(verb, flag) for verb, flags in DEFAULTS.items() for flag in flags])
def test_defaults_are_those_of_the_paper(verb: str, flag: str):
    assert options_of(verb)[flag].default == DEFAULTS[verb][flag]


@pytest.mark.parametrize("verb", VERBS)
def test_help_reads_from_the_inputs_to_the_machine(lensdiff: Command, verb: str):
    own = [name for name in options_of(verb) if name.startswith("--")]
    assert {"--out", "--device", "--quiet"} <= set(own)
    first = [
        name for name in ("--out", "--prompt", "--prompts", "--template", "--vocabulary", "--vectors") if name in own
    ]
    last = [
        name
        for name in ("--controls", "--kinds", "--seed", "--device", "--dtype", "--stream", "--quiet")
        if name in own
    ]
    order = [name for name in own if name in first or name in last]
    assert order == first + last
    assert [name for name in own if name in last] == own[-len(last) :]
    shown = lensdiff(verb, "--help").out
    assert all(name in shown for name in own)


def test_the_list_of_commands_says_every_question_in_full(lensdiff: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = " ".join(lensdiff("--help").out.split())
    for analysis in ANALYSES:
        assert f"{analysis.question}." in shown or analysis.done == "always"


def test_a_help_names_every_choice(lensdiff: Command):
    shown = " ".join(lensdiff("attribute", "--help").out.split())
    for target in ("probability", "log_probability", "logit", "'contrast: yes| no'", "choice"):
        assert target in shown.partition("--target")[2].partition("--path")[0]
    assert "of the first kind" in shown
    assert "of each kind; a band needs 19, a verdict 59" in " ".join(lensdiff("heads", "--help").out.split())


# both renderings


@pytest.mark.parametrize("analysis", [a for a in ANALYSES if "prompts" in a.asks and not a.both], ids=lambda a: a.name)
def test_both_takes_the_table_of_effects_along_where_it_has_the_analysis_numbers(
    configured: Any, lensdiff: Command, analysis: Any
):
    verb = analysis.name.replace("_", "-")
    arguments = (verb, "b", "t", "--prompt", "a b", "--template", "both")
    if not analysis.effects:
        ran = lensdiff(*arguments)
        assert ran.code == 2
        assert "--template both sets the numbers of" in " ".join(ran.err.split())
        return
    config = configured(*arguments)
    assert config.templates == ["raw", "chat"]
    assert config.analyses == [analysis.name, "template_effects"]
    assert config.template_effects.measures == list(analysis.effects)  # type: ignore[attr-defined]


def test_a_rendering_that_there_is_not_is_refused(lensdiff: Command):
    ran = lensdiff("outputs", "b", "t", "--prompt", "a b", "--template", "markdown")
    assert ran.code == 2
    assert "--template 'markdown' is none of raw, chat, both" in " ".join(ran.err.split())
