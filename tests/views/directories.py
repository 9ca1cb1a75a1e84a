"""Results directories made by hand, without a model."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.analyses.claims.evidence import INSTRUCTION
from lensdiff.analyses.claims.measure import Claims, Evidence, claims
from lensdiff.analyses.claims.words import Made
from lensdiff.results import Diff, Provenance, ResultStore
from lensdiff.steps.responses import SaidResponse
from lensdiff.steps.unit import SIDES, WHOLE, Unit
from tests.directories import put
from tests.views.attributions import PROMPT, RESPONSE, attribution

CONFIG = {
    "base": "base",
    "tuned": "tuned",
    "max_new_tokens": 24,
    "seed": 3,
    "controls": {"kinds": ["norm"], "instruction_use": 3, "attention": 0, "heads": 0, "mlp": 99, "attribute": 3},
}


def instruction_scores(prompts: list[str], *, effect: float = 0.3, controls: int = 3, seed: int = 0) -> pd.DataFrame:
    """The table of that name, with a planted mean difference."""
    rng = np.random.default_rng(seed)
    base = rng.normal(1.0, 0.2, len(prompts))
    runs = {("base", "", pd.NA): base, ("tuned", "", pd.NA): base + effect + rng.normal(0, 0.1, len(prompts))}
    runs |= {("control", "spectrum", i): base + rng.normal(0, 0.1, len(prompts)) for i in range(controls)}
    rows = [
        {
            "prompt_id": prompt,
            "model": model,
            "kind": kind,
            "seed": number,
            "instruction_score": value,
            "n_in": 6,
            "n_out": 3,
        }
        for (model, kind, number), values in runs.items()
        for prompt, value in zip(prompts, values, strict=True)
    ]
    return pd.DataFrame(rows).astype({"seed": "Int64"})


def planted(tuned: int, seed: int, given: dict[str, Any], **names: Any) -> Attribution:
    """A map in which the tuned model's first three tokens, the instruction, matter most, and the base's others."""
    n, m = (len(given.get(part, default)) for part, default in (("prompt", PROMPT), ("response", RESPONSE)))
    scores = torch.rand(n, m, generator=torch.Generator().manual_seed(2 * seed + tuned)) * 0.1
    scores[slice(None, 3) if tuned else slice(3, None)] += 0.3
    return attribution(**given, **names, scores=scores)


def answers(effect: float, kinds: tuple[str, ...] = ("spectrum", "gradient-noise"), n: int = 59) -> Claims:
    """Claims of which the first has an effect beside evenly spread controls of some kinds, from -0.1 to 0.1."""
    controls = {kind: np.linspace(-0.1, 0.1, n).tolist() for kind in kinds}
    made = tuple(Made(kind, n, n, 0) for kind in kinds)
    evidence = Evidence(effect, INSTRUCTION, controls, made, interval=(effect - 0.2, effect + 0.2))
    return claims(Provenance("claims", "a -> b"), {"instruction": evidence})


def with_attribution(
    root: Path, *, prompts: int = 6, tokens=None, name: str = "tiny", effect: float = 0.3
) -> ResultStore:
    """A directory of a run that attributed: `tokens` are (prompt, response), and `name` stands wherever a name can."""
    store = ResultStore(root)
    given = {} if tokens is None else {"prompt": tokens[0], "response": tokens[1]}
    ids = [f"{name if tokens else 'p'}-{i}" for i in range(prompts)]
    with store.writing():
        side = {"model": name, "architecture": name, "n_layers": 2, "parameters": 1234567, "dtype": "float32"}
        pair = {"comparable": True, "base": side, "tuned": side | {"n_layers": 3}}
        store.update(config=CONFIG | {"base": name}, pair=pair, ended=True)
        differences = [{"what": "eos", "base": name, "tuned": "3", "meaning": "responses end differently"}]
        store.save_table("differences", pd.DataFrame(differences))
        runs = {}
        for number, model in enumerate(SIDES):
            runs[model] = [planted(number, i, given, prompt_id=p, model=name) for i, p in enumerate(ids)]
            for result in runs[model]:
                put(store, "attribution", Unit(model, result.prompt_id), result, seconds=0.25)
                put(store, "responses", Unit(model, result.prompt_id), said(result.prompt_id))
        store.save_table("attribution", Diff(runs["base"], runs["tuned"]).to_df())
        store.save_table("instruction_scores", instruction_scores(ids, effect=effect))
        kinds = (name, "spectrum") if tokens else ("spectrum", "gradient-noise")
        put(store, "claims", WHOLE, answers(effect, kinds=kinds))
    return store


def said(prompt: str) -> SaidResponse:
    """A response of the length that the config asks for at most."""
    provenance = Provenance("responses", "tiny", options={"max_new_tokens": CONFIG["max_new_tokens"]})
    return SaidResponse(provenance, prompt, " fine", (1,), False, "digest")
