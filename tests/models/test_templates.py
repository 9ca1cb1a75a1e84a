"""Prompts through a checkpoint's chat template: as transformers writes them, in its sandbox, and in every analysis."""

import copy
import inspect
from typing import Any

import pandas as pd
import pytest
import torch

import lensdiff
from lensdiff import Prompt, attention, attribute, generate, instruction_use, knock_out, load_pair, output_shift
from lensdiff.defaults import RAW
from lensdiff.models import view_of
from lensdiff.models.aligned_text import position_groups
from lensdiff.models.templates import ChatTemplate, template_of
from lensdiff.models.text import encode
from lensdiff.results import InputError
from tests.checkpoints import hf_model, tokenizer_of
from tests.models.test_text import tokenizer_with

# as the checkpoint's tokenizer_config.json has it
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = Prompt("Say it in French: good morning user", ["Say it in French:"], ["good morning"], id="p")
SECOND = Prompt("Name the word for it: the sea", ["Name the word for it:"], id="q")
CHAT = Prompt.of_messages(
    [
        {"role": "system", "content": "Be short.", "instruction": "Be short."},
        {"role": "user", "content": "Write of the sea", "context": ["sea"]},
        {"role": "assistant", "content": "The sea"},
        {"role": "user", "content": "Write of the sea", "instruction": ["Write"]},
    ],
    id="chat",
)


def with_template(template: Any, **options: Any) -> Any:
    tokenizer = copy.deepcopy(tokenizer_with(**options))
    tokenizer.chat_template = template
    return tokenizer


