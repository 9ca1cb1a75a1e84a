"""Configs: the example is the defaults, and whatever is wrong is named with its line."""

import json
import re
import tomllib
import typing
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from lensdiff.analyses import ANALYSES
from lensdiff.inputs.prompts import load_prompts
from lensdiff.models.controlling.options import _available
from lensdiff.pipeline.config import KEYS_OF_KINDS, RayOptions, WholeConfig
from lensdiff.pipeline.example import WRITTEN, example
from lensdiff.pipeline.material import Material
from lensdiff.pipeline.prepare import prepare
from lensdiff.pipeline.toml import check_config, line_of, load_config
from lensdiff.results import InputError

GOOD = """# a comment
base = "a"
tuned = "b"
prompts = "p.jsonl"
"""
TARGETS = "one of probability, log_probability, logit, choice, or contrast:TEXT|TEXT with two different texts"
BARE = 'base = "a"\ntuned = "b"\n'
LINES = example().split("\n")
COUNTED = [analysis.name for analysis in ANALYSES if analysis.controls is not None]


def error_of(tmp_path: Path, text: str) -> str:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_config(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


# the example
TOP_TABLES = ("controls", "prompt", "ray")


def options_of() -> dict[str, dict[str, FieldInfo]]:
    """Every table of a config and its keys, "" the top: of the analyses' own options classes, not of the config's."""
    counts: Any = WholeConfig.model_fields["controls"].annotation
    own = {a.name: dict(a.options.model_fields) for a in ANALYSES if a.done == "asked" and a.options.model_fields}
    top = {name: field for name, field in WholeConfig.model_fields.items() if name not in (*own, *TOP_TABLES)}
    return {"": top, "controls": dict(counts.model_fields), "ray": dict(RayOptions.model_fields)} | own


KEYS = [(table, name) for table, fields in options_of().items() for name in fields]


def shown() -> dict[tuple[str, str], tuple[int, str, str]]:
    """Every key of the example: its line, its value as text, and its help, beside it or above it."""
    found, table = {}, ""
    for i, line in enumerate(LINES):
        if line.startswith("["):
            table = line.strip("[]")
        key, equals, rest = line.removeprefix("# ").partition(" = ")
        if equals and key.isidentifier() and table != "prompt":
            value, _, beside = rest.partition("  # ")
            found[table, key] = (i, value.strip(), beside or above(i))
    return found


def above(line: int) -> str:
    texts = []
    while LINES[line - 1].startswith("# ") and " = " not in LINES[line - 1]:
        line -= 1
        texts.insert(0, LINES[line].removeprefix("# "))
    return " ".join(texts)


def in_words(help: str) -> str:
    return help.rstrip(".").casefold()


@pytest.mark.parametrize(("table", "name"), KEYS)
def test_every_key_stands_in_the_example_with_its_default_and_its_help(table, name):
    field = options_of()[table][name]
    _, value, help = shown()[table, name]
    assert in_words(field.description or "") in in_words(help) or name in ("base", "tuned")
    default = field.get_default(call_default_factory=True)
    if field.is_required():
        return
    if name in WRITTEN:
        assert help.endswith(f"by default {default}")
    elif default is None:
        assert "by default" in help  # the value is an example
    else:
        assert tomllib.loads(f"x = {value}")["x"] == default


def test_the_example_has_no_key_that_the_config_has_not():
    assert set(shown()) == set(KEYS)


def test_the_example_is_a_config_of_defaults(tmp_path):
    (tmp_path / "run.toml").write_text(example())
    config = load_config(tmp_path / "run.toml")
    assert [entry.id for entry in config.prompt] == ["capital", "synonyms"]
    given = {key: getattr(config, key) for key in ("base", "tuned", "max_new_tokens")}
    bare = check_config({**given, "prompt": [entry.model_dump() for entry in config.prompt]})
    assert config == bare.at(tmp_path)
    assert max(len(line) for line in LINES if not line.startswith("# analyses = ")) <= 120, "a list of names apart"


def test_the_chat_of_the_example_is_a_chat(tmp_path):
    start = LINES.index("# [[prompt]]")
    text = "\n".join([*LINES[:start], *(line.removeprefix("# ") for line in LINES[start:])])
    (tmp_path / "run.toml").write_text(text)
    prompt = Material(load_config(tmp_path / "run.toml")).prompts["colour"]
    assert [message["role"] for message in prompt.messages] == ["system", "user"]
    assert [prompt.text[a:b] for a, b in prompt.ranges("instruction")] == ["What colour is grass?"]


CHAT = [
    {"role": "system", "content": " Answer in French. ", "instruction": ["Answer in French."]},
    {"role": "user", "content": "The sea. Say more.", "instruction": ["Say more."], "context": ["The sea."]},
]


def test_a_chat_in_a_config_is_the_chat_of_a_file(tmp_path):
    (tmp_path / "chats.jsonl").write_text(json.dumps({"id": "a", "messages": CHAT, "kind": "say", "reference": "mer"}))
    own = {"id": "a", "messages": CHAT, "kind": "say", "reference": "mer", "response": "la mer"}
    given = {"base": "a", "tuned": "b"}
    found = Material(check_config(given | {"prompt": [own, {"messages": CHAT}]}))
    assert found.prompts["a"] == load_prompts(tmp_path / "chats.jsonl")[0]
    assert len(found.prompts["a"].turns) == 2
    assert found.prompts["2"].messages == found.prompts["a"].messages
    assert found.given == {"a": "la mer"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], "prompt 'a' has the messages [], expected at least one"),
        ([{"role": " ", "content": "b"}], "message 0 of prompt 'a': its role is ' ', expected a word such as 'user'"),
        ([{"role": "user", "content": " "}], "message 0 of prompt 'a': its content is ' ', expected words"),
        ([CHAT[0], {**CHAT[1], "context": ["mer"]}], "message 1 of prompt 'a': context"),
        (
            [*CHAT, {"role": "assistant", "content": "b"}],
            "the last message of prompt 'a' is the assistant's, expected one that is to be answered",
        ),
        ([{"role": "user", "content": "b\ud83d"}], "the messages[0].content of prompt 'a' holds half a character"),
    ],
)
def test_a_chat_of_a_config_that_is_none_is_refused_before_anything_is_loaded(change, message):
    config = check_config({"base": "a", "tuned": "b", "prompt": [{"id": "a", "messages": change}]})
    with pytest.raises(InputError, match=re.escape(message)):
        prepare(config)


