"""What results are known by: the identity of models, prompts and words, so that nothing stale is ever taken for new.

A file is known by its content, a model from the hub by its commit; a control by both models, its kind, seed, data and
options.
"""

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from lensdiff.defaults import RAW
from lensdiff.inputs.fingerprints import fingerprint
from lensdiff.inputs.prompts import Prompt
from lensdiff.models.loading.commits import model_identity
from lensdiff.pipeline.config import RunConfig
from lensdiff.results.manifest import SCHEMA
from lensdiff.results.provenance import package_versions
from lensdiff.steps.plan import Plan
from lensdiff.steps.unit import SIDES, Unit

HOW = ("device", "dtype", "weights", "wrapper")  # the keys that say how models are loaded


class Identities:
    """The identity of everything that units need, each worked out when it is first asked for."""

    def __init__(self, config: RunConfig):
        self._config = config

    @cached_property
    def models(self) -> dict[str, Any]:
        """Of base and tuned: content, and how they are loaded."""
        config = self._config
        how = {key: getattr(config, key) for key in HOW}
        return {side: how | model_identity(config.source(side), config.revision(side)) for side in SIDES}

    @cached_property
    def pair(self) -> str:
        """Of both models together: a tuned adapter lies on the base."""
        return digest(self.models)

    @cached_property
    def vocabulary(self) -> str | None:
        given = self._config.vocabulary
        return given if given == "default" else fingerprint(self._config.path(given))

    @cached_property
    def vectors(self) -> str | None:
        given = self._config.vectors
        if given == "base":
            return digest(self.models["base"])
        return given if given == "glove" else fingerprint(self._config.path(given))

    @cached_property
    def texts(self) -> str | None:
        given = self._config.texts
        return given if given == "default" else fingerprint(self._config.path(given))

    @cached_property
    def data(self) -> str | None:
        given = self._config.controls.data
        return None if given is None else fingerprint(self._config.path(given))

    def of(self, need: str, plan: Plan, unit: Unit) -> Any:
        """Return the identity of what a unit needs, as JSON values."""
        if need == "model":
            return self._model(plan, unit)
        if need in ("prompt", "prompts"):
            found = prompt_identity(plan, plan.prompts if need == "prompts" else [str(unit.prompt)])
            return found if plan.template == RAW else [found, plan.template, self.pair]
        known = {"base": self.models["base"], "pair": self.pair, "both": plan.both, "seed": plan.seed}
        if need in known:
            return known[need]
        if need == "vectors":
            return [self.vectors, self.vocabulary]
        if need == "texts":
            return self.texts
        assert need == "vocabulary", need
        return self.vocabulary

    def _model(self, plan: Plan, unit: Unit) -> Any:
        if unit.control is None:
            side = str(unit.model)
            return self.models["base"] if side == "base" else [self.models["tuned"], self.pair]
        control = plan.control(unit.control)
        data = self.data if control.kind == "shuffled" else None
        told = self._config.controls.of_kind(control.kind)
        return [self.pair, control.kind, control.seed, data, *([told] if told else [])]


def prompt_identity(plan: Plan, ids: Iterable[str]) -> list[Any]:
    """Return what prompts are known by, with the responses that the config gives them."""
    return [identity_of(plan.prompts[prompt_id], plan.given.get(prompt_id)) for prompt_id in ids]


def identity_of(prompt: Prompt, response: str | None = None) -> list[Any]:
    """Return what a prompt is known by, with a response that is given to it."""
    parts = [list(prompt.instruction), list(prompt.context)]
    found: list[Any] = [prompt.id, prompt.text, *parts, prompt.kind, prompt.reference, response]
    return found + ([list(prompt.turns)] if prompt.turns else [])


def digest(value: Any) -> str:
    """Return a digest of JSON values."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def code_identity() -> list[Any]:
    """Return what every result depends on: the versions of the packages that make it, and how results are kept."""
    return [SCHEMA, package_versions()]
