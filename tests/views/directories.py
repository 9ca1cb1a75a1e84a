"""Results directories made by hand, without a model."""

from pathlib import Path

import pandas as pd

from lensdiff.results import Diff, Provenance, ResultStore
from lensdiff.steps.responses import SaidResponse
from lensdiff.steps.unit import SIDES, WHOLE, Unit
from tests.analyses.attribute.results import instruction_scores, planted
from tests.analyses.claims.results import answers
from tests.directories import put

CONFIG = {
    "base": "base",
    "tuned": "tuned",
    "max_new_tokens": 24,
    "seed": 3,
    "controls": {
        "kinds": ["norm"],
        "instruction_use": 3,
        "dose": 0,
        "activation_difference": 0,
        "attention": 0,
        "heads": 0,
        "mlp": 99,
        "attribute": 3,
    },
}


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
