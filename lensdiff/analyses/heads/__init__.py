"""Which words each head relates, and what changed."""

from lensdiff.analyses.heads.defaults import LAYERS_PER_GROUP, TABLE_TOP, THRESHOLD_STD, THRESHOLD_WORDS, TOP_K
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Count, Finite, Layers, Options, option


class HeadOptions(Options):
    """Options of `head_word_pairs` and of what is made of it."""

    layers: Layers | None = option(None, "Layers that are read; by default all.", example=[0, 1, 2])
    top_k: Count = option(TOP_K, "Candidate words per dimension and side.")
    threshold_words: Count = option(THRESHOLD_WORDS, "Words whose cosines set the threshold of a pair.")
    threshold_std: Finite = option(THRESHOLD_STD, "How many standard deviations above their mean a pair's cosine lies.")
    layers_per_group: Count = option(LAYERS_PER_GROUP, "Layers that the verbs' statistic takes together.")
    table_top: Count = option(TABLE_TOP, "Pairs per dimension in the table; all of them are in the array file.")


ANALYSIS = Analysis(
    name="heads",
    question="Which words each head relates, and what changed",
    beside="labels permuted among verbs of one count and frequency; control models",
    options=HeadOptions,
    asks=frozenset({"words"}),
    controls=19,
)