def test_a_config_tells_controls_all_that_their_kinds_take():
    for kind, names in KEYS_OF_KINDS.items():
        assert set(names) == set(_available(kind)) - {"cache", "data", "texts", "tokens"}, kind


CONTRADICTIONS = {
    ("", "prompts"): "prompts come from a file (prompts) or from the config ([[prompt]]), not from both",
    ("controls", "data"): "tuning data are for shuffled controls: add the kind, or leave the file out",
    ("controls", "length"): "length is for distilled and shuffled controls: add a kind, or leave it out",
    ("controls", "rank"): "rank is for distilled and shuffled controls: add a kind, or leave it out",
}


@pytest.mark.parametrize(("table", "name"), [key for key in KEYS if LINES[shown()[key][0]].startswith("# ")])
def test_a_line_with_its_comment_taken_away_is_valid_or_contradicts_another_one(tmp_path, table, name):
    line, value, _ = shown()[table, name]
    lines = [*LINES]
    lines[line] = lines[line].removeprefix("# ")
    text = "\n".join(lines)
    if message := CONTRADICTIONS.get((table, name)):
        assert message in error_of(tmp_path, text)
        return
    (tmp_path / "run.toml").write_text(text)
    found: Any = load_config(tmp_path / "run.toml")
    assert getattr(getattr(found, table) if table else found, name) == tomllib.loads(f"x = {value}")["x"]


def choices(annotation: Any) -> list[str]:
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [choice for inner in typing.get_args(annotation) for choice in choices(inner)]


@pytest.mark.parametrize(("table", "name"), [key for key in KEYS if key != ("", "analyses")])
def test_a_help_names_all_choices_that_there_are(table, name):
    field = options_of()[table][name]
    assert field.description
    assert "\n" not in field.description
    assert field.description.endswith(".")
    assert [choice for choice in choices(field.annotation) if choice not in field.description] == []


def test_the_example_says_what_every_analysis_is_asked():
    text = example().casefold()
    for analysis in ANALYSES:
        assert (f"  {analysis.question.casefold()}\n" in text) == (analysis.done == "asked")


