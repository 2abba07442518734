"""Which programs load an export, and why the others do not: rules, for none of them is at hand."""

from __future__ import annotations

from transformers import PreTrainedConfig

from rcpu.compact.llamacpp import gguf_problem
from rcpu.compact.shapes import SHAPES, shape_config, shape_problem
from rcpu.models.compact_llama import CompactLlamaConfig

LOADERS = ("transformers 5", "transformers 4", "vLLM", "llama.cpp")


def loads_in(config: PreTrainedConfig, tokenizer) -> dict[str, str]:
    """By program why it does not load this model as it is written; an empty string where it does."""
    if isinstance(config, CompactLlamaConfig):
        own = "its layers differ in size, and this program knows none such"
        return {"transformers 5": "", "transformers 4": "", "vLLM": own, "llama.cpp": own}
    return dict(zip(LOADERS, ("", "", _vllm(config), gguf_problem(config, tokenizer)), strict=True))


def shapes_load_in(config: PreTrainedConfig, tokenizer) -> dict[str, dict[str, str] | str]:
    """By shape what :func:`loads_in` says of a compact model in it, or why it cannot have that shape."""
    return {shape: shape_problem(config, shape) or loads_in(shape_config(config, shape), tokenizer) for shape in SHAPES}


def shape_line(shape: str, found: dict[str, str] | str) -> str:
    """A line on one shape."""
    if isinstance(found, str):
        return f"not as {shape}: {found}"
    does = [program for program, reason in found.items() if not reason]
    return f"as {shape} it loads in {', '.join(does)}" + "".join(f"; not in {p}: {r}" for p, r in found.items() if r)


def _vllm(c) -> str:
    dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    if dim % 8 or dim > 256:
        return f"its attention takes heads of a multiple of 8 up to 256, and these are {dim} wide"
    if c.model_type == "qwen3" and c.attention_bias:
        return "its Qwen3 has no bias in o_proj"
    return ""


def how_to_load(shape: str) -> str:
    """A few lines of Python, or of a shell, that load an export of this shape."""
    if shape == "compact":
        return (
            'AutoModelForCausalLM.from_pretrained("FOLDER", trust_remote_code=True)  # its code is compact_llama.py\n'
            'rcpu.load_model("FOLDER").net                                           # or with rcpu-explorer alone'
        )
    return 'AutoModelForCausalLM.from_pretrained("FOLDER")'
