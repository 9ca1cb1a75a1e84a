"""The verbs of instructions, and general verbs to hold them against.

Instruction verbs are the 38 of the paper. General verbs are the first lemmas of those WordNet 3.0 verb synsets that
have an example sentence, single words, those tagged most often in WordNet's texts first, without the instruction
verbs and `STOP_WORDS`. The paper ordered them by wordfreq, whose data may not be shipped here (CC BY-SA).

Reference: Wu et al., NAACL 2024, section 5 (Table 3); doi 10.18653/v1/2024.naacl-long.130. WordNet: G. A. Miller, CACM
38(11), 1995; its licence lies beside the data files.
"""

from functools import cache

from lensdiff.inputs.vocabulary import DATA, Vocabulary
from lensdiff.results.numbers import check_count

# fmt: off
INSTRUCTION_VERBS = (
    "act", "analyze", "clarify", "classify", "compose", "correct", "create", "demonstrate", "describe", "design",
    "detect", "develop", "edit", "estimate", "evaluate", "explain", "find", "follow", "format", "generate",
    "give", "have", "help", "identify", "interpret", "make", "output", "predict", "recommend", "repeat",
    "retrieve", "revise", "say", "solve", "summarize", "tell", "translate", "write",
)

# auxiliaries, and verbs too general for any task; "have" is one of the paper's instruction verbs
STOP_WORDS = (
    "be", "can", "could", "do", "get", "go", "let", "may", "might", "must", "ought", "shall", "should", "will", "would",
)
# fmt: on


@cache
def general_verbs(n: int = 3000) -> tuple[str, ...]:
    """Return the n most frequent general verbs, or all where there are fewer.

    Raises:
        InputError: n is below 1.
    """
    check_count("n", n)
    listed = Vocabulary._parse((DATA / "verbs.tsv").read_text(encoding="utf-8"), "verbs.tsv", "verbs.tsv", merge=False)
    excluded = {*INSTRUCTION_VERBS, *STOP_WORDS}
    return tuple(verb for verb in listed.words if verb not in excluded)[:n]