# what is wrong
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "colour = 3\n", ", line 5: unknown key 'colour', available: base, tuned, out, about, prompts"),
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
            ", line 5: analyses[1] is 'tails', expected one of 'weights', 'instruction_use', 'knock_out'",
        ),
        (GOOD + "[attribute]\nretokenise = 1\n", ", line 6: attribute.retokenise is 1, expected true or false"),
        (GOOD + "[heads]\nthreshold_std = true\n", ", line 6: heads.threshold_std is True, expected a number"),
        (GOOD + '[mlp]\nlayers = [0, "1"]\n', ", line 6: mlp.layers[1] is '1', expected an integer"),
        (GOOD + 'device = "cpu"\nkeep = "one"\n', ', line 6: keep = "one" holds one model at a time'),
        (GOOD + 'keep = "one"\n[controls]\ninstruction_use = 4\n', ', line 7: keep = "one" holds one model at a time'),
        (GOOD + "[controls]\nheads = -1\n", ", line 6: controls.heads is -1, expected greater than or equal to 0"),
        (
            GOOD + '[controls]\nkind = "norm"\n',
            ", line 6: unknown key 'controls.kind', available: kinds, data, divide, steps, rate, batch, length, rank, ",
        ),
        (GOOD + "[controls]\nrotation_norm = 3\n", ", line 6: unknown key 'controls.rotation_norm'"),
        (GOOD + "[controls]\nkinds = []\n", ", line 6: controls.kinds is [], expected a list that is not empty"),
        (
            GOOD + '[controls]\nkinds = ["norm", "self"]\n',
            ", line 6: controls.kinds[1] is 'self', expected one of 'distilled', 'shuffled', 'gradient-noise'",
        ),
        (
            GOOD + '[controls]\nkinds = ["norm", "norm"]\n',
            ", line 6: kinds ['norm', 'norm']: one comes twice, expected each once",
        ),
        (GOOD + '[controls]\nkinds = ["shuffled"]\n', ", line 6: shuffled controls need the tuning data: name a file"),
        (
            GOOD + '[controls]\nkinds = ["norm", "shuffled"]\n\ndata = ""\n',
            ", line 8: controls.data is '', expected a text that is not empty",
        ),
        (GOOD + "[controls]\nsteps = 5\n", ", line 6: steps is for distilled and shuffled controls: add a kind"),
        (
            GOOD + '[controls]\nkinds = ["norm"]\ndivide = "rms"\n',
            ", line 7: divide is for gradient-noise controls: add a kind, or leave it out",
        ),
        (GOOD + "[controls]\nlength = 1\n", ", line 6: controls.length is 1, expected"),
        (GOOD + "[controls]\nrate = 0\n", ", line 6: controls.rate is 0, expected"),
        (GOOD + '[controls]\ndata = "t.jsonl"\n', ", line 6: tuning data are for shuffled controls: add the kind"),
        (GOOD + "[instruction_use]\ndraws = 0\n", ", line 6: instruction_use.draws is 0, expected greater than or"),
        (GOOD + "[instruction_use]\nmax_tokens = 0\n", ", line 6: instruction_use.max_tokens is 0, expected greater"),
        (
            GOOD + '[mlp]\nsides = ["key", "key"]\n',
            ", line 6: sides ['key', 'key']: one comes twice, expected each once",
        ),
        (GOOD + "[mlp]\nlayers = [1, 1]\n", ", line 6: mlp.layers is [1, 1], expected distinct layers"),
        (GOOD + "[mlp]\nn_components = 8\nranks = [1, 9]\n", ", line 7: rank 9 is above n_components = 8"),
        (
            GOOD + 'analyses = ["attention"]\ndtype = "bfloat16"\n',
            ": a control model cannot be run in bfloat16: give 0, or dtype = 'float32'",
        ),
        (GOOD + 'analyses = ["mlp", "mlp"]\n', ", line 5: an analysis comes twice"),
        (GOOD + '[[prompt]]\ntext = "x"\n', ", line 5: prompts come from a file (prompts) or from the config"),
        (
            'base = "a"\ntuned = "b"\n[[prompt]]\nid = "x"\ntext = "x"\n[[prompt]]\nid = "x"\ntext = "y"\n',
            ", line 3: two prompts have the same id",
        ),
        (BARE + '[[prompt]]\nid = "x"\n', ", line 3: prompt 'x' has neither a text nor messages, expected one of them"),
        (
            BARE + "[[prompt]]\nmessages = []\ntext = 'a'\n",
            ", line 4: a prompt has both a text and messages, expected one",
        ),
        (
            BARE + "[[prompt]]\nmessages = []\ninstruction = ['a']\n",
            ", line 5: a prompt has messages: its instruction stands in the message that holds it",
        ),
        (
            BARE + "[[prompt]]\nmessages = []\ncontext = ['a']\n",
            ", line 5: a prompt has messages: its context stands in the message that holds it",
        ),
        (BARE + "[[prompt]]\nmessages = 'a'\n", ", line 4: prompt[0].messages is 'a', expected a list"),
        (BARE + "[[prompt]]\nmessages = ['a']\n", ", line 4: prompt[0].messages[0] is 'a', expected a table of keys"),
        (
            BARE + "[[prompt]]\nmessages = [{role = 'user', content = 3}]\n",
            ", line 4: prompt[0].messages[0].content is 3, expected a text in quotes",
        ),
        (BARE + "[[prompt]]\nmessages = [{role = 'user'}]\n", ": prompt[0].messages[0].content is missing"),
        (
            BARE + "[[prompt]]\nmessages = [{role = 'user', content = 'a', tone = 'b'}]\n",
            ", line 4: unknown key 'prompt[0].messages[0].tone', available: role, content, instruction, context",
        ),
        *(
            (f'{GOOD}[attribute]\ntarget = "{name}"\n', f", line 6: attribute.target is '{name}', expected {TARGETS}")
            for name in ("odds", "contrast:", "contrast: yes", "contrast: yes|", "contrast:| no", "contrast:a|b|c")
        ),
        (
            GOOD + '[attribute]\ntarget = "contrast:a|a"\n',
            f", line 6: attribute.target is 'contrast:a|a', expected {TARGETS}",
        ),
        (GOOD + "[attribute]\ntarget = 3\n", ", line 6: attribute.target is 3, expected a text in quotes"),
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


