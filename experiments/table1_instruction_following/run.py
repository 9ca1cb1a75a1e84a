"""Table 1: is the instruction more important for responses that follow it than for responses that do not?"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from experiments import common
from lensdiff.analyses.published.tables import Following, following, published_tables
from lensdiff.analyses.rate.measure import rate
from lensdiff.cli.output import write
from lensdiff.inputs.chat import Chat
from lensdiff.inputs.prompts import load_prompts
from lensdiff.inputs.ratings import followed, read_ratings
from lensdiff.results import InputError, ResultStore


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ratings", help="a .tsv or .csv file with prompt_id and rating (1: not followed, 2 to 4)")
    common.add_server(parser)


def main(argv: Sequence[str] | None = None) -> None:
    experiment = common.read(__file__, argv, more=add_options)
    if experiment.published:
        show(experiment, published_tables(experiment.published).table1)
        return
    store = experiment.run().store
    judged = judge(experiment, store)
    scores: Any = store.load_table("instruction_scores")
    own = scores[(scores["model"] == "tuned") & (scores["n_out"] >= experiment.fewest_tokens)]
    own = own[own["prompt_id"].isin(judged)]
    row = following(own["instruction_score"].tolist(), [judged[i] for i in own["prompt_id"]], own["n_out"].tolist())
    if row is None:
        counted = sum(judged[i] for i in own["prompt_id"])
        write(
            f"not testable: {counted} of {len(own)} rated responses follow their instruction, Table 1 needs both kinds"
        )
        return
    show(experiment, {experiment.pair: row})


def judge(experiment: common.Experiment, store: ResultStore) -> dict[str, bool]:
    """Return which responses of the tuned model follow their instruction, by prompt id."""
    table: Any = store.load_table("responses")
    responses = {row.prompt_id: row.text for row in table[table["model"] == "tuned"].itertuples()}
    path, options = experiment.config.path(experiment.config.prompts or ""), experiment.options
    if options.ratings:
        write(f"rated by {options.ratings}")
        return followed(read_ratings(options.ratings))
    if options.base_url:
        chat = Chat.connect(options.model, experiment.out / "answers", **common.server(options))
        found = rate(chat, load_prompts(path), responses)
        experiment.table("ratings", f"Rated by {options.model}", found)
        return followed(dict(zip(found["prompt_id"], found["rating"].tolist(), strict=True)))
    lines = path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else []
    references = {r["id"]: r["reference"] for r in map(json.loads, lines) if "reference" in r}
    if not references:
        raise InputError("Table 1 needs ratings: give --ratings FILE or --base-url URL, or prompts with references")
    write("rated by exact match with the prompts' reference responses: no person or model judged")
    return {i: responses[i].strip() == text for i, text in references.items() if i in responses}


def show(experiment: common.Experiment, rows: dict[str, Following]) -> None:
    """Print the paper's table, and the same at equal response length."""
    groups = {name: {"followed": row.followed, "unfollowed": row.unfollowed} for name, row in rows.items()}
    experiment.table("table1", "Table 1: instruction scores of the tuned model", common.samples(groups))
    tests = {
        name: {"followed - unfollowed (the paper's test)": row.welch, "with response length": row.equal_length}
        for name, row in rows.items()
    }
    experiment.table("tests", "Tests; the second is not in the paper", common.tests(tests))


if __name__ == "__main__":
    common.start(main)
