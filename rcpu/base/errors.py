"""The two ways a call ends early. Everything else that is raised is a bug of ours."""

from collections.abc import Iterable
from difflib import get_close_matches


class RcpuError(ValueError):
    """Bad input: one plain sentence that says what happened, what was expected and what to do."""


class Cancelled(Exception):
    """Work stopped between two micro-batches because its caller asked; nothing was changed or written."""


OUT_OF_MEMORY = "out of memory: take fewer or shorter windows, a narrower dtype or a smaller model"


#: What torch and the libraries below it say where they have no error of its own for it.
ALLOCATING = ("DefaultCPUAllocator", "not enough memory", "bad_alloc", "ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether memory could not be had, on a GPU or on the CPU, where torch says so in words alone."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    told = str(error)
    return isinstance(error, RuntimeError) and any(words in told for words in ALLOCATING)


def choose(kind: str, key: str, known: dict) -> object:
    """Look ``key`` up in one of the literal method tables; an unknown key is an error that lists the known ones."""
    if key not in known:
        raise RcpuError(f"unknown {kind} {key!r}: choose one of {', '.join(known)}{meant(key, known)}")
    return known[key]


def meant(key: object, known: Iterable[str]) -> str:
    """What may have been meant by a name that is not known, as the end of a sentence; nothing where nothing is near."""
    near = get_close_matches(str(key), list(map(str, known)), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_seed(seed: int) -> None:
    """Raise ``RcpuError`` for a seed that torch's generators do not take."""
    if seed < 0:
        raise RcpuError(f"seed must not be negative, got {seed}")
    if seed >= 2**63:
        raise RcpuError(f"seed must be below 2⁶³, got {seed}")