@pytest.mark.parametrize("left", COUNTED)
def test_one_model_at_a_time_makes_no_control_of_any_analysis(tmp_path, left):
    none = "".join(f"{name} = 0\n" for name in COUNTED)
    (tmp_path / "none.toml").write_text(f'{GOOD}keep = "one"\n[controls]\n{none}')
    assert load_config(tmp_path / "none.toml").keep == "one"
    one = none.replace(f"{left} = 0", f"{left} = 1")
    line = 7 + COUNTED.index(left)
    message = error_of(tmp_path, f'{GOOD}keep = "one"\n[controls]\n{one}')
    assert message.startswith(f', line {line}: keep = "one" holds one model at a time')
    assert message.endswith(f"set {', '.join(COUNTED)} of [controls] to 0")
    # what is not done has no controls
    chosen = json.dumps([name for name in COUNTED if name != left])
    (tmp_path / "other.toml").write_text(f'{GOOD}keep = "one"\nanalyses = {chosen}\n[controls]\n{one}')
    assert load_config(tmp_path / "other.toml").keep == "one"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1000])
def test_any_number_of_controls_is_a_number(tmp_path, count):
    (tmp_path / "run.toml").write_text(f"{GOOD}[controls]\n" + "".join(f"{name} = {count}\n" for name in COUNTED))
    found = load_config(tmp_path / "run.toml").controls
    assert [found.count(name) for name in COUNTED] == [count] * len(COUNTED)
    assert found.kinds == ["gradient-noise", "spectrum"]


def test_ranks_are_those_that_fit_unless_they_are_given():
    given = {"base": "a", "tuned": "b", "prompts": "c"}
    for n_components, ranks in ((300, [1, 5, 10, 20, 50]), (8, [1, 5]), (1, [1])):
        config: Any = check_config(given | {"mlp": {"n_components": n_components}})
        assert config.mlp.ranks == ranks


@pytest.mark.parametrize("analysis", ["attention", "instruction_use"])
def test_controls_of_weights_alone_may_be_in_half_precision(tmp_path, analysis):
    text = f'{GOOD}dtype = "bfloat16"\nanalyses = ["heads", "mlp"{{}}]\n'
    (tmp_path / "weights.toml").write_text(text.format(""))
    assert load_config(tmp_path / "weights.toml").controls.count("mlp") == 99
    message = error_of(tmp_path, text.format(f', "{analysis}"') + f"[controls]\n{analysis} = 1\n")
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
