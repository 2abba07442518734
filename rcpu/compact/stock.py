"""A model as Hugging Face lays it out, with the names that loaders look for, today's and earlier ones side by side."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save

from rcpu.base.errors import RcpuError
from rcpu.base.quiet import quiet_transformers


def write_stock(net: PreTrainedModel, tokenizer, folder: Path, dtype: torch.dtype) -> None:
    """Write weights in ``dtype``, configuration and tokenizer to a folder that exists.

    Raises:
        RcpuError: a weight is too large for the dtype.
    """
    with quiet_transformers():
        net.save_pretrained(folder, state_dict=None if net.dtype == dtype else _narrowed(net, dtype))
    _write_rest(tokenizer, folder, dtype)


def write_beside(net: PreTrainedModel, tokenizer, folder: Path, dtype: torch.dtype) -> None:
    """As :func:`write_stock` without the weights, which are in the folder already; ``net`` needs none either."""
    with quiet_transformers():
        net.config.architectures = [type(net).__name__]
        custom_object_save(net, folder, config=net.config)
        net.config.save_pretrained(folder)
        net.generation_config.save_pretrained(folder)
    _write_rest(tokenizer, folder, dtype)


def _write_rest(tokenizer, folder: Path, dtype: torch.dtype) -> None:
    with quiet_transformers():
        tokenizer.save_pretrained(folder)
    _edit(folder / "config.json", lambda values: _old_names(values | {"dtype": str(dtype).removeprefix("torch.")}))
    if (folder / "tokenizer.json").exists():
        _edit(folder / "tokenizer_config.json", _plain_tokenizer)


def _narrowed(net: PreTrainedModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """All weights in another precision; what is shared stays shared."""
    made: dict[tuple, Tensor] = {}
    found = {}
    for name, values in net.state_dict().items():
        key = values.data_ptr(), values.shape
        if key not in made:
            made[key] = values.to(device="cpu", dtype=dtype)
            if dtype == torch.float16 and not made[key].isfinite().all():
                raise RcpuError(f"{name} holds values too large for fp16: save in bf16 or fp32 (--save-dtype)")
        found[name] = made[key]
    return found


def _edit(path: Path, change) -> None:
    values = change(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _old_names(config: dict) -> dict:
    """config.json as transformers 4 reads it too: without its own names that takes another RoPE, and says nothing."""
    rope = dict(config.get("rope_parameters") or {})
    old = {"torch_dtype": config["dtype"]}
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in rope:
            old[name] = rope.pop(name)
    if rope.get("rope_type", "default") != "default":
        old["rope_scaling"] = rope
    if config["model_type"] == "phi3" and rope.get("rope_type") == "longrope":  # these three, and no others
        old["rope_scaling"] = {"type": "longrope"} | {k: rope[k] for k in ("short_factor", "long_factor")}
    return config | old


def _plain_tokenizer(config: dict) -> dict:
    """tokenizer_config.json for any loader: all that a tokenizer does stands in tokenizer.json."""
    more = config.pop("extra_special_tokens", None)
    if isinstance(more, list):
        config["additional_special_tokens"] = more
    elif more:
        config["extra_special_tokens"] = more
    return config | {"tokenizer_class": "PreTrainedTokenizerFast"}
