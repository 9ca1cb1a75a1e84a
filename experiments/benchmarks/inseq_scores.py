"""inseq's `input_x_gradient`, for a Python that has inseq and need not have lensdiff: one case a line, one answer each.

    PYTHON inseq_scores.py FOLDER THREADS

The first line that it writes holds the versions of its libraries. A case, on its standard input, is JSON: `prompt` and
`text` (the prompt and what follows), `ids` (the tokens that the text must be) and `clock`. The answer has `scores`
[prompt token, response token] and `seconds` of `attribute` alone. inseq keeps a number for each dimension of an
embedding: what is compared is their sum, which is gradient x input; its own tables show their norm. The target is the
probability of each token. Weights have no gradients, as with the other rivals.
"""

import json
import os
import sys
import time
from importlib.metadata import version

import inseq  # pyright: ignore[reportMissingImports]
import torch

CLOCKS = {"processor": time.process_time, "wall": time.perf_counter}


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    sys.stdout = sys.stderr  # what libraries print is no answer
    folder, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    kept = {"dtype": torch.float32, "attn_implementation": "eager"}  # the attention of the other rivals
    model = inseq.load_model(folder, "input_x_gradient", device="cpu", model_kwargs=kept)
    model.model.requires_grad_(False)
    answers.write(json.dumps({name: version(name) for name in ("inseq", "torch", "transformers")}) + "\n")
    answers.flush()
    for line in sys.stdin:
        case = json.loads(line)
        clock = CLOCKS[case["clock"]]
        start = clock()
        found = model.attribute(case["prompt"], case["text"], attributed_fn="probability", show_progress=False)
        seconds = clock() - start
        (one,) = found.sequence_attributions
        ids = [token.id for token in one.target]
        if ids != case["ids"]:
            raise SystemExit(f"inseq reads other tokens: {ids}, expected {case['ids']}")
        scores = one.target_attributions[: one.attr_pos_start].sum(dim=-1)
        answers.write(json.dumps({"scores": scores.tolist(), "seconds": seconds}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
