"""Table 2: does the instruction drive a tuned model's own response more than it drives the base model's?"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from experiments import common
from lensdiff import stats
from lensdiff.analyses.attribute.replication import ONE_LENGTH, replication
from lensdiff.analyses.published.tables import Recognition, published_tables, recognition, robustness


def main(argv: Sequence[str] | None = None) -> None:
    experiment = common.read(__file__, argv)
    if experiment.published:
        rows = published_tables(experiment.published).table2
        equal = published_tables(experiment.published, equal_length=True).table2
        show(experiment, rows, {name: row.paired for name, row in equal.items()})
        variants = robustness(experiment.published)
        experiment.table("robustness", "Not in the paper: Table 2 under other choices", variants)
        return
    found = experiment.run()
    scores: Any = found.store.load_table("instruction_scores")
    by_prompt = scores[scores["model"] != "control"].pivot(
        index="prompt_id", columns="model", values="instruction_score"
    )
    by_prompt = by_prompt.dropna()
    row = recognition(by_prompt["base"].tolist(), by_prompt["tuned"].tolist())
    again = replication(*(common.attributions(found, side) for side in ("base", "tuned")))
    (equal,) = [way for way in again.ways if way.way == ONE_LENGTH]
    show(experiment, {experiment.pair: row}, {experiment.pair: equal.test})
    title = "Not in the paper: without short responses, and at one length"
    experiment.table("replication", title, again.to_df())
    title = "Not in the paper: tuned - base beside meaningless changes"
    experiment.table("controls", title, beside_controls(scores))
    lengths = scores[scores["model"] != "control"].groupby("model")["n_out"].mean().rename("mean_tokens").reset_index()
    experiment.table("lengths", "Not in the paper: response lengths", lengths)
    experiment.answer(found, "instruction")


def beside_controls(scores: Any) -> Any:
    """Return the mean difference of scores from the base, of the tuned model and of controls, on the prompts of all."""
    runs = {
        (row.model, row.kind, "" if row.model != "control" else int(row.seed)): None
        for row in scores[["model", "kind", "seed"]].drop_duplicates().itertuples()
    }
    columns = {
        key: scores[
            (scores["model"] == key[0]) & (scores["kind"] == key[1]) & ((scores["seed"] == key[2]) | (key[2] == ""))
        ].set_index("prompt_id")["instruction_score"]
        for key in runs
    }
    wide: Any = pd.DataFrame(columns).dropna()
    means: Any = wide.sub(wide[("base", "", "")], axis=0).mean()
    names = [key for key in wide.columns if key[0] == "control"]
    effect = float(means[("tuned", "", "")])
    return common.controls(effect, [float(means[key]) for key in names], [key[1] for key in names])


def show(experiment: common.Experiment, rows: dict[str, Recognition], equal: dict[str, stats.Test | None]) -> None:
    """Print the paper's table, and what it leaves out: the paired test, and responses of equal length."""
    groups = {name: {"base": row.base, "tuned": row.tuned} for name, row in rows.items()}
    experiment.table("table2", "Table 2: instruction scores", common.samples(groups))
    tests = {
        name: {
            "tuned - base (the paper's test)": row.welch,
            "paired by prompt": row.paired,
            "paired, cut to one length": equal[name],
        }
        for name, row in rows.items()
    }
    experiment.table("tests", "Tests; all but the first of a set are not in the paper", common.tests(tests))


if __name__ == "__main__":
    common.start(main)
