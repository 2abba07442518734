"""Tiny random LLaMAs with every feature that pruning meets, a byte-level tokenizer, and folders to load them from.

All of it takes milliseconds. The models are shared between tests: copy one before changing it.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from rcpu import Windows
from rcpu.models import families

VOCABULARY = 257  # the bytes and an end of text
END = 256
KINDS = {
    "mha": {},
    "gqa": {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 72},
    "biased": {"attention_bias": True, "mlp_bias": True, "intermediate_size": 80},
    "tied": {"tie_word_embeddings": True},
}


#: Models of other families, by name: model_type and what is set beside the sizes of ``gqa``.
FAMILIES = {
    "mistral": ("mistral", {"sliding_window": 6}),
    "mistral-wide": ("mistral", {"sliding_window": None, "head_dim": 16}),
    "qwen2": ("qwen2", {}),
    "qwen2-windowed": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "phi3": ("phi3", {"sliding_window": 7, "pad_token_id": None}),
    "phi3-partial": ("phi3", {"partial_rotary_factor": 0.5, "pad_token_id": None}),
    "phi3-long": (
        "phi3",
        {
            "pad_token_id": None,
            "original_max_position_embeddings": 12,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 500.0,
                "short_factor": [1.0, 1.25, 1.5, 2.0],
                "long_factor": [1.0, 2.0, 4.0, 8.0],
            },
        },
    ),
    "yarn": ("qwen2", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0}}),
    "llama3": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
}


def stock(name: str, seed: int = 0) -> PreTrainedModel:
    """A random model of one of FAMILIES as transformers builds it."""
    kind, settings = FAMILIES[name]
    return _random(families.FAMILIES[kind].model, families.FAMILIES[kind].config, seed, **KINDS["gqa"] | settings)


def llama(seed: int = 0, **settings) -> LlamaForCausalLM:
    """A random LLaMA in fp32 and eval mode: four heads eight wide, three layers, and no parameter that is 0 or 1."""
    return _random(LlamaForCausalLM, LlamaConfig, seed, **settings)


def _random(model: type, config: type, seed: int, **settings) -> PreTrainedModel:
    defaults = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 256,
        "initializer_range": 0.25,
        "bos_token_id": None,
        "eos_token_id": END,
        "attn_implementation": "sdpa",
    }
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        net = model(config(**defaults | settings))
        for name, values in net.named_parameters():
            if name.endswith("bias"):
                values.normal_(0, 0.3)
            elif "norm" in name:
                values.uniform_(0.5, 1.5)
    return net.eval().requires_grad_(False)


@functools.cache
def net(kind: str) -> LlamaForCausalLM:
    """The shared model of one of KINDS."""
    return llama(**KINDS[kind])


def ids(windows: int, tokens: int, seed: int = 0) -> torch.Tensor:
    """Random token windows, (windows, tokens)."""
    return torch.randint(END, (windows, tokens), generator=torch.Generator().manual_seed(seed))


def calibration(samples: int = 8, held_out: int = 4, tokens: int = 16) -> Windows:
    """Windows of random tokens."""
    return Windows(ids(samples, tokens, seed=1), ids(held_out, tokens, seed=2), "random tokens")


def tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte, so that every text has one, and a character may need several."""
    vocabulary = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


#: The vocabulary of :func:`blanks`.
WORDS = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz", "▁w", "▁wo"]


def blanks(begin: bool = False, end: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer as LLaMA-1 and -2 have it: blanks as U+2581, unknown characters as bytes, the first blank dropped.

    ``begin`` and ``end``: whether every text gets a token before it and one after.
    """
    merges = [("▁", "w"), ("▁w", "o")]
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    backend = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(parts)
    template = f"{'<s> ' * begin}$A{' </s>' * end}"
    backend.post_processor = processors.TemplateProcessing(template, special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def save(model: LlamaForCausalLM, folder: Path, **options) -> Path:
    """Write a model and its tokenizer as ``load_model`` expects them."""
    model.save_pretrained(folder, **options)
    tokenizer().save_pretrained(folder)
    return folder


def logits(model: nn.Module, tokens: torch.Tensor | None = None) -> torch.Tensor:
    """Logits on fixed random windows, or on these."""
    with torch.no_grad():
        return model(ids(2, 20, seed=3) if tokens is None else tokens).logits


def assert_same_function(a: nn.Module, b: nn.Module, accuracy: float = 1e-4) -> None:
    """The logits of both agree to ``accuracy``, relative to how large they are."""
    expected = logits(b)
    torch.testing.assert_close(logits(a), expected, rtol=0, atol=accuracy * expected.std().item())


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers."""
    return {name: values.clone() for name, values in [*model.named_parameters(), *model.named_buffers()]}


def assert_unchanged(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    """Every parameter is bit for bit what it was, NaN included, and no hook was left behind.

    A RoPE that depends on the length of a text sets its frequencies anew for each.
    """
    after = snapshot(model)
    assert after.keys() == before.keys()
    for name, values in after.items():
        if not name.endswith("inv_freq"):
            torch.testing.assert_close(values, before[name], rtol=0, atol=0, equal_nan=True, msg=name)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
