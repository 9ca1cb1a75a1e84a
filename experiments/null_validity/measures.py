"""The three headline statistics of one model against the base, each by the functions that the package's claims use.

    instruction use   mean over prompts of u(model) - u(base), the reference forced, instructions swapped (claim 1)
    verbs             T of sign_mean over all heads (claim 2)
    rotation          share of the values' change that one orthogonal map explains, mean over layers (claim 3)

A control's weights are written into one scratch model, which is read and then written over: a whole model for every
control would be copied, wrapped and measured first, which costs more than the three statistics. Claim 3 reads the
control itself, since it needs a few of its weights only.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from lensdiff import stats
from lensdiff.analyses.heads.head_word_pairs import head_word_pairs
from lensdiff.analyses.heads.verb_counts import counts_of_heads, flat_heads
from lensdiff.analyses.heads.verb_labels import Labels, label_effects, labels_of, movement, verb_strata
from lensdiff.analyses.instruction_use.other_instructions import swapped
from lensdiff.analyses.value_rotation.measure import value_rotation
from lensdiff.inputs.prompts import Prompt, load_prompts
from lensdiff.inputs.verbs import INSTRUCTION_VERBS, general_verbs
from lensdiff.inputs.vocabulary import Vocabulary
from lensdiff.inputs.word_vectors import WordVectors
from lensdiff.models import Model, ModelView, load_model, view_of
from lensdiff.models.forced_reading import Reading, mean_log_probs, readings_of
from lensdiff.models.pair import ModelPair, load_pair

CLAIMS = ("instruction use", "verbs", "rotation")
FIRST_PAIR = Path(__file__).parents[2] / "tests" / "fixtures" / "toy_v1"  # the pair that shipped when this was measured
FEWEST_TOKENS = 2  # of a forced response


@dataclass(frozen=True)
class Setting:
    """What is read, and how much of it.

    Attributes:
        base: a folder with a checkpoint; prompts: a .jsonl file with `kind` and `reference`.
        every, draws: every n-th prompt is read, with so many other instructions.
        words: how many of the word list's most frequent words the heads relate, beside all verbs; top_k: candidates per
            dimension and side (fewer words than the default list and fewer candidates: a fifth of the time).
        draw: which of the prompts come first, and which donors.
    """

    base: Path
    prompts: Path
    every: int = 4
    draws: int = 8
    words: int = 3000
    top_k: int = 60
    seed: int = 0

    @cached_property
    def model(self) -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32, trust_remote_code=False)

    @cached_property
    def tokenizer(self):
        return AutoTokenizer.from_pretrained(self.base, trust_remote_code=False)

    @property
    def end(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    def wrapped(self, model: PreTrainedModel) -> Model:
        """Return a model wrapped for the analyses; it is taken as it is, so give a copy of one that is still needed."""
        return load_model(model, tokenizer=self.tokenizer, verify=False)


class Measures:
    """The statistics of models against one base.

    Attributes:
        setting: what is read.
        base: the wrapped base.
        claims: which statistics are computed.
    """

    def __init__(self, setting: Setting, base: PreTrainedModel, claims: Sequence[str] = CLAIMS):
        self.setting, self.claims = setting, tuple(claims)
        self.base = setting.wrapped(copy.deepcopy(base))
        self._scratch = setting.wrapped(copy.deepcopy(base))

    def pair(self, tuned: PreTrainedModel) -> ModelPair:
        """Return a tuned model beside the base, with both kept in memory."""
        return load_pair(self.base, self.setting.wrapped(tuned))

    def of_model(self, pair: ModelPair) -> dict[str, float]:
        """Return the statistics of a pair's tuned model, and the label permutation's p as "verbs, labels"."""
        found = self._of_whole(view_of(pair.tuned))
        if "rotation" in self.claims:
            found["rotation"] = value_rotation(pair).share
        return found

    def of_control(self, control: ModelView) -> dict[str, float]:
        """Return the same of a control of one of the base's pairs."""
        whole = set(self.claims) - {"rotation"}
        found = self._of_whole(self._written(control)) if whole else {}
        if "rotation" in self.claims:
            found["rotation"] = value_rotation(load_pair(self.base, control)).share
        return found

    def _of_whole(self, view: ModelView) -> dict[str, float]:
        found = {}
        if "instruction use" in self.claims:
            found["instruction use"] = self._use(view) - self._base_use
        if "verbs" in self.claims:
            counts = self._counts(view)
            found["verbs"] = label_effects(self._base_counts, counts, self._labels)[0]
            found["verbs, labels"] = self._labels_p(counts)
        return found

    def _written(self, control: ModelView) -> ModelView:
        view = view_of(self._scratch)
        with torch.no_grad():
            for weight in view.weights.known():
                into, new = view.weights.stored(weight), control.weights.stored(weight)
                assert into is not None
                assert new is not None
                into.copy_(new)
        return view

    # claim 1
    @cached_property
    def _readings(self) -> list[list[Reading | None]]:
        view, prompts = view_of(self.base), load_prompts(self.setting.prompts)
        records = [json.loads(line) for line in self.setting.prompts.read_text(encoding="utf-8").splitlines()]
        kinds = [record["kind"] for record in records]
        found = []
        for place in range(0, len(prompts), self.setting.every):
            others = swapped(prompts, place, kinds=kinds, draws=self.setting.draws, seed=self.setting.seed)
            readings = self._forced(view, prompts[place], records[place]["reference"], others)
            if readings[0] is not None and readings[0].n_response >= FEWEST_TOKENS:
                found.append(readings)
        return found

    @staticmethod
    def _forced(view: ModelView, prompt: Prompt, reference: str, others: list[Prompt]) -> list[Reading | None]:
        return readings_of(view, prompt, reference, others, prepend_bos=None)

    def _use(self, view: ModelView) -> float:
        flat = [reading for readings in self._readings for reading in readings]
        log_probs = iter(mean_log_probs(view, flat).tolist())  # read together: fewer and larger batches
        uses = []
        for readings in self._readings:
            with_it, *without = (next(log_probs) for _ in readings)
            uses.append(with_it - sum(without) / len(without))
        return float(np.mean(uses))

    @cached_property
    def _base_use(self) -> float:
        return self._use(view_of(self.base))

    # claim 2
    @cached_property
    def _verbs(self) -> tuple[str, ...]:
        return (*INSTRUCTION_VERBS, *(verb for verb in general_verbs() if verb not in INSTRUCTION_VERBS))

    @cached_property
    def _words(self) -> tuple[str, ...]:
        verbs = set(self._verbs)
        return tuple(w for i, w in enumerate(Vocabulary.default().words) if i < self.setting.words or w in verbs)

    @cached_property
    def _vectors(self) -> WordVectors:
        return WordVectors.from_model(self.base, self._words)

    @cached_property
    def _labels(self) -> Labels:
        return labels_of(self._verbs, len(INSTRUCTION_VERBS), self._words, Vocabulary.default())

    def _counts(self, view: ModelView) -> np.ndarray:
        pairs = head_word_pairs(view, self._words, self._vectors, top_k=self.setting.top_k)
        return flat_heads(counts_of_heads(pairs, self._verbs).numpy())

    @cached_property
    def _base_counts(self) -> np.ndarray:
        return self._counts(view_of(self.base))

    def _labels_p(self, tuned: np.ndarray) -> float:
        own, base = self._labels.countable, self._base_counts
        values = np.stack(movement(base[:, own], tuned[:, own]))
        strata = verb_strata(base[:, own].sum(axis=0), self._labels.quarter[own])
        test = stats.stratified_permutations(values, self._labels.instruction[own], strata, seed=self.setting.seed)[0]
        return 1.0 if test.p is None else test.p
