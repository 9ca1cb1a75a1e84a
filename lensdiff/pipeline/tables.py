"""What the tables of a results directory hold: what a row is, and what each column means.

A run, and an annotation of it, write this beside the tables as `tables/README.md`. Layers, heads, dimensions,
components and positions count from 0, ranks from 1; differences are tuned - base; `..._low` and `..._high` are limits.
"""

from typing import NamedTuple

from lensdiff.results import ResultStore

COLUMNS = {
    "model": "base or tuned (in responses and instruction_scores also control)",
    "prompt_id": "the prompt's id",
    "layer": "the layer",
    "head_index": "the attention head; missing where a row is a whole weight",
    "in_pos": "position of the prompt's token, from the first one that is not special",
    "in_token": "the prompt's token",
    "out_pos": "position of the response's token",
    "out_token": "the response's token",
    "token": "the response's token",
    "kind": "of a control, empty for base and tuned",
    "seed": "of a control",
    "side": "value (rows of W_out), key or gate (columns of W_in, W_gate); in ov_reading: read or write",
    "component": "the component, by falling share of the variance (ov_reading: by falling singular value)",
    "explained_variance_ratio": "the component's share of its layer's variance",
    "rank": "place in its list; in rotation: of the subspaces",
    "word": "the word",
    "p": "of the row's test",
    "p_adjusted": "false-discovery adjusted over the table",
    **{
        f"{kind}_{limit}": f"{limit} limit of where one more {kind} control's angle lies; missing with fewer than 19"
        for kind in ("distilled", "shuffled", "gradient-noise", "spectrum", "norm", "given", "self")
        for limit in ("low", "high")
    },
    "js_distance": "Jensen-Shannon distance of the two models' attention, log base 2, mean over queries and prompts",
    "js_distance_no_sink": "the same without the first key",
    "sink_share": "mean attention to the first key",
    "entropy": "of the attention, in bits",
    "instruction_share": "attention of the response to the instruction, the first key kept apart; missing: none marked",
    "context_share": "the same to the context",
    "rest_share": "the same to the rest",
}
SUFFIXES = {
    "_base": "in the base",
    "_tuned": "in the tuned model",
    "_difference": "tuned - base",
    "_control_low": "limits within which one more control of any kind lies; missing with fewer than 19 of a kind",
    "_control_high": "as _control_low",
    "_low": "limits of the difference over prompts",
    "_high": "as _low",
    "_p_adjusted": "false-discovery adjusted over the table",
    "_p": "of the difference over prompts",
}


class Described(NamedTuple):
    """What a row of a table is, and the columns that mean something of its own here."""

    row: str
    own: dict[str, str]