SIMPLE = (
    "{{ bos_token }}{% for m in messages %}{{ '[' + m['role'] + '] ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def pair_with(base: Any) -> Any:
    return load_pair(
        hf_model("llama"),
        hf_model("llama", seed=1),
        device="cpu",
        verify=False,
        base_options={"tokenizer": base},
        tuned_options={"tokenizer": with_template(SIMPLE)},
    )


@pytest.fixture(scope="module")
def pair() -> Any:
    return pair_with(tokenizer_of())


def model_with(template: Any, **options: Any) -> Any:
    return lensdiff.load_model(
        hf_model("llama"), tokenizer=with_template(template, **options), device="cpu", verify=False
    )


# as transformers writes them


@pytest.mark.parametrize("prompt", [MARKED, CHAT], ids=["one message", "a chat"])
@pytest.mark.parametrize("template", [SMOLLM2, SIMPLE])
def test_a_template_string_renders_as_transformers_has_it(template, prompt):
    added = ("<|im_start|>", "<|im_end|>")
    model = lensdiff.load_model(
        hf_model("llama", vocab_size=402), tokenizer=with_template(template, added=added), device="cpu", verify=False
    )
    view = view_of(model)
    text = view.tokenizer.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
    ids = view.tokenizer.apply_chat_template(prompt.messages, tokenize=True, add_generation_prompt=True)
    found = prompt.render(model)
    assert found.text == text
    assert encode(view, found).ids == tuple(ids if isinstance(ids, list) else ids["input_ids"])
    for part in ("instruction", "context"):
        before = [prompt.stripped[a:b] for a, b in prompt.ranges(part)]
        assert [found.text[a:b] for a, b in found.ranges(part)] == before


def test_smollm2s_own_template(smollm2):
    view = view_of(smollm2)
    found = MARKED.render(smollm2)
    messages = [{"role": "user", "content": MARKED.text}]
    encoded = view.tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
    ids = encoded if isinstance(encoded, list) else encoded["input_ids"]
    assert encode(view, found).ids == tuple(ids)
    assert found.segments()[1:-1] == [
        *[("instruction", "Say it in French:"), ("other", " "), ("context", "good morning"), ("other", " user")],
    ]
    assert found.segments()[-1] == ("template", "<|im_end|>\n<|im_start|>assistant\n")
    assert found.rendering is not None
    assert found.rendering.between == ""


def test_the_last_word_of_a_chat_is_the_one_marked_and_not_the_same_word_before(pair):
    found = CHAT.render(pair)
    (first, second) = found.ranges("instruction")
    assert found.text[: second[0]].endswith("[user] ")
    assert found.text[second[0] : second[1]] == "Write"
    assert found.text.count("Write") == 2
    assert second[0] == found.text.rindex("Write")
    assert first == (found.text.index("Be short."), found.text.index("Be short.") + 9)


# tokens


def test_a_rendered_prompt_has_the_special_tokens_that_its_template_wrote_and_no_more():
    pair = pair_with(tokenizer_of(True))  # whose base puts a BOS in front by itself
    found = MARKED.render(pair)
    for model in (pair.base, pair.tuned):
        encoded = encode(view_of(model), found)
        assert encoded.ids.count(1) == 1
        assert (encoded.n_special, encoded.n_added, encoded.bos) == (1, 0, "in the text")
    bare = MARKED.render(model_with(SIMPLE.removeprefix("{{ bos_token }}")))
    assert encode(view_of(pair.base), bare).n_special == 0
    assert encode(view_of(pair.base), bare, prepend_bos=True).n_added == 1


def test_what_opens_the_text_for_the_tuned_model_has_no_score_in_the_base_either():
    sides = {
        "base_options": {"tokenizer": tokenizer_with()},
        "tuned_options": {"tokenizer": with_template("{{ bos_token }}{{ messages[0].content }}", bos="</s>")},
    }
    pair = load_pair(hf_model("llama"), hf_model("llama", seed=1), device="cpu", verify=False, **sides)
    found = pair.compare(attribute, MARKED, "bonjour", template="chat", deletion_draws=0)
    assert found.base.in_tokens == found.tuned.in_tokens
    raw = pair.compare(attribute, "</s>" + MARKED.text, "bonjour", deletion_draws=0)
    assert len(raw.base.in_tokens) == len(raw.tuned.in_tokens) + 1  # a text as it is: see `text`


def test_a_response_given_as_text_stands_where_the_template_puts_answers():
    spaced = model_with(SIMPLE.replace("[assistant]", "[assistant] ", 1))
    view = view_of(spaced)
    found = encode(view, MARKED.render(spaced), "bonjour")
    whole = view.tokenizer(MARKED.render(spaced).text + "bonjour", add_special_tokens=False)["input_ids"]
    assert found.ids == tuple(whole)


def test_template_tokens_are_a_segment_of_their_own(pair):
    prompt = MARKED.render(pair)
    view = view_of(pair.tuned)
    encoded = encode(view, prompt, "bonjour")
    groups = position_groups(view, prompt, encoded)
    parts = [set(groups[name]) for name in ("instruction", "context", "template", "prompt", "response")]
    positions = range(encoded.n_special, len(encoded.ids) - 1)
    assert set.union(*parts) == set(positions)
    assert sum(map(len, parts)) == len(positions)
    text = prompt.stripped
    for place in groups["template"]:
        start, end = encoded.offsets[place - encoded.n_special]
        assert any(a <= start and end <= b for a, b in prompt.ranges("template")), text[start:end]
    raw = encode(view, MARKED, "bonjour")
    assert position_groups(view, MARKED, raw)["template"] == ()


def test_shares_and_scores_have_the_segment_too(pair):
    found = attribute(pair.tuned, MARKED, "bonjour", template="chat", deletion_draws=0)
    shares = found.shares().set_index("segment")
    assert list(shares.index) == ["instruction", "context", "template", "other"]
    assert shares.share.sum() == pytest.approx(1)
    assert shares.n_in.sum() == len(found.in_tokens)
    assert shares.score["instruction"] == pytest.approx(found.instruction_score())
    density = found.density()
    mask = MARKED.render(pair).mask("template", found.in_offsets)
    assert shares.share["template"] == pytest.approx(float(density[mask].sum() / density.sum()))
    assert list(attribute(pair.tuned, MARKED, "bonjour", deletion_draws=0).shares().segment) == [
        *("instruction", "context", "other")
    ]
    words = found.words()
    assert words.template is not None
    assert not any("]" in word and "Say" in word for word in words.in_tokens)
    looked = attention(pair.tuned, MARKED, "bonjour", template="chat")
    total = looked.instruction_share + looked.context_share + looked.rest_share + looked.template_share
    sink = looked.patterns[:, :, looked.n_special + looked.n_prompt :, 0].mean(dim=-1)
    torch.testing.assert_close(total.float() + sink, torch.ones_like(sink))
    assert attention(pair.tuned, MARKED, "bonjour").template_share.isnan().all()


def test_only_the_prompts_own_words_are_drawn_in_the_instructions_place(pair):
    raw, chat = (knock_out(pair.tuned, MARKED, "bonjour", draws=1, template=template) for template in ("raw", "chat"))
    # token 0 of the raw prompt is the instruction's first
    assert (raw.n_instruction, raw.n_others) == (chat.n_instruction, chat.n_others)


# every call


def calls(pair: Any) -> dict[str, Any]:
    few = {"max_new_tokens": 3}

    def of_two(p: Prompt, **options: Any) -> Any:
        both = [p, SECOND.render(pair) if p.rendering else SECOND]
        return lensdiff.directions(pair, prompts=both, permutations=19, draws=1, **few, **options)

    return {
        "generate": lambda p, **o: generate(pair.tuned, p, **few, **o),
        "attribute": lambda p, **o: attribute(pair.tuned, p, "bonjour", deletion_draws=0, **o),
        "attention": lambda p, **o: attention(pair.tuned, p, "bonjour", **o),
        "output_shift": lambda p, **o: output_shift(pair, p, **few, **o),
        "instruction_use": lambda p, **o: instruction_use(pair, p, by="deletion", **few, **o),
        "knock_out": lambda p, **o: knock_out(pair.tuned, p, "bonjour", draws=1, **o),
        "patch": lambda p, **o: lensdiff.patch(pair, p, component="mlp", layer=1, **few, **o),
        "patch_sweep": lambda p, **o: lensdiff.patch_sweep(pair, p, components=["mlp"], **few, **o),
        "first_divergence": lambda p, **o: lensdiff.first_divergence(pair, p, **few, **o),
        "dose": lambda p, **o: lensdiff.dose(pair, p, amounts=[1], **few, **o),
        "deletion_curve": lambda p, **o: lensdiff.deletion_curve(pair, p, "bonjour", draws=1, **o),
        "layer_similarity": lambda p, **o: lensdiff.layer_similarity(pair, p, "bonjour", **o),
        "directions": of_two,
        "logit_lens": lambda p, **o: lensdiff.logit_lens(pair.tuned, p, **few, **o),
        "direct_logit_attribution": lambda p, **o: lensdiff.direct_logit_attribution(pair.tuned, p, **few, **o),
    }


def test_everything_that_takes_prompts_takes_a_template(pair):
    functions = [f for name in lensdiff.__all__ if inspect.isfunction(f := getattr(lensdiff, name))]
    signatures = {f.__name__: inspect.signature(f).parameters for f in functions}
    first = inspect.Parameter.POSITIONAL_OR_KEYWORD
    takers = {
        name
        for name, given in signatures.items()
        for parameter in given.values()
        if parameter.name in ("prompt", "prompts") and parameter.kind is first
    } - {
        "template_effects",
        "series",
    }  # the first reads both, a series has no one tuned model whose template it could take
    assert takers == set(calls(pair))
    for name in takers:
        assert signatures[name]["template"].default == RAW, name


@pytest.mark.parametrize("name", sorted(calls(None)))
def test_a_call_through_the_template_is_that_of_the_rendered_prompt(pair, name):
    call = calls(pair)[name]
    through, by_hand, raw = call(MARKED, template="chat"), call(MARKED.render(pair)), call(MARKED)
    pd.testing.assert_frame_equal(through.to_df(), by_hand.to_df())
    assert not through.to_df().equals(raw.to_df())
    if name != "generate":
        assert [one.provenance.template for one in (through, by_hand, raw)] == ["chat", "chat", "raw"]


@pytest.mark.parametrize("name", sorted(calls(None)))
def test_a_call_refuses_a_rendering_that_there_is_not(pair, name):
    with pytest.raises(InputError, match="template='markdown' is none of raw, chat"):
        calls(pair)[name](MARKED, template="markdown")


def test_a_pair_reads_both_models_in_the_tuned_models_template(pair):
    found = pair.compare(attention, MARKED, "bonjour", template="chat")
    assert found.base.tokens == found.tuned.tokens
    assert found.base.provenance.template == found.tuned.provenance.template == "chat"
    with pytest.raises(InputError, match=r"the tokenizer of '.*' has no chat template, expected one that has"):
        attention(pair.base, MARKED, "bonjour", template="chat")
    chosen = pair.compare(attribute, MARKED, "bonjour", target="choice", template="chat", deletion_draws=0)
    assert chosen.tuned.prompt == MARKED.render(pair).text


def test_a_choice_of_a_list_of_which_some_fail_is_kept_prompt_by_prompt(pair):
    long = Prompt("sea " * 200, id="long")
    with pytest.warns(UserWarning, match="prompt 'long' failed"):
        found = generate(pair.tuned, [MARKED, long], max_new_tokens=2, template="chat")
    assert list(found.by_id) == ["p"]


# what cannot be


@pytest.fixture
def of_tokenizer() -> Any:
    """A chat template on a small tokenizer, no model."""
    return lambda template: ChatTemplate(with_template(template), "small")


def test_a_tokenizer_without_a_template_is_refused_by_name(pair):
    with pytest.raises(InputError, match="has no chat template, expected one that has, or template='raw'"):
        MARKED.render(pair.base)
    with pytest.raises(InputError, match="has no chat template"):
        generate(pair.base, [MARKED], template="chat")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no system\nplease') }}", "TemplateError no system$"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{% for", "TemplateSyntaxError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ nothing.there }}", "UndefinedError"),
        ({"tool": "a"}, "ValueError"),
    ],
)
def test_a_template_that_raises_gives_one_sentence(of_tokenizer, template, message):
    with pytest.raises(
        InputError, match=f"prompt 'p': the chat template of 'small' cannot be used: .*{message}"
    ) as raised:
        of_tokenizer(template).render(MARKED)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "attack",
    [
        "''.__class__.__mro__[1].__subclasses__()",
        "cycler.__init__.__globals__.os.system('touch {path}')",
        "lipsum.__globals__['os'].popen('touch {path}').read()",
        "messages.append(messages[0])",
        "messages[0].update(content='another')",
        "range.__self__.open('{path}', 'w')",
        "raise_exception.__globals__['__builtins__']['open']('{path}', 'w')",
    ],
)
def test_a_strangers_template_is_kept_in_the_sandbox(of_tokenizer, attack, tmp_path):
    path = tmp_path / "written"
    with pytest.raises(InputError, match=r"the chat template of 'small' cannot be used: (Security|Undefined)Error"):
        of_tokenizer("{{ " + attack.format(path=path) + " }}" + SIMPLE).render(MARKED)
    assert not path.exists()
    of_tokenizer(SIMPLE).render(MARKED)  # without it the same template is well


def test_a_lack_of_memory_passes_as_it_is(of_tokenizer, monkeypatch):
    chosen = of_tokenizer(SIMPLE)

    def full(*_: Any, **__: Any) -> str:
        raise MemoryError

    monkeypatch.setattr(chosen.tokenizer, "apply_chat_template", full)
    with pytest.raises(MemoryError):
        chosen.render(MARKED)


def test_a_rendered_prompt_is_rendered_once(pair):
    found = MARKED.render(pair)
    assert found.render(pair) == found
    assert MARKED.render(pair, "raw") == MARKED
    with pytest.raises(InputError, match="prompt 'p' is rendered already, expected a raw one"):
        found.render(pair, "raw")
    assert template_of("raw", pair) is None
