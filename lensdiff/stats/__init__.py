"""Every p-value and every interval of lensdiff is computed here, on plain numbers; no other module computes one.

    against_controls                      effects beside those of every kind of control: bands, and a verdict's key
    paired_difference, mean_difference    over prompts: the t test, or what stands in for it where there is none
    welch, paired, one_sample             t tests of a difference of means, with its interval
    paired_interval, mean_interval        the interval without a test, of many numbers at once
    told_apart                            whether a difference is not about 0, so that a share may be taken of it
    ratio_bootstrap                       the same for a difference of shares, several counts per observation
    permutation, sign_flip                the same questions without assuming a distribution
    equivalence                           "did not change": two one-sided tests against a stated bound
    stratified_permutations               labels permuted among observations that are alike in what confounds them
    control_rank, rank_band               an effect beside the same effect of controls of one kind
    covariate                             a group's effect at equal response length (or any other covariate)
    adjust                                false-discovery control, or Holm's, over one displayed table

Differences are always tuned - base, and "greater" means that tuned is larger. Every interval is two-sided, also
beside a one-sided p. Data without any variation have no t statistic: a difference of zero is "no change" (p = 1),
another one is refused (`NoVariation`), and so are too few data (`TooFew`). Both are `NotTestable`: who leaves a gap
there, or takes another test, catches that and nothing else, so that a mistake in the data is never a gap. A test that
is known to be off on data like the given ones says so in its `warning`. Values are computed in float64; resampling
works in batches of about 32 MB. Observations are taken as independent: several annotations of the same component are
one observation, to be averaged or resampled by component before they come here, and rows of the same prompt need a
paired test, or `covariate` with `pairs`.

Reference: Welch, Biometrika 34, 1947; Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987 (two one-sided tests); Phipson
and Smyth, Stat. Appl. Genet. Mol. Biol. 9, 2010 (the + 1 in rank and resampling p-values); Efron, JASA 82, 1987 (BCa
intervals); MacKinnon and White, J. Econometrics 29, 1985 (HC3); Benjamini and Hochberg, J. R. Stat. Soc. B 57, 1995.
"""

from lensdiff.stats.beside import (
    FEWEST_FOR_VERDICT,
    Beside,
    ControlKind,
    Direction,
    Envelope,
    against_controls,
    by_kind,
)
from lensdiff.stats.controls import FEWEST_FOR_RANK, control_rank, rank_band
from lensdiff.stats.differences import mean_difference, paired_difference
from lensdiff.stats.regression import covariate
from lensdiff.stats.resampling import permutation, ratio_bootstrap, sign_flip
from lensdiff.stats.result import Band, Test, adjust, format_p, holm
from lensdiff.stats.samples import FEWEST_PAIRS, NotTestable, NoVariation, TooFew
from lensdiff.stats.stratified import stratified_effects, stratified_permutations
from lensdiff.stats.t_tests import equivalence, mean_interval, one_sample, paired, paired_interval, told_apart, welch

__all__ = [
    "FEWEST_FOR_RANK",
    "FEWEST_FOR_VERDICT",
    "FEWEST_PAIRS",
    "Band",
    "Beside",
    "ControlKind",
    "Direction",
    "Envelope",
    "NoVariation",
    "NotTestable",
    "Test",
    "TooFew",
    "adjust",
    "against_controls",
    "by_kind",
    "control_rank",
    "covariate",
    "equivalence",
    "format_p",
    "holm",
    "mean_difference",
    "mean_interval",
    "one_sample",
    "paired",
    "paired_difference",
    "paired_interval",
    "permutation",
    "rank_band",
    "ratio_bootstrap",
    "sign_flip",
    "stratified_effects",
    "stratified_permutations",
    "told_apart",
    "welch",
]
