"""Configs: the example is the defaults, and whatever is wrong is named with its line."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from lensdiff.pipeline.config import RunConfig
from lensdiff.pipeline.toml import check_config, line_of, load_config
from lensdiff.results import InputError

EXAMPLE = Path(__file__).parents[2] / "lensdiff" / "pipeline" / "example.toml"
GOOD = """# a comment
base = "a"
tuned = "b"
prompts = "p.jsonl"
"""


def uncommented(text: str) -> str:
    """The example with every default written out."""
    lines = []
    for line in text.split("\n"):
        key, equals, _ = line.removeprefix("# ").partition(" = ")
        lines.append(line.removeprefix("# ") if line.startswith("# ") and equals and key.isidentifier() else line)
    return "\n".join(lines)


def error_of(tmp_path: Path, text: str) -> str:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_config(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


def test_the_example_loads_and_its_comments_are_the_defaults(tmp_path):
    example = load_config(EXAMPLE)
    (tmp_path / "all.toml").write_text(
        uncommented(EXAMPLE.read_text())
        .replace('prompts = "prompts.jsonl"', "")
        .replace('data = "tuning.jsonl" ', "# ")
        .replace("layers = [0, 1, 2] ", "# ")
    )
    everything = load_config(tmp_path / "all.toml")
    written = everything.model_dump()
    assert written.pop("max_prompts") == 12
    assert (written.pop("base_revision"), written.pop("tuned_revision")) == ("main", "main")
    plain = example.model_dump()
    for key in ("max_prompts", "base_revision", "tuned_revision"):
        assert plain.pop(key) is None
    assert written == plain
    # every key of the config stands in the example
    text = EXAMPLE.read_text()
    for name, field in RunConfig.model_fields.items():
        assert name in text
        section = field.default_factory
        if isinstance(section, type) and issubclass(section, BaseModel):
            assert all(f"{key} =" in text for key in section.model_fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "colour = 3\n", ", line 5: unknown key 'colour', available: base, tuned, prompts"),
        (GOOD + "\n[heads]\n# more\ntopk = 3\n", ", line 8: unknown key 'heads.topk', available: layers, top_k"),
        (GOOD + 'seed = "one"\n', ", line 5: seed is 'one', expected an integer"),
        (GOOD + "seed = 1.5\n", ", line 5: seed is 1.5, expected an integer"),
        (GOOD + "max_new_tokens = 0\n", ", line 5: max_new_tokens is 0, expected greater than or equal to 1"),
        (GOOD + "base_revision = 3\n", ", line 5: base_revision is 3, expected a text in quotes"),
        (GOOD + "heads = 3\n", ", line 5: heads is 3, expected a table of keys"),
        (GOOD + "analyses = []\n", ", line 5: analyses is [], expected a list that is not empty"),
        (GOOD + 'analyses = "heads"\n', ", line 5: analyses is 'heads', expected a list"),
        (
            GOOD + 'analyses = [\n  "heads",\n  "tails",\n]\n',
            ", line 5: analyses[1] is 'tails', expected one of 'weights', 'instruction_use', 'attribution'",
        ),
        (GOOD + "[attribution]\nretokenise = 1\n", ", line 6: attribution.retokenise is 1, expected true or false"),
        (GOOD + "[heads]\nthreshold_std = true\n", ", line 6: heads.threshold_std is True, expected a number"),
        (GOOD + '[mlp]\nlayers = [0, "1"]\n', ", line 6: mlp.layers[1] is '1', expected an integer"),
        (GOOD + 'device = "cpu"\nkeep = "one"\n', ', line 6: keep = "one" holds one model at a time'),
        (GOOD + 'keep = "one"\n[controls]\nprompts = 4\n', ', line 7: keep = "one" holds one model at a time'),
        (GOOD + "[controls]\nheads = -1\n", ", line 6: controls.heads is -1, expected greater than or equal to 0"),
        (
            GOOD + '[controls]\nkind = "norm"\n',
            ", line 6: unknown key 'controls.kind', available: kinds, data, prompts",
        ),
        (GOOD + "[controls]\nrotation_norm = 3\n", ", line 6: unknown key 'controls.rotation_norm'"),
        (GOOD + "[controls]\nkinds = []\n", ", line 6: controls.kinds is [], expected a list that is not empty"),
        (
            GOOD + '[controls]\nkinds = ["norm", "self"]\n',
            ", line 6: controls.kinds[1] is 'self', expected one of 'distilled', 'shuffled', 'gradient-noise'",
        ),
        (
            GOOD + '[controls]\nkinds = ["norm", "norm"]\n',
            ", line 6: a kind comes twice (norm, norm), expected each once",
        ),
        (GOOD + '[controls]\nkinds = ["shuffled"]\n', ", line 6: shuffled controls need the tuning data: name a file"),
        (
            GOOD + '[controls]\nkinds = ["norm", "shuffled"]\n\ndata = ""\n',
            ", line 8: controls.data is '', expected a text that is not empty",
        ),
        (GOOD + '[controls]\ndata = "t.jsonl"\n', ", line 6: tuning data are for shuffled controls: add the kind"),
        (GOOD + "[instruction_use]\ndraws = 0\n", ", line 6: instruction_use.draws is 0, expected greater than or"),
        (GOOD + "[instruction_use]\nmax_tokens = 0\n", ", line 6: instruction_use.max_tokens is 0, expected greater"),
        (GOOD + "[mlp]\nn_components = 8\n", ", line 5: rank 10 is above n_components = 8"),
        (GOOD + "[mlp]\nn_components = 8\nranks = [1, 9]\n", ", line 7: rank 9 is above n_components = 8"),
        (
            GOOD + 'analyses = ["attention"]\ndtype = "bfloat16"\n',
            ": a control model cannot be run in bfloat16: give 0, or dtype = 'float32'",
        ),
        (GOOD + 'dtype = "bfloat16"\n', ", line 5: attribution needs float32 or float64, dtype is bfloat16"),
        (GOOD + 'analyses = ["mlp", "mlp"]\n', ", line 5: an analysis comes twice"),
        (GOOD + '[[prompt]]\ntext = "x"\n', ", line 5: prompts come from a file (prompts) or from the config"),
        (
            'base = "a"\ntuned = "b"\n[[prompt]]\nid = "x"\ntext = "x"\n[[prompt]]\nid = "x"\ntext = "y"\n',
            ", line 3: two prompts have the same id",
        ),
        ('base = "a"\ntuned = "b"\nanalyses = ["outputs"]\n', ", line 3: outputs needs prompts"),
        ('base = "a"\ntuned = "b"\n', ": instruction_use needs prompts"),
        ('base = "a"\nprompts = "p.jsonl"\n', ": tuned is missing, a config needs it"),
        ('base = "a"\ntuned = "b\n', " is not TOML: Illegal character"),
        ('base = "a"\nbase = "b"\n', " is not TOML: Cannot overwrite a value (at line 2"),
        (GOOD + 'x = 1\nseed = "s"\n', ", line 5: unknown key 'x'"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, message):
    assert error_of(tmp_path, text).startswith(message)


COUNTS = ("prompts", "attention", "heads", "rotation", "attribution")


@pytest.mark.parametrize("left", COUNTS)
def test_one_model_at_a_time_makes_no_control_of_any_analysis(tmp_path, left):
    none = "".join(f"{name} = 0\n" for name in COUNTS)
    (tmp_path / "none.toml").write_text(f'{GOOD}keep = "one"\n[controls]\n{none}')
    assert load_config(tmp_path / "none.toml").keep == "one"
    one = none.replace(f"{left} = 0", f"{left} = 1")
    line = 7 + COUNTS.index(left)
    message = error_of(tmp_path, f'{GOOD}keep = "one"\n[controls]\n{one}')
    assert message.startswith(f', line {line}: keep = "one" holds one model at a time')
    assert message.endswith("set prompts, attention, heads, rotation, attribution of [controls] to 0")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1000])
def test_any_number_of_controls_is_a_number(tmp_path, count):
    (tmp_path / "run.toml").write_text(f"{GOOD}[controls]\n" + "".join(f"{name} = {count}\n" for name in COUNTS))
    found = load_config(tmp_path / "run.toml").controls
    assert [getattr(found, name) for name in COUNTS] == [count] * 5
    assert found.kinds == ["gradient-noise", "spectrum"]


@pytest.mark.parametrize(("analysis", "name"), [("attention", "attention"), ("instruction_use", "prompts")])
def test_controls_of_weights_alone_may_be_in_half_precision(tmp_path, analysis, name):
    text = f'{GOOD}dtype = "bfloat16"\nanalyses = ["heads", "mlp"{{}}]\n'
    (tmp_path / "weights.toml").write_text(text.format(""))
    assert load_config(tmp_path / "weights.toml").controls.rotation == 99
    message = error_of(tmp_path, text.format(f', "{analysis}"') + f"[controls]\n{name} = 1\n")
    assert message == ", line 8: a control model cannot be run in bfloat16: give 0, or dtype = 'float32'"


def test_all_that_is_wrong_is_named(tmp_path):
    message = error_of(tmp_path, GOOD + 'seed = "s"\ndevice = 3\n')
    assert "line 5: seed is 's'" in message
    assert "(and 1 more:" in message
    assert "line 6: device is 3, expected a text in quotes" in message


def test_files_that_are_no_config(tmp_path):
    with pytest.raises(InputError, match="no config file at"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"base = '\xff'")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        load_config(tmp_path / "bytes.toml")
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_config(tmp_path / "bom.toml").base == "a"


def test_a_mapping_has_no_lines():
    with pytest.raises(InputError, match=r"^config: unknown key 'x', available"):
        check_config({"base": "a", "tuned": "b", "prompts": "c", "x": 1})


def test_line_of_values_over_several_lines():
    text = 'a = [\n 1,\n 2,\n]\n\n# comment\nb = """\nx = 3\n"""\n[c.d]\ne = {f = 1}\n'
    places = {("a",): 1, ("a", 1): 1, ("b",): 7, ("c",): 10, ("c", "d", "e"): 11, ("c", "d", "e", "f"): 11}
    assert {keys: line_of(text, keys) for keys in places} == places
    assert line_of(text, ("x",)) is None


def test_paths_are_relative_to_the_config(tmp_path):
    (tmp_path / "models" / "base").mkdir(parents=True)
    (tmp_path / "run.toml").write_text(GOOD.replace('"a"', '"models/base"').replace('"b"', '"./missing"'))
    config = load_config(tmp_path / "run.toml")
    assert config.source("base") == str(tmp_path / "models" / "base")
    assert config.source("tuned") == str(tmp_path / "missing")
    assert config.path("p.jsonl") == tmp_path / "p.jsonl"
    assert config.model_copy(update={"tuned": "owner/name"}).source("tuned") == "owner/name"
