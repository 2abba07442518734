"""GGUF files, which llama.cpp and what is built on it load: stock and padded models with tokenizer and chat template.

Written by the ``gguf`` package, one tensor at a time; what llama.cpp knows by other names or in another order is here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import quantize
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from rcpu.base.errors import RcpuError, choose
from rcpu.models.families import FAMILIES

#: Precisions of matrices; vectors stay in fp32, and rows that are no multiple of a block in fp16.
QUANTS = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
#: How llama.cpp calls a way to split text, by what a tokenizer.json says of it; the first that fits.
SPLITS = (
    ("llama-bpe", r"\p{N}{1,3}|"),
    ("qwen2", r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]"),
    ("smollm", '"Digits"'),
    ("gpt-2", '"use_regex": true'),
)
TYPES = gguf.TokenType


def gguf_problem(config: PreTrainedConfig, tokenizer) -> str:
    """Why a stock or padded model cannot become a GGUF file that llama.cpp loads; an empty string where it can."""
    kind, rope = config.model_type, config.rope_parameters or {}
    if kind not in FAMILIES:
        return "its layers differ in size: export it as stock or padded first"
    if (found := rope.get("rope_type", "default")) not in ("default", "linear", "yarn", "llama3", "longrope"):
        return f"llama.cpp has no RoPE type {found!r}"
    if rope.get("partial_rotary_factor", 1.0) != 1.0 and kind != "phi3":
        return "llama.cpp turns whole heads of this family"
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or json.loads(backend.to_str())["model"]["type"] != "BPE":
        return "its tokenizer is none of byte pairs"
    if len(tokenizer) > config.vocab_size:
        return f"its tokenizer makes {len(tokenizer):,} tokens, and it has {config.vocab_size:,} rows for them"
    return ""


@torch.no_grad()
def write_gguf(net: PreTrainedModel, tokenizer, path: Path, quant: str = "f16", name: str = "") -> None:
    """Write a stock or padded model and its tokenizer to one file.

    Raises:
        RcpuError: a model or a tokenizer that llama.cpp has no way for, or there is no such precision.
    """
    kind = choose("quant", quant, QUANTS)
    if problem := gguf_problem(net.config, tokenizer):
        raise RcpuError(f"this model cannot become a GGUF file: {problem}")
    writer = gguf.GGUFWriter(path, FAMILIES[net.config.model_type].gguf)
    writer.add_file_type(FILE_TYPES[quant])
    writer.add_name(name or path.stem)
    _add_sizes(writer, net)
    _add_tokenizer(writer, tokenizer, net)
    tensors = [(n, t, _stored(t, kind)) for n, t in _tensors(net)]
    for tensor_name, tensor, stored in tensors:
        bytes_a_row = gguf.quant_shape_to_byte_shape(tensor.shape, stored)
        size = int(torch.tensor(bytes_a_row).prod())
        shape = tensor.shape if stored in (QUANTS["f32"], QUANTS["f16"]) else bytes_a_row
        dtype = {QUANTS["f32"]: np.float32, QUANTS["f16"]: np.float16}.get(stored, np.uint8)
        writer.add_tensor_info(tensor_name, shape, np.dtype(dtype), size, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, tensor, stored in tensors:
        writer.write_tensor_data(quantize(tensor.detach().cpu().float().numpy(), stored))
    writer.close()


def _stored(tensor: Tensor, kind: gguf.GGMLQuantizationType) -> gguf.GGMLQuantizationType:
    if tensor.ndim == 1:
        return QUANTS["f32"]
    fits = tensor.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
    return kind if fits else QUANTS["f16"]


def _add_sizes(writer: gguf.GGUFWriter, net: PreTrainedModel) -> None:
    c, rope = net.config, net.config.rope_parameters or {}
    dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_key_length(dim)
    writer.add_value_length(dim)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_vocab_size(c.vocab_size)
    writer.add_rope_dimension_count(int(dim * rope.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(rope["factor"])
    if kind in ("yarn", "longrope"):
        trained = rope.get("original_max_position_embeddings") or getattr(c, "original_max_position_embeddings", None)
        writer.add_rope_scaling_orig_ctx_len(trained or c.max_position_embeddings)
    if kind == "longrope":
        writer.add_rope_scaling_attn_factors(net.model.rotary_emb.attention_scaling)
    if c.model_type == "phi3":
        writer.add_sliding_window(c.sliding_window or 0)


def _tensors(net: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Every weight by llama.cpp's name; RoPE of its llama pairs neighbours, ours halves, so that rows change places."""
    c, family = net.config, FAMILIES[net.config.model_type]
    arch = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == family.gguf)
    names = gguf.get_tensor_name_map(arch, c.num_hidden_layers)
    heads = {"q_proj": c.num_attention_heads, "k_proj": c.num_key_value_heads}
    rope = c.rope_parameters or {}
    if rope.get("rope_type") == "llama3":
        dim = 2 * len(net.model.rotary_emb.inv_freq)
        plain = rope["rope_theta"] ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)
        yield "rope_freqs.weight", plain / net.model.rotary_emb.inv_freq.cpu().float()
    if rope.get("rope_type") == "longrope":
        yield "rope_factors_long.weight", torch.tensor(rope["long_factor"])
        yield "rope_factors_short.weight", torch.tensor(rope["short_factor"])
    for key, tensor in net.state_dict().items():
        if key == "lm_head.weight" and c.tie_word_embeddings:
            continue
        projection = key.split(".")[-2]
        if family.gguf == "llama" and projection in heads:
            tensor = tensor.view(heads[projection], 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
        known = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise RcpuError(f"llama.cpp has no name for {key}")
        yield known, tensor


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer, net: PreTrainedModel) -> None:
    said = json.loads(tokenizer.backend_tokenizer.to_str())
    model, added = said["model"], {t["id"]: t for t in said["added_tokens"]}
    by_id = {i: t for t, i in model["vocab"].items()} | {i: t["content"] for i, t in added.items()}
    pieces, size = bool(model.get("byte_fallback")), net.config.vocab_size
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    writer.add_tokenizer_model("llama" if pieces else "gpt2")
    writer.add_tokenizer_pre("default" if pieces else split_name(said["pre_tokenizer"]))
    writer.add_token_list([by_id.get(i, f"[PAD{i}]") for i in range(size)])
    writer.add_token_types([_type(i, by_id, added, model, pieces) for i in range(size)])
    if pieces:  # a piece's score says when it is merged
        ranks: dict[str, int] = {}
        for rank, merge in enumerate(merges):
            ranks.setdefault(merge.replace(" ", ""), rank)
        writer.add_token_scores([-float(ranks.get(by_id.get(i, ""), 0)) for i in range(size)])
        writer.add_add_space_prefix("prepend" in json.dumps(said).lower())
    else:
        writer.add_token_merges(merges)
        writer.add_add_space_prefix(False)
    for kind in ("bos", "eos", "unk", "pad"):
        if (number := getattr(tokenizer, f"{kind}_token_id")) is not None:
            getattr(writer, f"add_{kind}_token_id")(number)
    begins = tokenizer("a").input_ids
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and begins[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(tokenizer.eos_token_id is not None and begins[-1] == tokenizer.eos_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def split_name(pre_tokenizer: dict | None) -> str:
    """llama.cpp's name for how a byte-level tokenizer splits text before it merges; ``default`` if it has none."""
    said = json.dumps(pre_tokenizer, ensure_ascii=False).replace("\\\\", "\\")
    return next((name for name, mark in SPLITS if mark in said), "default")


def _type(i: int, by_id: dict[int, str], added: dict[int, dict], model: dict, pieces: bool) -> TYPES:
    if i not in by_id:
        return TYPES.UNUSED
    if i in added:
        return TYPES.CONTROL if added[i]["special"] else TYPES.USER_DEFINED
    if pieces and by_id[i] == model.get("unk_token"):
        return TYPES.UNKNOWN
    return TYPES.BYTE if pieces and by_id[i].startswith("<0x") else TYPES.NORMAL


def check_gguf(path: str, overwrite: bool = False) -> Path:
    """The file to write to, absolute.

    Raises:
        RcpuError: it exists and may not be replaced or is none of llama.cpp's, or its folder does not.
    """
    found = Path(path).expanduser().resolve()
    if found.suffix != ".gguf":
        raise RcpuError(f"{path} is not the name of a GGUF file: let it end in .gguf")
    if not found.parent.is_dir():
        raise RcpuError(f"{path}: the folder {found.parent} does not exist")
    if found.exists():
        if not overwrite:
            raise RcpuError(f"{found} exists: choose another name, or allow it to be overwritten (--overwrite)")
        if not found.is_file() or found.open("rb").read(4) != b"GGUF":
            raise RcpuError(f"{found} is no GGUF file: it is not overwritten")
    return found


def save_gguf(net: PreTrainedModel, tokenizer, path: Path, quant: str, name: str) -> None:
    """As :func:`write_gguf`, to a file that is there whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        write_gguf(net, tokenizer, temporary, quant, name)
        temporary.rename(path)
    except OSError as error:
        raise RcpuError(f"could not write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
