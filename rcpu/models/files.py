"""What a model's folder holds: files that can be read, weights that are whole, no adapter that would be left out.

All of it is looked at before weights are read; every fault is told with the file's name and what to do.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from rcpu.base.errors import RcpuError

POINTER = b"version https://git-lfs"  # how git-lfs begins what it leaves in place of a file
#: safetensors' names for the precisions that are read, and ours.
STORED = {"F32": "fp32", "BF16": "bf16", "F16": "fp16", "F64": "fp32"}
#: What is read of a folder beside the weights; a fingerprint is of all of it.
READ = ("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json")
READ += ("vocab.*", "merges.txt")


def content(path: Path, most: int = -1) -> bytes:
    """A file's first bytes, or all.

    Raises:
        RcpuError: it cannot be read, or git-lfs has left a pointer in its place.
    """
    try:
        with path.open("rb") as file:
            found = file.read(most)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    if found.startswith(POINTER):
        raise RcpuError(
            f"{path} is a git-lfs pointer, expected the file itself: run `git lfs pull` in its folder, or download it "
            "again"
        )
    return found


def unreadable(path: Path, error: OSError) -> RcpuError:
    """What to say of a file that the system does not let us read."""
    return RcpuError(f"cannot read {path}: {(error.strerror or str(error)).lower()}")


def read_json(path: Path, what: str) -> dict:
    """The object in a JSON file; ``what`` says what it should be.

    Raises:
        RcpuError: it cannot be read, is in another encoding than UTF-8, or holds something else.
    """
    check_encoding(path, data := content(path))
    try:
        found = json.loads(data)
    except ValueError as error:
        raise RcpuError(f"{path} is not {what}: it is not JSON ({reason(error)})") from error
    if not isinstance(found, dict):
        raise RcpuError(f"{path} is not {what}: it holds a {type(found).__name__}, expected an object")
    return found


def check_encoding(path: Path, start: bytes) -> None:
    """Raise ``RcpuError`` if a JSON file that starts so is not in plain UTF-8, which alone other loaders take."""
    if (encoding := json.detect_encoding(start)) != "utf-8":
        found = "begins with a byte-order mark" if encoding == "utf-8-sig" else f"is in {encoding[:6].upper()}"
        raise RcpuError(f"{path} {found}: expected plain UTF-8, as every loader reads it; save it again so")


def reason(error: Exception) -> str:
    """The words of another library's error on one line, not too many of them."""
    words = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError):
        words = f"{words} is missing or unknown"
    return words if len(words) < 300 else words[:299].rstrip(" :") + "…"


def check_adapters(folder: Path) -> None:
    """Raise ``RcpuError`` for a PEFT adapter: it would change what is measured, and never be in what is exported."""
    found = sorted({p.name for pattern in ("adapter_config.json", "adapter_model.*") for p in folder.glob(pattern)})
    if not found:
        return
    if not (folder / "config.json").exists():
        raise RcpuError(
            f"{folder} holds a PEFT adapter alone ({', '.join(found)}), expected a whole model: merge it into its base "
            "with PEFT's merge_and_unload and save that"
        )
    raise RcpuError(
        f"{folder} holds a PEFT adapter beside the weights ({', '.join(found)}), which would be left out: merge it "
        "with PEFT's merge_and_unload and save that, or move the adapter elsewhere to take the weights as they are"
    )


def adapters_below(folder: Path) -> list[str]:
    """Subfolders that hold adapters: whoever names the folder means the model without them, and should know it."""
    return sorted({p.parent.name for p in folder.glob("*/adapter_config.json")})


def weight_files(folder: Path) -> list[Path]:
    """Weight files of a folder, each opened once, so that a missing or truncated one is named."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():  # where both are, transformers takes this one
        names = ["model.safetensors"]
    elif index.exists():
        try:
            names = sorted(set(read_json(index, "an index of weight files")["weight_map"].values()))
            if not all(isinstance(name, str) for name in names):
                raise TypeError("a file's name is not a text")
        except (KeyError, AttributeError, TypeError) as error:
            raise RcpuError(f"{index} is not an index of weight files: expected a weight_map of names") from error
    else:
        pickled = sorted(p.name for p in folder.glob("*.bin")) + sorted(p.name for p in folder.glob("*.pt*"))
        found = f"only {pickled[0]}, and pickled weights are never loaded" if pickled else "no weights"
        raise RcpuError(f"{folder} holds {found}: expected model.safetensors or its shards with an index")
    for name in names:
        if Path(name).name != name or not (folder / name).exists():
            raise RcpuError(f"{folder} lacks {name}, one of {len(names)} weight files: copy or download it again")
        content(folder / name, len(POINTER))
        try:
            with safe_open(folder / name, framework="pt"):
                pass
        except SafetensorError as error:
            raise RcpuError(f"{folder / name} is truncated or broken ({error}): copy or download it again") from error
    return [folder / name for name in names]


def stored_dtype(shards: Sequence[Path]) -> str | None:
    """The precision that most weights of a checkpoint have, None if it is none that is known here."""
    found: Counter[str] = Counter()
    for shard in shards:
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                part = file.get_slice(name)
                found[part.get_dtype()] += prod(part.get_shape())
    return STORED.get(found.most_common(1)[0][0]) if found else None


def fingerprint(folder: Path, shards: Sequence[Path]) -> str:
    """Sixteen hex digits of every byte of the weights, and of the files in READ."""
    digest = hashlib.sha256()
    for path in (*sorted({path for pattern in READ for path in folder.glob(pattern) if path.is_file()}), *shards):
        try:
            with path.open("rb") as file:
                digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise unreadable(path, error) from error
    return digest.hexdigest()[:16]
