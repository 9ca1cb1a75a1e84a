"""Table 2: does the instruction drive a tuned model's own response more than it drives the base model's?"""

from collections.abc import Sequence
from typing import Any

from experiments import common
from lensdiff.analyses.evidence import instruction_evidence, scores_at_one_length
from lensdiff.analyses.published import Recognition, published_tables, recognition, robustness


def main(argv: Sequence[str] | None = None) -> None:
    experiment = common.read(__file__, argv)
    if experiment.published:
        rows = published_tables(experiment.published).table2
        show(experiment, rows, published_tables(experiment.published, equal_length=True).table2)
        variants = robustness(experiment.published)
        experiment.table("robustness", "Not in the paper: Table 2 under other choices", variants)
        return
    store = experiment.run()
    scores: Any = store.load_table("instruction_scores")
    by_prompt = scores[scores["model"] != "control"].pivot(
        index="prompt_id", columns="model", values="instruction_score"
    )
    by_prompt = by_prompt.dropna()
    equal = scores_at_one_length(*(common.attributions(store, side) for side in ("base", "tuned")))
    row = recognition(by_prompt["base"].tolist(), by_prompt["tuned"].tolist())
    show(
        experiment,
        {experiment.pair: row},
        {experiment.pair: recognition(equal["base"].tolist(), equal["tuned"].tolist())},
    )
    evidence = instruction_evidence(scores)
    if not isinstance(evidence, str):
        title = "Not in the paper: tuned - base beside meaningless changes"
        experiment.table("controls", title, common.controls(evidence.effect, evidence.control))
    lengths = scores[scores["model"] != "control"].groupby("model")["n_out"].mean().rename("mean_tokens").reset_index()
    experiment.table("lengths", "Not in the paper: response lengths", lengths)
    experiment.answer(store, "instruction")


def show(experiment: common.Experiment, rows: dict[str, Recognition], equal: dict[str, Recognition]) -> None:
    """Print the paper's table, and what it leaves out: the paired test, and responses of equal length."""
    groups = {name: {"base": row.base, "tuned": row.tuned} for name, row in rows.items()}
    experiment.table("table2", "Table 2: instruction scores", common.samples(groups))
    tests = {
        name: {
            "tuned - base (the paper's test)": row.welch,
            "paired by prompt": row.paired,
            "paired, cut to one length": equal[name].paired,
        }
        for name, row in rows.items()
    }
    experiment.table("tests", "Tests; all but the first of a set are not in the paper", common.tests(tests))


if __name__ == "__main__":
    common.start(main)
