"""Every code block of the README and of the site's pages runs, on the toy pair.

The blocks of a page run in their order, in one namespace and in one folder. In it lies what a reader has: models (BASE,
TUNED, ADAPTER, base.gguf, tuned.gguf), prompts, texts, word lists. A file's name as a block's title makes it that file.
What a command is given is read as it stands; then it runs small: few controls, few prompts, short responses.
"""

import json
import shlex
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from transformers import AutoModelForCausalLM

import lensdiff
from lensdiff import load_pair, load_prompts
from lensdiff.cli import app, main, whole
from lensdiff.inputs import toy_pair
from lensdiff.pipeline.config import COUNTED, TABLES
from lensdiff.pipeline.toml import load_config
from lensdiff.steps.options import Options
from tests.chat_server import chat_server
from tests.checkpoints import hf_model
from tests.docs.blocks import ROOT, Block, blocks_of, every_block
from tests.gguf_files import write_gguf

SERVER = "http://127.0.0.1:8000/v1"  # which the pages name; the tests' own stands in its place
PROMPTS = 3
RUN = {"max_new_tokens": 6, "max_prompts": PROMPTS, "device": "cpu", "workers": 1}
OF_ANALYSES = {  # of whichever analysis has the option
    "layers": [0],
    "n_components": 4,
    "ranks": [1],
    "draws": 1,
    "max_tokens": 8,
    "max_texts": 8,
    "effect_texts": 2,
    "curve_prompts": 1,
    "curve_draws": 1,
    "curve_tokens": 4,
    "deletion_draws": 1,
}
FLAGS = {"--controls": "1", "--kinds": "spectrum", "--components": "4", "--seeds": "1"}
FLAGS |= {f"--{name.replace('_', '-')}": str(value).strip("[]") for name, value in (RUN | OF_ANALYSES).items()}


def _small(options: Options) -> Options:
    """Options of an analysis that take little time."""
    return options.model_copy(update={k: v for k, v in OF_ANALYSES.items() if k in type(options).model_fields})


class Page:
    """A page's namespace and folder, and how far its blocks have run."""

    def __init__(self, folder: Path, url: str):
        self.folder, self.url = folder, url
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.done: list[Block] = []

    def run(self, block: Block) -> None:
        """Run a block once."""
        self.done.append(block)
        getattr(self, f"_{block.language}")(block, block.text.replace(SERVER, self.url))

    def _python(self, block: Block, text: str) -> None:
        code = compile("\n" * (block.line - 1) + text, str(ROOT / block.page), "exec")
        exec(code, self.names)

    def _sh(self, block: Block, text: str) -> None:
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while "&&" in words:
                cut = words.index("&&")
                self._command(block, words[:cut])
                words = words[cut + 1 :]
            if words:
                self._command(block, words)

    def _command(self, block: Block, words: list[str]) -> None:
        assert words[0] == "lensdiff", f"{block}: {words[0]} is not run in a test, a mark has to say why"
        if words[1] == "run":
            config = load_config(Path(words[2]))
            counted = {a.name: min(1, config.controls.count(a.name)) for a in COUNTED}
            controls = config.controls.model_copy(update={"kinds": ["spectrum"], "data": None, **counted})
            small = RUN | {"controls": controls} | {a.name: _small(config.options(a)) for a in TABLES}
            whole._whole(config.model_copy(update=small), True)
            return
        verbs: Any = typer.main.get_command(app)
        command = verbs.commands[words[1]]
        command.make_context(words[1], words[2:])  # what the page says is read as it stands
        flags = {flag for parameter in command.params for flag in parameter.opts}
        more = [word for flag, value in FLAGS.items() if flag in flags for word in (flag, value)]
        assert main([*words[1:], *more]) == 0, f"{block}: {shlex.join(words)}"

    def _toml(self, block: Block, text: str) -> None:
        path = self.folder / (block.title or "block.toml")
        path.write_text(text, encoding="utf-8")
        load_config(path)

    def _jsonl(self, block: Block, text: str) -> None:
        path = self.folder / (block.title or "block.jsonl")
        path.write_text(text, encoding="utf-8")
        if "text" in json.loads(text.splitlines()[0]):
            assert load_prompts(path)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reader: models, prompts, texts, and what tuning used."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "BASE").symlink_to(toy_pair.BASE)
    (folder / "TUNED").symlink_to(toy_pair.TUNED)
    lines = toy_pair.PROMPTS.read_text(encoding="utf-8").splitlines()
    lines = list({json.loads(line)["kind"]: line for line in lines}.values())[:PROMPTS]  # each of another kind
    for name in ("prompts.jsonl", "PROMPTS.jsonl"):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    texts = ["A dog is an animal that lives with people.", "Snow is white.", "The river runs to the sea."] * 4
    (folder / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    (folder / "words.tsv").write_text("dog\t9\ncat\t8\nriver\t7\nsnow\t6\nwrite\t5\nanswer\t4\n", encoding="utf-8")
    (folder / "vectors.txt").write_text("dog 1 0 0\ncat 1 0 1\nriver 0 1 0\nsnow 0 1 1\nwrite 1 1 0\nanswer 1 1 1\n")
    return folder


@pytest.fixture(scope="module")
def session(reader: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Page]]:
    """The pages by their names, each begun when its first block runs."""
    with chat_server() as (_, url), pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy_pair, "PROMPTS", reader / "prompts.jsonl")
        patch.setattr(lensdiff, "load_pair", _LoadedOnce())
        yield _Pages(reader, tmp_path_factory.mktemp("pages"), url)


