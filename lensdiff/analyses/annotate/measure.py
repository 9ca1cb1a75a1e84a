"""A chat model annotates components: it describes what a component's words have in common, then classifies it.

    describe   the words -> explainable or not, and a description
    classify   words and description -> tasks (several or none) and one linguistic level

Each component is asked with several seeds. Five seeds are not five samples: `annotation_shift` resamples components.
An answer that is refused, malformed or not given is recorded as that and never guessed at; its components are left out
of the shares and counted.

Every answer is kept on disk by content (`lensdiff.inputs.chat`): a stopped run repeats nothing; what was malformed or
not given is asked again by the next run. Prompts and labels are in `inputs/data/annotation_prompts.toml`. Cost: at most
two requests per component and seed.
Reference: Wu et al., NAACL 2024, section 6; doi 10.18653/v1/2024.naacl-long.130. The prompts are lensdiff's own.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from lensdiff.analyses.annotate.annotations import Annotation, Annotations, parse_description, parse_labels
from lensdiff.analyses.mlp.concepts import MLPConcepts
from lensdiff.inputs.annotation_prompts import AnnotationPrompts
from lensdiff.inputs.chat import AnnotationStopped, Answer, Chat
from lensdiff.models.given import check_results
from lensdiff.models.layers import chosen_indices
from lensdiff.results import InputError
from lensdiff.results.numbers import check_count, check_counts, check_seed, n_of

SEEDS = (0, 1, 2, 3, 4)
WORDS = 15
MOST_REQUESTS = 1000  # at a time, each of them a thread
NOT_SAID = {"refused": "refused", "rejected": "rejected", "empty": "malformed", "malformed": "malformed"}
ALL_REJECTED = 20  # in a row and nothing accepted: the server does not take such requests


def annotate(
    concepts: MLPConcepts,
    *,
    model: str,
    cache: str | Path,
    base_url: str | None = None,
    api_key: str | None = None,
    seeds: Sequence[int] = SEEDS,
    layers: Sequence[int] | None = None,
    components: int | None = None,
    top_words: int = WORDS,
    prompts: AnnotationPrompts | None = None,
    temperature: float | None = 1.0,
    max_tokens: int = 500,
    response_format: str = "json_schema",
    concurrency: int = 8,
    max_retries: int = 5,
    timeout: float = 120.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Annotations:
    """Ask a chat model what the components mean: first a description, then tasks and a linguistic level.

    Args:
        concepts: of one model; its words of largest |score| are shown.
        model: the annotating model's name, as its server knows it.
        cache: folder of all answers, which any number of runs may share.
        base_url: of an OpenAI-compatible server; None is OpenAI's own.
        api_key: by default from OPENAI_API_KEY; a server of one's own needs none.
        seeds: one annotation of every component each.
        layers: some of those that were analysed; all unless given.
        components: the leading ones of each layer; all unless given.
        top_words: words shown of each component.
        prompts: what is asked; lensdiff's own unless given.
        temperature: None leaves it to the server.
        max_tokens: of an answer, its reasoning included; sent as `max_completion_tokens` to a server that asks for it.
        response_format: "json_schema", or what else the server understands: "json_object", "none".
        concurrency: requests at a time.
        max_retries, timeout: of the client, per request; seconds.
        on_progress: called with how many of how many annotations are done.

    Returns:
        `Annotations`, what was said of each component by each seed; `annotation_shift` compares two.

    Raises:
        InputError: an option cannot be used, or the package openai or a key is missing.
        AnnotationStopped: the server gives no more answers; run again to go on where it stopped.
    """
    check_results(concepts, MLPConcepts, "annotate", "mlp_concepts")
    prompts = prompts or AnnotationPrompts.default()
    chosen, n = _selection(concepts, layers, components, seeds, top_words)
    check_count("concurrency", concurrency, most=MOST_REQUESTS)
    chat = Chat.connect(
        model,
        cache,
        base_url=base_url,
        api_key=api_key,
        temperature=temperature,
        max_tokens=max_tokens,
        response_format=response_format,
        max_retries=max_retries,
        timeout=timeout,
    )
    places = [(*place, seed) for place in product(chosen, concepts.sides, range(n)) for seed in seeds]
    jobs = [(concepts.words_of(layer, side, i, top_words), seed) for layer, side, i, seed in places]
    found = _Run(chat, prompts, on_progress).all(jobs, concurrency)
    options = {
        "annotator": model,
        "seeds": list(seeds),
        "top_words": top_words,
        "prompts": prompts.digest,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "response_format": response_format,
        "concepts": concepts.provenance.options,
    }
    provenance = replace(concepts.provenance, analysis="annotate", options=options)
    axes = {"layers": chosen, "sides": concepts.sides, "seeds": tuple(seeds)}
    return Annotations.gather(provenance, found, prompts, **axes)


def _selection(
    concepts: MLPConcepts, layers: Sequence[int] | None, components: int | None, seeds: Sequence[int], top_words: int
) -> tuple[tuple[int, ...], int]:
    chosen = chosen_indices(layers, concepts.layers, "layers")
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds={list(seeds)} given, expected at least one and each once")
    for seed in seeds:
        check_seed(seed, "a seed")
    check_counts(top_words=top_words, **({} if components is None else {"components": components}))
    had = concepts.index.shape[2]
    return chosen, had if components is None else min(components, had)


@dataclass(eq=False)
class _Run:
    """The annotations of one call, made by several threads."""

    chat: Chat
    prompts: AnnotationPrompts
    on_progress: Callable[[int, int], None] | None
    done: int = 0
    accepted: bool = False
    rejected: int = 0
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        self.lock, self.stopped = threading.Lock(), threading.Event()

    def all(self, jobs: list[tuple[list[str], int]], concurrency: int) -> list[Annotation]:
        """Return one annotation per job, in order; the first failure ends all others before their next request."""
        with ThreadPoolExecutor(concurrency) as pool:
            futures = [pool.submit(self._one, words, seed, len(jobs)) for words, seed in jobs]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:  # also when interrupted
                self.stopped.set()
                pool.shutdown(cancel_futures=True)
        if self.failure is not None:
            raise self.failure
        return [future.result() for future in futures]

    def _one(self, words: list[str], seed: int, total: int) -> Annotation:
        try:
            found = self._annotation(words, seed)
            with self.lock:
                self.done += 1
                if self.on_progress is not None:
                    self.on_progress(self.done, total)
        except BaseException as error:
            with self.lock:
                self.failure = self.failure or self._told(error, total)
            self.stopped.set()
            raise
        return found

    def _told(self, error: BaseException, total: int) -> BaseException:
        if not isinstance(error, AnnotationStopped):
            return error
        kept = f"{self.done} of {n_of(total, 'annotation')} done and kept, run again to go on"
        told = AnnotationStopped(f"{error}; {kept}")
        told.__cause__ = error
        return told

    def _annotation(self, words: list[str], seed: int) -> Annotation:
        asked = self.prompts.ask_description(words)
        answer = self._ask(asked, "description", self.prompts.description_schema(), seed, parse_description)
        if answer.kind != "said":
            return Annotation(NOT_SAID[answer.kind], reason=answer.text)
        explainable, description = answer.value
        if not explainable:
            return Annotation("unexplained", description)
        asked = self.prompts.ask_labels(words, description)
        read = partial(parse_labels, prompts=self.prompts)
        answer = self._ask(asked, "labels", self.prompts.label_schema(), seed, read)
        if answer.kind != "said":
            return Annotation(NOT_SAID[answer.kind], description, reason=answer.text)
        tasks, level = answer.value
        return Annotation("explained", description, tasks, level)

    def _ask(
        self,
        messages: list[dict[str, str]],
        name: str,
        schema: dict[str, Any],
        seed: int,
        read: Callable[[str], Any],
    ) -> Answer:
        if self.stopped.is_set():
            raise AnnotationStopped("another request was given up")
        answer = self.chat.ask(messages, name, schema, seed, read)
        with self.lock:
            self.accepted |= answer.kind in ("said", "refused", "malformed")
            self.rejected += answer.kind == "rejected"
            if self.rejected >= ALL_REJECTED and not self.accepted:
                raise AnnotationStopped(f"the server rejected each of {self.rejected} requests: {answer.text}")
        return answer
