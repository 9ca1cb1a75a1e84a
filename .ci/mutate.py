"""Break one formula of the measuring kernels at a time: the tests beside it must fail.

    python .ci/mutate.py [WORD]     all of them, or those whose file or formula holds WORD

Works in a copy of the project, whose tests have to pass before anything is broken: where they do not, nothing is said
of any formula, and the exit code is 2. A formula that no test misses makes it 1.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
COPIED = ("lensdiff", "tests", "experiments", "pyproject.toml")
LIMIT = 600  # seconds that the tests of one formula may take


class Mutation(NamedTuple):
    """A formula, what it becomes, and the tests that have to see it; files below analyses/ unless they say where."""

    file: str
    old: str
    new: str
    tests: str


GRADIENTS = "attribute/test_gradients.py"
DENSITY = "attribute/test_density.py"
HEADS = "heads/test_heads.py"
OUTPUTS = "outputs/test_output_shift.py"
ROTATED = "value_rotation/test_value_rotation.py"
WEIGHTS = "weights/test_weight_shift.py"
PARTED = "first_divergence/test_first_divergence.py"
SUMS = "layer_similarity/test_running.py"
SIMILAR = "layer_similarity/test_layer_similarity.py"
LENS = "residual_stream/test_lens.py"
ADDED = "activation_difference/test_difference.py"
ACTING = "activation_difference/test_interventions.py"
POSITION = "position/test_position.py"
ATTENTION = "attention/test_attention.py"
STATS = "tests/stats/test_stats.py"
STEPS = "tests/models/test_stepping.py"
WIDE = "tests/models/test_widened.py"
LINEAR = "tests/models/test_linear.py"
TANGENTS = "lensdiff/models/linear/tangents.py"
MUTATIONS = [
    Mutation("attribute/gradients.py", "(grad[inputs] * along)", "grad[inputs]", GRADIENTS),
    Mutation("attribute/gradients.py", ", directions.split(chunk),", ", (2 * directions).split(chunk),", GRADIENTS),
    Mutation(TANGENTS, "1 - bent.square()", "bent.square()", LINEAR),
    Mutation(TANGENTS, "normalized, value=-1)", "normalized, value=1)", LINEAR),
    Mutation(TANGENTS, "out.sub_(tangent.mean(", "out.add_(tangent.mean(", LINEAR),
    Mutation(TANGENTS, "(a * cos - b * sin, b", "(a * cos + b * sin, b", LINEAR),
    Mutation(TANGENTS, "self.q = self.q * scale", "self.q = self.q", LINEAR),
    Mutation(TANGENTS, "scores.mul_(self.slope[:, None, :, start:])", "pass", LINEAR),
    Mutation(TANGENTS, "self.slope = self.slope * pre", "pass", LINEAR),
    Mutation(TANGENTS, "tangent if self.parallel else mid", "mid", LINEAR),
    Mutation(TANGENTS, "made if post is None else post(made, where)", "made", LINEAR),
    Mutation(TANGENTS, "made.mul_(scale)", "made", LINEAR),
    Mutation("lensdiff/models/linear/passes.py", "directions[a:b] * plan.embedding", "directions[a:b]", LINEAR),
    Mutation("lensdiff/models/linear/forms.py", "weight.detach().to(x) + plan", "weight.detach().to(x) - plan", LINEAR),
    Mutation("attribute/paths.py", "(1 - place) * directions", "place * directions", "attribute/test_paths.py"),
    Mutation("attribute/paths.py", "(places + 1) / 2", "(places + 1) / 3", "attribute/test_paths.py"),
    Mutation("lensdiff/models/dosing.py", "start + amount * (", "start - amount * (", "tests/models/test_dosing.py"),
    Mutation("dose/reading.py", "base + amount * (", "tuned + amount * (", "dose/test_dose.py"),
    Mutation("first_divergence/cells.py", "plus].double() - own", "plus].double() + own", PARTED),
    Mutation("residual_stream/lens.py", "p * (own - log_probs)", "p * (log_probs - own)", LENS),
    Mutation("layer_similarity/running.py", "(x.T, x).addr_(dx, dx,", "(x.T, x).addr_(dx, mean,", SUMS),
    Mutation("layer_similarity/passes.py", "shift / distance", "distance / shift", SIMILAR),
    Mutation("directions/separation.py", "0.5 * (apart.abs() <= tie).sum()", "0.0", "directions/test_separation.py"),
    Mutation("directions/separation.py", "(kind & ~out).double()", "kind.double()", "directions/test_separation.py"),
    Mutation("activation_difference/sums.py", "has = tuned - base,", "has = base - tuned,", ADDED),
    Mutation("activation_difference/sums.py", "self.n[has] += base.shape[1]", "self.n += base.shape[1]", ADDED),
    Mutation("activation_difference/words.py", "final[:-1] - final[-1]", "final[:-1]", ADDED),
    Mutation("activation_difference/causal.py", "along[..., None] * u[:, None, None]", "gap", ACTING),
    Mutation("activation_difference/steering.py", "p * (said - end)", "p * (end - said)", ACTING),
    Mutation("attribute/targets.py", "scatter(-1, own, -torch.inf)", "clone()", GRADIENTS),
    Mutation("attribute/targets.py", "log_probability(logits, ids).exp()", "log_probability(logits, ids)", GRADIENTS),
    Mutation("attribute/density.py", "torch.ceil(", "torch.floor(", DENSITY),
    Mutation("attribute/density.py", "levels > b, levels,", "levels >= b, levels,", DENSITY),
    Mutation("attribute/density.py", "kept.sum(dim=1) / (", "kept.sum(dim=1) * (", DENSITY),
    Mutation("attribute/density.py", "math.log2(2 +", "math.log2(1 +", DENSITY),
    Mutation("attribute/density.py", "scores.relu()", "scores.abs()", DENSITY),
    Mutation("heads/word_pairs.py", "every @ mean + threshold_std *", "every @ mean - threshold_std *", HEADS),
    Mutation("heads/word_pairs.py", "/ len(background)", "/ (len(background) - 1)", HEADS),
    Mutation("heads/word_pairs.py", "activations.abs().topk", "activations.topk", HEADS),
    Mutation("heads/word_pairs.py", "q_values.sign()[:, None, :] > 0", "q_values.sign()[:, None, :] < 0", HEADS),
    Mutation("heads/word_pairs.py", "torch.maximum(thresholds", "torch.minimum(thresholds", HEADS),
    Mutation("heads/word_pairs.py", "activations.square().sum", "activations.abs().sum", HEADS),
    Mutation("mlp/components.py", "as_double(block) - mean)", "as_double(block))", "mlp/test_components.py"),
    Mutation("mlp/components.py", "as_double(keys) * as_double(gain)", "as_double(keys)", "mlp/test_components.py"),
    Mutation("mlp/concepts.py", "view.weights.W_U.T if name", "view.weights.W_E if name", "mlp/test_concepts.py"),
    Mutation("mlp/concepts.py", "tokens), dim=1)", "tokens), dim=0)", "mlp/test_concepts.py"),
    Mutation("mlp/coherence.py", "sum(axis=1) - k)", "sum(axis=1))", "mlp/test_coherence.py"),
    Mutation("mlp/subspaces.py", "cosine**2 >= 0.5", "cosine**2 <= 0.5", "mlp/test_subspaces.py"),
    Mutation("mlp/subspaces.py", "2 * (nearer / 2).asin()", "(nearer / 2).asin()", "mlp/test_subspaces.py"),
    Mutation("value_rotation/procrustes.py", "return left @ right", "return right.T @ left.T", ROTATED),
    Mutation("value_rotation/procrustes.py", "1.0 - (left / change) ** 2", "1.0 - left / change", ROTATED),
    Mutation("value_rotation/shares.py", "layer.change**2", "-(layer.change**2)", ROTATED),
    Mutation("outputs/distributions.py", "p.exp() * (p - q)", "q.exp() * (p - q)", OUTPUTS),
    Mutation("outputs/distributions.py", "mean = (p + q) / 2", "mean = p", OUTPUTS),
    Mutation("outputs/distributions.py", "torch.gt(log_probs, mine", "torch.ge(log_probs, mine", OUTPUTS),
    Mutation("attention/patterns.py", "/ math.log(2)", "", ATTENTION),
    Mutation("attention/patterns.py", "pattern[:, queries, 0]", "pattern[:, queries, 1]", ATTENTION),
    Mutation("weights/weight_shift.py", "special.entr(values / values.sum())", "special.entr(values)", WEIGHTS),
    Mutation("weights/weight_shift.py", "energy = values.square()", "energy = values", WEIGHTS),
    Mutation("lensdiff/models/plain/stepping.py", "max(0, self.read - attn.cfg.window_size)", "0", STEPS),
    Mutation("lensdiff/models/plain/stepping.py", "mask.sum(dim=1) + torch.arange", "self.begun + torch.arange", STEPS),
    Mutation("lensdiff/models/inside/widened.py", "found if all(rounded) else {}", "found", WIDE),
    Mutation("lensdiff/models/inside/widened.py", "wide, name not in tables)", "wide, True)", WIDE),
    Mutation("lensdiff/models/decoding.py", "agreed == len(row.new)", "agreed <= len(row.new)", STEPS),
    Mutation("lensdiff/models/spectrum.py", "squares[:rank].sqrt()", "squares[:rank]", "tests/models/test_spectrum.py"),
    Mutation("position/measure.py", "(first + last) / 2 - middle", "(first + last) - middle", POSITION),
    Mutation("lensdiff/stats/controls.py", "p=(1 + count) / (1 + n)", "p=count / n", STATS),
    Mutation("lensdiff/stats/t_tests.py", "float(d.std(ddof=1))", "float(d.std())", STATS),
    Mutation("lensdiff/stats/t_tests.py", "t.mean() - b.mean()), (len(t)", "b.mean() - t.mean()), (len(t)", STATS),
    Mutation("lensdiff/stats/studentised.py", "(1 + int(count)) / (1 + RESAMPLES)", "int(count) / RESAMPLES", STATS),
]  # fmt: skip


def whole(name: str, room: str) -> str:
    """Return the path of a file below the project."""
    return name if name.startswith(("lensdiff", "tests")) else f"{room}/analyses/{name}"


def run_tests(copy: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Run test files of a copy of the project."""
    files = [whole(name, "tests") for name in tests]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(copy), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, timeout=LIMIT * len(files), check=False
    )


