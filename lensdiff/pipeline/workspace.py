"""What the steps of a run share: the pair, its controls, prompts, words, and the results directory.

Everything is had when first asked for, so that a run which was finished loads no model to be shown again. Of the
controls one is in memory at a time.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Generic, Literal

from lensdiff.inputs.prompts import Prompt, load_prompts
from lensdiff.inputs.tuning_data import load_tuning_data
from lensdiff.inputs.vocabulary import Vocabulary
from lensdiff.inputs.word_vectors import WordVectors
from lensdiff.models import Model, ModelView, view_of
from lensdiff.models.forced_text import as_base_reads
from lensdiff.models.pair import ModelPair, load_pair
from lensdiff.models.text import Response
from lensdiff.pipeline.both import SIDES, R
from lensdiff.pipeline.config import RunConfig
from lensdiff.pipeline.listener import Listener
from lensdiff.results import Control, InputError, ResultStore

Counted = Literal[
    "prompts", "attention", "heads", "rotation", "attribution"
]  # what the config has numbers of controls for


class Stored(Sequence[R], Generic[R]):
    """Results on disk as a sequence: each is read when it is asked for and not kept."""

    def __init__(self, store: ResultStore, names: Sequence[str], kind: type[R]):
        self._store, self._kind = store, kind
        self._names: list[str] = list(names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        names = self._names[index]
        return self._store.load_result(names, self._kind) if isinstance(names, str) else self._of(names)

    def _of(self, names: list[str]) -> "Stored[R]":
        return Stored(self._store, names, self._kind)


class Workspace:
    """See the module.

    Attributes:
        keep: "both" models in memory or "one".
        controls: whether controls are made (they need both).
    """

    def __init__(self, config: RunConfig, store: ResultStore, listener: Listener, keep: Literal["both", "one"]):
        self.config, self.store, self.listener, self.keep = config, store, listener, keep
        self._control: tuple[str, ModelView] | None = None
        self._said: dict[str, Response | str] = {}  # every control reads what both models said

    # models
    @cached_property
    def pair(self) -> ModelPair:
        config = self.config
        common = {"dtype": config.dtype, "weights": config.weights, "wrapper": config.wrapper}
        if config.device != "auto":
            common["device"] = config.device
        pair = load_pair(
            config.source("base"),
            config.source("tuned"),
            keep=self.keep,
            base_options={"revision": config.base_revision} if config.base_revision else {},
            tuned_options={"revision": config.tuned_revision} if config.tuned_revision else {},
            **common,
        )
        self.store.save_table("differences", pair.differences().astype(str))
        self.store.describe_pair(pair_facts(pair, self.keep))
        return pair

    @cached_property
    def n_layers(self) -> int:
        facts = self.store.manifest.pair  # known of a run that goes on, without loading a model
        return int(facts["base"]["n_layers"]) if facts else view_of(self.pair.base).n_layers

    def model(self, name: str) -> Model:
        """Return "base", "tuned" or a control by its name ("spectrum-0"); the control before it is let go."""
        if name in SIDES:
            return getattr(self.pair, name)
        if self._control is None or self._control[0] != name:
            self.free()
            control = self.control_of(name)
            data = {"data": self.tuning_data} if control.kind == "shuffled" else {}
            self._control = name, self.pair.control(control.kind, control.seed, **data)
        return self._control[1]

    def free(self) -> None:
        """Let go of the control in memory."""
        if self._control is not None:
            self._control[1].free()
            self._control = None

    def controls(self, what: Counted) -> list[str]:
        """Return the names of the control models of an analysis; none where only one model fits into memory."""
        count, kinds = getattr(self.config.controls, what), self.config.controls.kinds
        if self.keep == "one":
            return []
        return [f"{kind}-{i}" for kind in (kinds[:1] if what == "attribution" else kinds) for i in range(count)]

    def control_of(self, name: str) -> Control:
        """Return which control a name stands for."""
        kind, number = split_control(name)
        return Control(kind, self.config.seed + number)

    @cached_property
    def tuning_data(self) -> list[tuple[str, str]]:
        """The tuning data of shuffled controls."""
        return tuning_data_of(self.config)

    # prompts and responses
    @cached_property
    def prompts(self) -> dict[str, Prompt]:
        return {prompt.id: prompt for prompt in prompts_of(self.config)}

    def given_response(self, prompt_id: str) -> str | None:
        """Return the response that the config gives a prompt, or None for the model's own."""
        for number, entry in enumerate(self.config.prompt, start=1):
            if (entry.id or str(number)) == prompt_id:
                return entry.response
        return None

    def response(self, model: str, prompt_id: str) -> Response | str:
        """Return a model's response to a prompt: as it was generated, or the text that the config gives.

        Raises:
            InputError: it could not be generated, with the reason.
        """
        name = f"responses/{model}/{prompt_id}"
        if name in self._said:
            return self._said[name]
        if not self.store.has_table(name):
            failures = self.store.step("responses").failures | self.store.step("controls").failures
            reason = failures.get(f"{model}/{prompt_id}", "it was not generated")
            raise InputError(f"there is no response of {model} to prompt {prompt_id!r}: {reason}")
        row = self.store.load_table(name).iloc[0]
        text, ids = str(row["text"]), tuple(int(i) for i in row["token_ids"])
        given = row["source"] == "given"
        found = text if given else Response(text, ids, str(row["model_id"]), str(row.get("tokenizer", "")))
        if model in SIDES:
            self._said[name] = found
        return found

    def shared_response(self, prompt_id: str) -> Response | str | None:
        """Return the text that all models are read on: the tuned model's response, else the base's, or None if empty.

        Token ids that mean another token in the base are given as text.
        """
        for side in ("tuned", "base"):
            response = self.response(side, prompt_id)
            if isinstance(response, str):
                return response
            if response.token_ids:
                return response if self._same_ids(response.token_ids) else response.text
        return None

    def _same_ids(self, ids: tuple[int, ...]) -> bool:
        base, tuned = self.pair.shared_tokens
        same = set(base[base == tuned].tolist()) if len(base) else set()
        return same.issuperset(ids)

    def forced_texts(self) -> tuple[list[Prompt], dict[str, list[str | Response | None]]]:
        """Return the prompts that both models answered, and the texts that are forced after each, in the base's ids.

        Texts, as far as the config asks for them: "base" and "tuned", the models' own; "given" in place of both where
        the config gives them all; "reference" where a prompt has one. Of those that a model generated, the first
        `instruction_use.max_tokens` tokens.

        Raises:
            InputError: none of these texts is there.
        """
        asked = self.config.instruction_use.texts
        prompts = [self.prompts[name] for name in self.prompts_with_responses()]
        texts: dict[str, list[str | Response | None]] = {
            side: [self._forced(side, prompt) for prompt in prompts] for side in SIDES if side in asked
        }
        if texts and all(self.given_response(prompt.id) is not None for prompt in prompts):
            texts = {"given": next(iter(texts.values()))}
        if "reference" in asked and any(prompt.reference.strip() for prompt in prompts):
            texts["reference"] = [prompt.reference.strip() or None for prompt in prompts]
        if not texts:
            raise InputError("instruction_use.texts asks for references alone, and no prompt brings one")
        return prompts, texts

    def prompts_with_responses(self) -> list[str]:
        """Return the ids of the prompts that both models have a response to."""
        return [name for name in self.prompts if all(self.store.has_table(f"responses/{s}/{name}") for s in SIDES)]

    def _forced(self, side: str, prompt: Prompt) -> str | Response:
        response = self.response(side, prompt.id)
        if isinstance(response, str) or not response.token_ids:
            return response if isinstance(response, str) else ""
        cut = replace(response, token_ids=response.token_ids[: self.config.instruction_use.max_tokens])
        try:
            return as_base_reads(self.pair, prompt, cut)
        except InputError:  # a token that the base lacks: the text, read by either tokenizer if both can
            return str(view_of(self.pair.tuned).tokenizer.decode(list(cut.token_ids)))

    # words
    @cached_property
    def vocabulary(self) -> Vocabulary:
        return vocabulary_of(self.config)

    @cached_property
    def vectors(self) -> WordVectors:
        given = self.config.vectors
        if given == "base":
            return WordVectors.from_model(view_of(self.pair.base), self.vocabulary.words)
        if given == "glove":
            return WordVectors.from_sentence_transformers(self.vocabulary.words)
        return WordVectors.read(self.config.path(given), words=self.vocabulary.words)

    # results
    def stored(self, names: Sequence[str], kind: type[R]) -> Stored[R]:
        """Return results on disk as a sequence that reads them one at a time."""
        return Stored(self.store, names, kind)

    def prompts_with(self, *prefixes: str) -> list[str]:
        """Return the ids, in order, of the prompts that have a result under every prefix."""
        return [name for name in self.prompts if all(self.store.has(f"{prefix}/{name}") for prefix in prefixes)]


