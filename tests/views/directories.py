"""Results directories made by hand, without a model."""

from pathlib import Path

import pandas as pd

from lensdiff.results import Diff, ResultStore
from tests.analyses.attribute.results import instruction_scores, planted
from tests.analyses.claims.results import answers

CONFIG = {
    "base": "base",
    "tuned": "tuned",
    "max_new_tokens": 24,
    "seed": 3,
    "controls": {"kinds": ["norm"], "prompts": 3, "attention": 0, "heads": 0, "rotation": 99, "attribution": 3},
}


def with_attribution(
    root: Path, *, prompts: int = 6, tokens=None, name: str = "tiny", effect: float = 0.3
) -> ResultStore:
    """A directory of a run that attributed: `tokens` are (prompt, response), and `name` stands wherever a name can."""
    store = ResultStore(root)
    given = {} if tokens is None else {"prompt": tokens[0], "response": tokens[1]}
    ids = [f"{name if tokens else 'p'}-{i}" for i in range(prompts)]
    with store.writing(CONFIG | {"base": name}):
        side = {"model": name, "architecture": name, "n_layers": 2, "parameters": 1234567, "dtype": "float32"}
        store.describe_pair({"comparable": True, "base": side, "tuned": side | {"n_layers": 3}})
        differences = [{"what": "eos", "base": name, "tuned": "3", "meaning": "responses end differently"}]
        store.save_table("differences", pd.DataFrame(differences))
        runs = {}
        for number, model in enumerate(("base", "tuned")):
            runs[model] = [planted(number, i, given, prompt_id=p, model=name) for i, p in enumerate(ids)]
            for result in runs[model]:
                store.save_result(f"attribution/{model}/{result.prompt_id}", result)
        store.save_table("attribution", Diff(runs["base"], runs["tuned"]).to_df())
        store.save_table("instruction_scores", instruction_scores(ids, effect=effect))
        store.save_result(
            "claims", answers(effect, kinds=(name, "spectrum") if tokens else ("spectrum", "gradient-noise"))
        )
        for step in ("responses", "attribution", "instruction_scores"):
            store.update_step(step, state="done", units=prompts, seconds=1.25)
    return store
