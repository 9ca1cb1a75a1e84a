"""Tiny random checkpoints of every supported family, with scaled norm weights so that folding mistakes show."""

import functools
import tempfile
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "Write a short poem about the sea and the moon, using simple words that a child could understand.",
    "Translate to French: Good morning, how are you? The answer is: bonjour.",
    "List three fruits. Apples, bananas and oranges are good for you and easy to find in a shop.",
    "The city council met on Tuesday to discuss the new bridge; several residents spoke against the plan.",
    "Repeat the word that follows and describe it in one sentence, then explain why you chose it.",
]
VOCABULARY = 400

_LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GEMMA = {**_LLAMA, "head_dim": 8}
_ENDS = {"bos_token_id": 1, "eos_token_id": 2}
_FALCON = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4} | {
    "alibi": False,
    "bias": False,
    "max_position_embeddings": 128,
    **_ENDS,
}
FAMILIES: dict[str, tuple[str, dict]] = {
    "gpt2": (
        "GPT2Config",
        {
            "vocab_size": VOCABULARY,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 128,
            "n_inner": 80,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "gpt_neox": (
        "GPTNeoXConfig",
        {k: v for k, v in _LLAMA.items() if k != "num_key_value_heads"}
        | {"rotary_pct": 0.5, "use_parallel_residual": True},
    ),
    "llama": ("LlamaConfig", _LLAMA | {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}),
    "mistral": ("MistralConfig", _LLAMA | {"sliding_window": 16, "head_dim": 16}),
    "qwen2": ("Qwen2Config", _LLAMA),
    "qwen3": ("Qwen3Config", _LLAMA | {"head_dim": 16}),
    "gemma": ("GemmaConfig", _GEMMA),
    "gemma2": (
        "Gemma2Config",
        _GEMMA
        | {
            "query_pre_attn_scalar": 8,
            "sliding_window": 16,
            "final_logit_softcapping": 3.0,
            "attn_logit_softcapping": 2.0,
        },
    ),
    "phi3": ("Phi3Config", _LLAMA),
    "olmo2": ("Olmo2Config", _LLAMA),
}
_PLAIN = {key: value for key, value in _LLAMA.items() if key != "num_key_value_heads"}
_GPT = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128} | _ENDS
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
_LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0} | {
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 32} | {
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 3.0, 4.0],
}
_LAYERS = ["sliding_attention", "full_attention"]
# what else is met in practice; most tests take the families above, tests/models/test_families.py takes all
MORE: dict[str, tuple[str, dict]] = {
    "gpt2_quick_gelu": ("GPT2Config", FAMILIES["gpt2"][1] | {"activation_function": "quick_gelu"}),
    "gpt2_scaled_by_layer": ("GPT2Config", FAMILIES["gpt2"][1] | {"scale_attn_by_inverse_layer_idx": True}),
    "gptj": ("GPTJConfig", _GPT | {"rotary_dim": 4}),
    "gpt_neox_sequential": ("GPTNeoXConfig", _PLAIN | {"rotary_pct": 0.5, "use_parallel_residual": False}),
    "gpt_neox_without_bias": ("GPTNeoXConfig", _PLAIN | {"rotary_pct": 0.5, "attention_bias": False}),
    "llama31": ("LlamaConfig", _LLAMA | {"rope_parameters": _LLAMA3}),
    "llama_with_bias": ("LlamaConfig", _LLAMA | {"attention_bias": True, "mlp_bias": True}),
    "smollm3": ("SmolLM3Config", _LLAMA | {"no_rope_layers": [1, 0]}),
    "granite": (
        "GraniteConfig",
        _LLAMA
        | {"embedding_multiplier": 6.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2, "logits_scaling": 4.0},
    ),
    "mixtral": ("MixtralConfig", _LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": ("Qwen3MoeConfig", _LLAMA | {"head_dim": 16, "moe_intermediate_size": 24} | _EXPERTS),
    "qwen3_next": (
        "Qwen3NextConfig",
        _LLAMA
        | {"head_dim": 16, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24}
        | {"layer_types": ["full_attention", "full_attention"]}
        | _EXPERTS,
    ),
    "olmoe": ("OlmoeConfig", _LLAMA | _EXPERTS),
    "olmo3": ("Olmo3Config", _LLAMA | {"sliding_window": 16, "layer_types": _LAYERS}),
    "flex_olmo": ("FlexOlmoConfig", _LLAMA | _EXPERTS),
    "exaone4": ("Exaone4Config", _LLAMA | {"sliding_window": 16, "layer_types": _LAYERS}),
    "gemma3": (
        "Gemma3TextConfig",
        _GEMMA | {"query_pre_attn_scalar": 8, "sliding_window": 16, "layer_types": _LAYERS},
    ),
    "gemma4": ("Gemma4TextConfig", _GEMMA | {"sliding_window": 16, "layer_types": _LAYERS}),
    "vaultgemma": ("VaultGemmaConfig", _GEMMA | {"query_pre_attn_scalar": 8, "sliding_window": 16}),
    "phi": ("PhiConfig", _LLAMA | {"partial_rotary_factor": 0.5}),
    "phi3_longrope": ("Phi3Config", _LLAMA | {"original_max_position_embeddings": 32, "rope_parameters": _LONGROPE}),
    "opt": (
        "OPTConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"max_position_embeddings": 128, "word_embed_proj_dim": 32, "pad_token_id": 0}
        | _ENDS,
    ),
    "bloom": ("BloomConfig", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4} | _ENDS),
    "falcon": ("FalconConfig", _FALCON | {"multi_query": True, "parallel_attn": True}),
    "falcon_grouped": ("FalconConfig", _FALCON | {"num_kv_heads": 2, "new_decoder_architecture": True}),
    "stablelm": ("StableLmConfig", _LLAMA | {"partial_rotary_factor": 0.25}),
    "cohere": ("CohereConfig", _LLAMA | {"logit_scale": 0.25}),
    "nemotron": ("NemotronConfig", _LLAMA | {"head_dim": 8, "partial_rotary_factor": 0.5}),
}
HOOKED = ("gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")
BRIDGED = tuple(FAMILIES)


@functools.lru_cache
def tokenizer_of(bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, saved and read back."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    folder = tempfile.mkdtemp()  # kept: TransformerLens reads the tokenizer again from where it came
    fast.save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def hf_model(
    family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **overrides
) -> transformers.PreTrainedModel:
    """A random `transformers` model of a family; weights large enough that attention is not uniform, gains scaled."""
    config_class, options = (FAMILIES | MORE)[family]
    config = getattr(transformers, config_class)(**(options | overrides))
    torch.manual_seed(seed)
    # experts one by one: the grouped kernel knows no float64
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", experts_implementation="eager"
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
            elif "norm" in name or "ln_" in name:
                parameter.mul_(1.0 + 0.5 * torch.rand_like(parameter)).add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype).eval()


def save_checkpoint(family: str, folder: Path, *, bos: bool = False, shard: str | None = None, **options) -> Path:
    """Save a tiny checkpoint with its tokenizer."""
    model = hf_model(family, **options)
    model.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    tokenizer_of(bos).save_pretrained(folder)
    return folder
