"""A run in the chat template: every result of prompts says so, and what does not read prompts stays as it is."""

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lensdiff.pipeline.report import Report
from lensdiff.pipeline.toml import check_config
from lensdiff.results import InputError, ResultStore
from tests.checkpoints import save_checkpoint
from tests.cli.conftest import Command, assert_refused, lensdiff
from tests.models.test_templates import SIMPLE
from tests.pipeline.conftest import PROMPTS, WORDS, Recorder, config_for
from tests.pipeline.resuming import SMALL, Watch, assert_same, digests, run

__all__ = ["lensdiff"]
pytestmark = pytest.mark.usefixtures("loaded_once")
FEW: dict[str, Any] = {
    "analyses": ["weights", "instruction_use", "attribute", "outputs", "attention", "template_effects"],
    "template_effects": {"measures": ["attention", "knock_out"], "draws": 1},
    "controls": {"kinds": ["spectrum"], "instruction_use": 1, "attribute": 0, "attention": 1},
}


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pair, whose tuned model has a chat template."""
    folder = tmp_path_factory.mktemp("chatty")
    for seed, name in enumerate(("base", "tuned")):
        save_checkpoint("llama", folder / name, seed=seed)
    (folder / "tuned" / "chat_template.jinja").write_text(SIMPLE)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    (folder / "words.tsv").write_text("".join(f"{word}\t1\n" for word in WORDS))
    return folder


def few(models: Path, out: Path, **changes: Any) -> dict[str, Any]:
    own = {name: SMALL[name] for name in ("attribute", "instruction_use", "max_new_tokens")}
    return config_for(models, out, **(own | FEW | changes))


@pytest.fixture(scope="module")
def raw(chatty: Path, tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    return run(few(chatty, tmp_path_factory.mktemp("raw") / "out"))


@pytest.fixture(scope="module")
def chat(chatty: Path, tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    return run(few(chatty, tmp_path_factory.mktemp("chat") / "out", templates=["chat", "raw"]))


def template_of(store: ResultStore, name: str) -> str:
    path = store.root / "arrays" / f"{name}.safetensors"
    from safetensors import safe_open

    with safe_open(path, framework="pt") as stored:
        values = json.loads(stored.metadata()["values"])
    return values["provenance"]["options"].get("template", "raw")


def test_every_result_of_prompts_says_how_they_were_rendered(raw, chat):
    prompted = ("responses", "attribution", "outputs", "attention", "instruction_use", "attention_shift")
    for store, expected in ((raw, "raw"), (chat, "chat")):
        names = [
            p.relative_to(store.root / "arrays").with_suffix("").as_posix() for p in store.root.rglob("*.safetensors")
        ]
        found = {name: template_of(store, name) for name in names}
        of_prompts = {name for name in found if name.split("/")[0] in prompted}
        assert len(of_prompts) > 8
        assert {found[name] for name in of_prompts} == {expected}
        assert {found[name] for name in found if name.split("/")[0] in ("weights", "pair")} == {"raw"}
    assert template_of(chat, "template_effects") == "raw and chat"


def test_the_report_says_it_first(raw, chat):
    page = Report(raw).html()
    assert "<summary>About this run: prompts are raw, without a chat template</summary>" in page
    page = Report(chat).html()
    said = "both models read the prompts in the tuned model&#39;s chat template"
    assert f"<summary>About this run: {said}</summary>" in page
    (about,) = re.findall(r"<p>This run: .*?</p>", page)
    assert f"This run: {said}; each model" in about
    words = re.sub(r"<[^>]*>", "", about).lower()  # whatever stands out
    assert not re.search(r"prompts? (are )?raw|raw prompts?|no chat template|without a chat template", words)
    assert "raw prompt, no chat template" not in page
    assert "prompt in the chat template" in page


def test_where_no_number_can_be_had_the_effects_are_not_possible(chatty, tmp_path):
    # instruction use takes the instructions of other prompts, and there is one prompt
    changes: dict[str, Any] = {"analyses": ["template_effects"], "template_effects": {"measures": ["instruction_use"]}}
    recorder = Recorder()
    store = run(few(chatty, tmp_path / "out", templates=["raw", "chat"], max_prompts=1, **changes), recorder)
    (state,) = store.step("template_effects").units.values()
    assert state.outcome == "impossible"
    assert "no measure could be had of the four; instruction_use: " in state.reason
    assert any("not possible, no measure could be had" in line for line in recorder.said)


def test_prompts_that_fail_are_told(chatty, tmp_path):
    prompts = [*PROMPTS, {"id": "quote", "text": "Say [user] and [assistant] and \ufffd", "instruction": ["Say"]}]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    template = "{% if '\ufffd' in messages[0]['content'] %}{{ raise_exception('not that') }}{% endif %}" + SIMPLE
    tuned = tmp_path / "tuned"
    shutil.copytree(chatty / "tuned", tuned)
    (tuned / "chat_template.jinja").write_text(template)
    changes = {"prompts": str(tmp_path / "prompts.jsonl"), "tuned": str(tuned), "analyses": ["template_effects"]}
    recorder = Recorder()
    with warnings.catch_warnings(action="error", category=UserWarning):  # told, and not warned of as well
        run(few(chatty, tmp_path / "out", templates=["raw", "chat"], **changes), recorder)
    told = [line for line in recorder.said if line.startswith("template effects: without prompt 'quote': ")]
    assert len(told) == 1
    assert "not that" in told[0]


def test_numbers_are_those_of_rendered_prompts(chatty, chat):
    from lensdiff import attribute, load_pair, load_prompts

    pair = load_pair(chatty / "base", chatty / "tuned", device="cpu")
    prompt = load_prompts(chatty / "prompts.jsonl")[0]
    table = chat.load_table("attribution")
    mine = table[(table.model == "tuned") & (table.prompt_id == prompt.id)]
    found = pair.compare(attribute, prompt, template="chat", max_new_tokens=3, deletion_draws=0).tuned.to_df()
    assert mine.in_token.tolist() == found.in_token.tolist()
    assert mine.score.to_numpy() == pytest.approx(found.score.to_numpy(), rel=1e-4, abs=1e-6)


def test_another_rendering_does_again_what_reads_prompts_and_there_and_back_is_the_same(
    chatty, raw, chat, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    first = run(few(chatty, out))
    before, watch = digests(first), Watch(monkeypatch)
    store = run(few(chatty, out, templates=["chat", "raw"]))
    worked = {name.split("/")[0] for name in watch.take()}
    assert {"responses", "attribution", "outputs", "attention", "instruction_use"} <= worked
    assert not worked & {"weights", "control_validity", "pair"}
    after = digests(store)
    assert {name for name in before if before[name] == after.get(name)} >= {"weights"}
    assert_same(store, chat)
    assert_same(run(few(chatty, out)), raw)


def test_a_second_rendering_adds_the_table_of_effects_and_changes_nothing_else(chatty, tmp_path, monkeypatch):
    out, watch = tmp_path / "out", Watch(monkeypatch)
    assert not run(few(chatty, out)).has_table("template_effects")
    watch.take()
    store = run(few(chatty, out, templates=["raw", "chat"]))
    assert watch.take() == ["template_effects"]
    table = store.load_table("template_effects")
    assert list(table) == ["measure", "effect", "estimate", "low", "high", "p", "p_adjusted", "n"]
    assert len(table) == 3 * 4
    assert len(store.load_table("template_cells")) == 4
    for key, value in (("measures", ["knock_out"]), ("draws", 2), ("max_prompts", 2)):
        changed = FEW["template_effects"] | {key: value}
        store = run(few(chatty, out, templates=["raw", "chat"], template_effects=changed))
        assert watch.take() == ["template_effects"], key
    assert store.load_table("template_effects").n.max() == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"templates": []}, "templates"),
        ({"templates": ["markdown"]}, "templates"),
        ({"templates": ["raw", "raw"]}, "templates .* one comes twice"),
        ({"analyses": ["template_effects"]}, "template_effects reads prompts in both renderings"),
        ({"analyses": ["template_effects"], "templates": ["chat"]}, r'templates = \["raw", "chat"\]'),
    ],
)
def test_what_renderings_cannot_be_is_refused(chatty, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        check_config(few(chatty, tmp_path / "out") | changes)


def test_a_pair_without_a_template_is_refused_before_anything_is_made(models, tmp_path):
    out = tmp_path / "out"
    for templates in (["chat"], ["raw", "chat"]):
        with pytest.raises(InputError, match=r"the tokenizer of '.*tuned' has no chat template, expected one that has"):
            run(few(models, out, templates=templates))
    assert not (out / "arrays").exists() or not list((out / "arrays").rglob("*.safetensors"))


def test_a_prompt_that_cannot_be_rendered_fails_alone(chatty, tmp_path):
    template = SIMPLE.replace(
        "{{ bos_token }}", "{% if 'moon' in messages[0].content %}{{ raise_exception('no moon') }}{% endif %}"
    )
    tuned = tmp_path / "models" / "tuned"
    save_checkpoint("llama", tuned, seed=1)
    (tuned / "chat_template.jinja").write_text(template)
    store = run(few(chatty, tmp_path / "out", tuned=str(tuned), templates=["chat"], analyses=["outputs", "attention"]))
    failures = store.step("responses").failures
    assert {reason.split(":", 1)[1] for reason in failures.values()} == {
        " the chat template of 'tuned' cannot be used: TemplateError no moon"
    }
    assert 0 < len(set(store.load_table("outputs").prompt_id)) < len(PROMPTS)


# the command


def test_a_command_in_both_renderings_prints_the_table(lensdiff: Command, chatty, tmp_path):
    out = tmp_path / "out"
    ran = lensdiff(
        *("attribute", chatty / "base", chatty / "tuned", "--prompts", chatty / "prompts.jsonl", "--out", out),
        *("--template", "both", "--max-new-tokens", 3, "--controls", 0, "--device", "cpu", "--quiet"),
    )
    assert (ran.err, ran.code) == ("", 0)
    assert "Effects of model and template" in ran.out
    assert "Models and renderings, means over prompts" in ran.out
    table = pd.read_parquet(out / "template_effects.parquet")
    assert set(table.measure) == {"density_instruction", "density_context", "density_other"}
    page = (out / "attribute.html").read_text()
    assert "Prompts are raw, without a chat template." in page
    assert "What the chat template does, apart from the tuning" in page


def test_a_command_of_its_own_and_one_in_the_template(lensdiff: Command, chatty, tmp_path, models):
    prompted = ("--prompts", chatty / "prompts.jsonl", "--max-new-tokens", 3, "--device", "cpu", "--quiet")
    pair = (chatty / "base", chatty / "tuned")
    out = tmp_path / "effects"
    ran = lensdiff("template-effects", *pair, "--measures", "attention", "--out", out, *prompted)
    assert (ran.err, ran.code) == ("", 0)
    assert "interaction" in ran.out
    assert [Path(line).name for line in ran.out.split()[-3:]] == [
        *("template_effects.parquet", "template_cells.parquet", "template-effects.html"),
    ]
    out = tmp_path / "chat"
    ran = lensdiff("outputs", *pair, "--template", "chat", "--out", out, *prompted)
    assert (ran.err, ran.code) == ("", 0)
    assert "Both models read the prompts in the tuned model&#x27;s chat template." in (out / "outputs.html").read_text()
    ran = lensdiff(
        "outputs", models / "base", models / "tuned", "--template", "chat", "--out", tmp_path / "none", *prompted
    )
    assert_refused(ran, "has no chat template")