def write_adapter(folder: Path) -> None:
    """Write a LoRA adapter on the toy pair's base, every number of it moved."""
    peft = pytest.importorskip("peft", reason="the extra lora is not installed")
    base = AutoModelForCausalLM.from_pretrained(toy_pair.BASE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.02 * torch.randn_like(parameter))
        model.save_pretrained(folder)


class _LoadedOnce:
    """`load_pair`, which gives pages that ask for the same pair the same one."""

    def __init__(self) -> None:
        self.pairs: dict[tuple[Path, Path], lensdiff.ModelPair] = {}

    def __call__(self, base: Any, tuned: Any, **options: Any) -> lensdiff.ModelPair:
        if options or not all(isinstance(source, str | Path) for source in (base, tuned)):
            return load_pair(base, tuned, **options)
        key = Path(base).resolve(), Path(tuned).resolve()
        if key not in self.pairs:
            self.pairs[key] = load_pair(base, tuned)
        return self.pairs[key]


class _Pages(dict[str, Page]):
    def __init__(self, reader: Path, folder: Path, url: str):
        super().__init__()
        self.reader, self.folder, self.url = reader, folder, url

    def __missing__(self, name: str) -> Page:
        folder = self.folder / name.replace("/", "-").removesuffix(".md")
        shutil.copytree(self.reader, folder, symlinks=True)
        said = "".join(block.text for block in BLOCKS if block.page == name)
        if "ADAPTER" in said:
            write_adapter(folder / "ADAPTER")
        if ".gguf" in said:
            for side in ("base", "tuned"):
                write_gguf(folder / f"{side}.gguf", hf_model("llama", seed=len(side)))
        self[name] = Page(folder, self.url)
        return self[name]


BLOCKS = every_block()


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_runs(block: Block, session: dict[str, Page], monkeypatch: pytest.MonkeyPatch):
    if block.reason:
        pytest.skip(f"{block} says: {block.reason}")
    page = session[block.page]
    monkeypatch.chdir(page.folder)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    before = [other for other in BLOCKS if other.page == block.page and other.line <= block.line and not other.reason]
    for other in before:
        if other not in page.done:
            page.run(other)


def test_a_block_that_fails_is_seen(session: dict[str, Page], monkeypatch: pytest.MonkeyPatch):
    source = (
        "# A page\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n\n```sh\nlensdiff report nowhere\n```\n"
    )
    good, bad, refused = blocks_of("no-page.md", source)
    page = session["no-page.md"]
    monkeypatch.chdir(page.folder)
    page.run(good)
    with pytest.raises(AssertionError):
        page.run(bad)
    with pytest.raises(AssertionError, match=r"no-page\.md:12: lensdiff report nowhere"):
        page.run(refused)


def test_what_no_test_can_run_has_to_say_so():
    other = "```sh\npip install lensdiff\n```\n"
    (block,) = blocks_of("a.md", other)
    with pytest.raises(AssertionError, match="pip is not run in a test"):
        Page(Path(), "").run(block)
    assert blocks_of("a.md", f"<!-- not run: it installs -->\n{other}")[0].reason == "it installs"
    with pytest.raises(AssertionError, match="a block of ruby"):
        blocks_of("a.md", "```ruby\n1\n```\n")


def test_a_block_of_no_language_that_holds_a_command_is_one_of_the_shell():
    assert [block.language for block in blocks_of("a.md", "```\nlensdiff demo\n```\n\n```\nlayers 3\n```\n")] == ["sh"]