TABLES = {
    "differences": Described(
        "something in which the models differ beside their weights",
        {"what": "the thing", "base": "in the base", "tuned": "in the tuned model", "meaning": "what follows from it"},
    ),
    "responses": Described(
        "a prompt and a model",
        {
            "text": "the response",
            "token_ids": "as it was generated; empty for a given text",
            "source": "generated, or given by the config",
            "model_id": "the model's name",
            "tokenizer": "digest of the tokenizer whose ids token_ids are; empty for a given text",
        },
    ),
    "attribution": Described(
        "a token of the prompt and one of the response, for each model's own response",
        {"score": "importance: gradient of the target times input embedding", "level": "0 to 10 within its out_pos"},
    ),
    "instruction_scores": Described(
        "a prompt that marks an instruction, and a model",
        {
            "instruction_score": "summed normalised importance density / log2(2 + instruction tokens)",
            "n_in": "tokens of the prompt",
            "n_out": "tokens of the response",
        },
    ),
    "outputs": Described(
        "a response token, on which both models are read",
        {
            "kl": "KL(tuned || base) of the next-token distributions, nats",
            "js": "their Jensen-Shannon distance, log base 2",
            "base_rank": "the token's rank in the base",
            "tuned_rank": "its rank in the tuned model",
            "base_prob": "its probability in the base",
            "tuned_prob": "its probability in the tuned model",
            "kind": "unshifted (the tuned model's choice is the base's too), marginal (rank 2 or 3 there) or shifted",
            "base_choice": "the base's most probable token",
            "tuned_choice": "the tuned model's",
            "choice_rank": "rank of tuned_choice in the base",
            "agreement": "share of the most probable tokens that both have",
        },
    ),
    "weights": Described(
        "a weight matrix, one head's part of it, a bias, position embeddings, or whatever else a checkpoint holds",
        {
            "matrix": "its name: W_ a matrix, b_ a bias, _gain and _norm_bias of a norm, W_pos the positions; else the "
            "checkpoint's own",
            "relative_norm": "||tuned - base|| / ||base||",
            "cosine": "of the two as vectors",
            "effective_rank": "of the change: exp of the entropy of its singular values' shares",
            "top_share": "share of the change's energy in its leading directions",
            **{
                f"folded_{name}": "the same with the gain of the norm before it"
                for name in ("relative_norm", "cosine", "effective_rank", "top_share")
            },
        },
    ),
    "attention": Described("a prompt and a head, for each model", {}),
    "attention_shift": Described("a head, over all prompts", {}),
    "heads": Described(
        "a word pair of a head's dimension, the best ones of each",
        {
            "dim": "the dimension of W_Q and W_K",
            "dim_rank": "its place by falling energy",
            "energy": "sum of the squared query and key activations of all words",
            "key_word": "the word on the key's side",
            "query_word": "the word on the query's side",
            "cosine": "of the two words' vectors",
            "pairs_in_dim": "how many pairs the dimension has; all are in the array file",
        },
    ),
    "verb_shift": Described(
        "a verb and a group of layers",
        {
            "group": "its first and last layer",
            "verb": "the verb",
            "kind": "instruction, or control: a general verb",
            "heads_up": "heads with more pairs of the verb in the tuned model",
            "heads_down": "heads with fewer",
            "share": "heads_up / (heads_up + heads_down)",
            "base_count": "pairs of the verb in the base",
            "tuned_count": "in the tuned model",
            "sign_mean": "mean over all heads of the sign of tuned_count - base_count",
            "log_mean": "mean over all heads of the change of log(1 + count)",
        },
    ),
    "pair_overlap": Described(
        "a head",
        {
            "jaccard": "share of all its word pairs that both models have",
            "jaccard_control_low": "limits within which one more control of any kind lies; missing with fewer than 19",
            "jaccard_control_high": "as jaccard_control_low",
            "n_base": "pairs in the base",
            "n_tuned": "in the tuned model",
            "gained": "pairs of the tuned model alone",
            "lost": "pairs of the base alone",
        },
    ),
    "ov_reading": Described(
        "a word of a component of a head's W_OV",
        {
            "singular_value": "of the component",
            "share": "its share of the sum of squares",
            "pole": "plus or minus end; which one is called plus is arbitrary, and the same on both sides",
            "score": "cosine of word and direction",
        },
    ),
    "concepts": Described(
        "a word of a component of a feed-forward layer", {"score": "cosine of word and component, signed"}
    ),
    "coherence": Described(
        "a component", {"coherence": "mean cosine of its words' vectors", "p": "its rank among random directions"}
    ),
    "rotation": Described(
        "a layer, side and rank of the compared subspaces",
        {"mean_angle": "mean principal angle, radians", "largest_angle": "the largest one"},
    ),
    "matched_components": Described(
        "a component of the base",
        {
            "tuned_component": "the tuned component that it is matched with",
            "angle": "between the two, radians",
            "base_variance": "its share of the variance",
            "tuned_variance": "the matched one's",
            "variance_change": "tuned - base",
            "lost": "its words that the matched one does not have",
            "gained": "words of the matched one alone",
        },
    ),
    "claims": Described(
        "a claim of the paper",
        {
            "claim": "its name",
            "verdict": "the answer in a word",
            "statement": "in a sentence",
            "effect": "the number that is tested, tuned - base or of the pair",
            "unit": "of the effect",
            "p": "the largest of its rank p among each kind of control, and of heads the permuted labels'",
            "p_adjusted": "Holm over the claims that have a p",
            "control_low": "limits of all kinds of controls together; missing with fewer than 19 of a kind",
            "control_high": "as control_low",
            "n_controls": "valid controls of the smallest kind",
        },
    ),
    "claim_controls": Described(
        "a claim and a kind of control",
        {
            "claim": "its name",
            "kind": "of the controls",
            "n": "valid controls that the effect is compared with",
            "made": "how many were made",
            "checked": "how many of the kind were run on the base's own samples",
            "invalid": "how many of those predict them worse than the tuned model and than a uniform guess",
            "median": "their median effect",
            "low": "limits within which one more control of the kind lies",
            "high": "as low",
            "p": "the effect's two-sided rank among the controls of the kind",
        },
    ),
    "control_validity": Described(
        "a control that was run on the base's own samples",
        {
            "control": "its name",
            "model": "control",
            "loss": "its cross-entropy there, nats per token",
            "limit": "the larger of a uniform guess's and the tuned model's",
            "base_loss": "the base's own",
            "tuned_loss": "the tuned model's",
            "valid": "whether its loss is at most the limit",
        },
    ),
    "instruction_use": Described(
        "a prompt, a forced text and a model (base, tuned, or a control by its name)",
        {
            "model": "base, tuned, or a control's name",
            "by": "swap (another instruction in its place) or deletion",
            "text": "whose response is forced: base, tuned, reference, or given",
            "n_out": "tokens of the text that are read",
            "log_prob": "mean log-probability of its tokens after the prompt, nats",
            "log_prob_without": "the same with another instruction, mean over them, or without one",
            "use": "log_prob - log_prob_without, nats per token",
            "n_draws": "other prompts that log_prob_without is the mean over",
        },
    ),
    "instruction_use_differences": Described(
        "a forced text (mean: of all of them) and a model beside the base",
        {
            "model": "tuned, or a control's name",
            "by": "swap or deletion",
            "text": "as in instruction_use; mean: of the texts that a prompt has",
            "kind": "of a control, empty for tuned",
            "n": "prompts",
            "base": "mean use of the base",
            "use": "mean use of the model",
            "difference": "use - base",
            "low": "limits of the difference over prompts",
            "high": "as low",
        },
    ),
    "replication": Described(
        "a way to have the paper's instruction score of the pair, paired by prompt",
        {
            "way": "own responses, both cut to one length, and each with the target log p",
            "n": "prompts with at least 5 response tokens in both models",
            "n_left_out": "prompts with a shorter response, left out",
            "n_empty": "those of them with an empty one",
            "base": "mean score of the base",
            "tuned": "of the tuned model",
            "difference": "tuned - base",
            "low": "limits of the difference over prompts",
            "high": "as low",
            "p": "paired by prompt; a description, no verdict",
            "answer": "rose, fell or no change shown",
            "depends_on_length": "whether the ways do not all answer alike",
        },
    ),
    "value_rotation": Described(
        "a layer and a kind of control",
        {
            "share": "share of the change of the layer's values that one orthogonal map explains",
            "kind": "of the controls; missing without any",
            "control_low": "limits within which one more control of the kind lies; missing with fewer than 19",
            "control_high": "as control_low",
            "neurons_moved": "neurons that are matched with another than themselves",
            "change": "norm of the values' change, relative to the base's",
        },
    ),
    "value_rotation_controls": Described(
        "a control and a layer",
        {"control": "its name", "share": "as in value_rotation, of the control"},
    ),
    "annotations": Described(
        "a component and a seed of the annotating model",
        {
            "seed": "of the annotating model",
            "status": "explained, unexplained, or why there is no annotation",
            "description": "the concept in words",
            "tasks": "tasks it serves, joined by a semicolon",
            "level": "its linguistic level; empty: none was said",
            "reason": "why there is no annotation",
        },
    ),
    "annotation_shift": Described(
        "a side and a label",
        {
            "label": "the label whose share among explainable components is compared",
            "kind": "explainable, task, task group or level",
            "base_mean": "share in the base, mean over seeds",
            "base_std": "its standard deviation over seeds",
            "tuned_mean": "share in the tuned model, mean over seeds",
            "tuned_std": "its standard deviation over seeds",
            "difference": "tuned - base, seeds pooled",
            "low": "limits of the difference, components resampled",
            "high": "as low",
            "p": "Welch over components",
            "p_adjusted": "adjusted over the labels",
            "equivalence_p": "two one-sided tests that the share did not change",
            "equivalence_p_adjusted": "adjusted over the labels",
            "paper_p": "the paper's test: Welch over seeds, which are no samples",
            "verdict": "in words",
        },
    ),
    "annotation_groups": Described(
        "a side, a group of layers and a label",
        {
            "group": "its first and last layer",
            "label": "the label",
            "kind": "explainable, task, task group or level",
            "base_share": "share in the base",
            "base_low": "limits of base_share",
            "base_high": "as base_low",
            "tuned_share": "share in the tuned model",
            "tuned_low": "limits of tuned_share",
            "tuned_high": "as tuned_low",
            "difference": "tuned - base",
            "low": "limits of the difference",
            "high": "as low",
        },
    ),
}


def meaning(table: str, column: str) -> str:
    """Return what a column of a table means; empty where that is not written down."""
    own = TABLES[table].own
    if column in own or column in COLUMNS:
        return own.get(column) or COLUMNS[column]
    for suffix, text in SUFFIXES.items():
        name = column.removesuffix(suffix)
        if name != column and name in COLUMNS:
            return f"{name} {text}" if suffix in ("_base", "_tuned", "_difference") else f"{name}: {text}"
    return ""


def describe(tables: dict[str, list[str]]) -> str:
    """Return the description of tables, given with their columns, as Markdown."""
    lines = ["# Tables", "", "Layers, heads, components and positions count from 0, ranks from 1.", ""]
    for name, columns in tables.items():
        lines += [f"## {name}.parquet", "", f"A row is {TABLES[name].row}.", ""]
        lines += [f"- `{column}`: {meaning(name, column)}" for column in columns]
        lines.append("")
    return "\n".join(lines)


def write_description(store: ResultStore) -> None:
    """Write the description of a directory's tables beside them."""
    tables = {name: store.columns(name) for name in store.table_names() if name in TABLES}
    store.write_text("tables/README.md", describe(tables))