def split_control(name: str) -> tuple[str, int]:
    """Return kind and number of a control by its name ("gradient-noise-3")."""
    kind, _, number = name.rpartition("-")
    return kind, int(number)


def prompts_of(config: RunConfig) -> list[Prompt]:
    """Return the prompts of a config, from its file or its own.

    Raises:
        InputError: a prompt is unusable.
    """
    if config.prompts:
        prompts = load_prompts(config.path(config.prompts))
    else:
        entries = enumerate(config.prompt, start=1)
        prompts = [
            Prompt(e.text, tuple(e.instruction), tuple(e.context), e.id or str(i), e.kind, e.reference)
            for i, e in entries
        ]
    return prompts[: config.max_prompts]


def tuning_data_of(config: RunConfig) -> list[tuple[str, str]]:
    """Return prompts and responses of the config's tuning data, none where it names none."""
    return [] if config.controls.data is None else load_tuning_data(config.path(config.controls.data))


def vocabulary_of(config: RunConfig) -> Vocabulary:
    """Return the word list of a config."""
    default = config.vocabulary == "default"
    return Vocabulary.default() if default else Vocabulary.read(config.path(config.vocabulary))


def pair_facts(pair: ModelPair, keep: str) -> dict[str, Any]:
    """Return what a manifest says of the two models."""
    facts: dict[str, Any] = {"keep": keep, "comparable": True, "notice": pair.notice}
    for side in SIDES:
        view = view_of(getattr(pair, side))
        facts[side] = {
            "model": view.info.id,
            "revision": view.info.revision,
            "architecture": view.info.architecture,
            "wrapper": view.info.wrapper,
            "weights": view.info.weights,
            "dtype": str(view.dtype).removeprefix("torch."),
            "device": str(view.device),
            "n_layers": view.n_layers,
            "n_heads": view.n_heads,
            "d_model": view.d_model,
            "d_vocab": view.d_vocab,
            # a HookedTransformer has biases where the checkpoint has none: zeros, which are not counted
            "parameters": sum(p.numel() for p in view.model.parameters() if bool(p.any())),
        }
    return facts