def killed(copy: Path, mutation: Mutation) -> bool:
    """Break the formula in a copy of the project, run its tests, mend it, and return whether a test failed."""
    path = copy / whole(mutation.file, "lensdiff")
    text = path.read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1, f"{mutation.file} has {mutation.old!r} {text.count(mutation.old)} times"
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        ran = run_tests(copy, mutation.tests)
    finally:
        path.write_text(text, encoding="utf-8")
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr  # the tests themselves ran
    return ran.returncode == 1


def main() -> int:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [mutation for mutation in MUTATIONS if word in mutation.file or word in mutation.old]
    if not chosen:
        print(f"no file and no formula holds {word!r}")
        return 2
    survivors = []
    with tempfile.TemporaryDirectory(prefix="lensdiff-mutants-") as name:
        copy = Path(name)
        for item in COPIED:
            source = ROOT / item
            shutil.copytree(source, copy / item) if source.is_dir() else shutil.copy(source, copy)
        unbroken = run_tests(copy, *dict.fromkeys(mutation.tests for mutation in chosen))
        if unbroken.returncode != 0:
            print(unbroken.stdout + unbroken.stderr)
            print("the unbroken tests do not pass, so none of them can tell of a broken formula")
            return 2
        for mutation in chosen:
            dead = killed(copy, mutation)
            survivors += [] if dead else [mutation]
            print(f"{'killed' if dead else 'LIVES '}  {mutation.file}: {mutation.old} -> {mutation.new}", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} broken formulas were seen by a test")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
