"""What this host allows, asked wherever work is queued: a link can hold anything, so limits on widgets are not enough.

``RCPU_DEMO=1`` makes the app a public demo; ``RCPU_DEMO_MODELS`` then lists its models, separated by commas.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rcpu import RcpuError
from rcpu.base import existing
from rcpu.measure import EMBEDDED
from rcpu.models import HUB_ID

UPLOAD = "upload:"  # what the name of an uploaded text begins with


@dataclass(frozen=True)
class Limits:
    """The most that a host allows; each number is the largest that passes."""

    demo: bool
    models: tuple[str, ...] | None  # None: any
    texts: tuple[str, ...] | None  # None: any; UPLOAD stands for all uploads
    samples: int  # calibration windows
    window: int  # tokens a window, in calibration and evaluation
    held_out: int  # windows
    eval_windows: int
    tasks: tuple[str, ...] | None  # None: any, and those of folders
    task_items: int  # of each task
    new_tokens: int
    prompt_characters: int
    text_characters: int  # of a text that a page shows token by token
    upload_bytes: int
    waiting: int  # jobs
    runs: int  # finished prunings kept in memory
    saving: bool


#: A person's own machine. Few runs, because those of a model with 7 billion parameters take gigabytes each.
OPEN = Limits(
    demo=False,
    models=None,
    texts=None,
    samples=4096,
    window=4096,
    held_out=512,
    eval_windows=100_000,
    tasks=None,
    task_items=1_000_000,
    new_tokens=1024,
    prompt_characters=4000,
    text_characters=20_000,
    upload_bytes=20 * 2**20,
    waiting=8,
    runs=4,
    saving=True,
)
#: Strangers on two slow cores: every job ends within a minute or two. More runs, because nobody should lose theirs to
#: the next few visitors, and those of a small model are small.
DEMO = Limits(
    demo=True,
    models=("embedded",),
    texts=("embedded", "wikitext2", UPLOAD),
    samples=128,
    window=256,
    held_out=32,
    eval_windows=64,
    tasks=("embedded", *EMBEDDED),
    task_items=40,
    new_tokens=64,
    prompt_characters=1000,
    text_characters=2000,
    upload_bytes=2**20,
    waiting=6,
    runs=8,
    saving=False,
)


def limits() -> Limits:
    """What the environment asks for; called once at the start, so that a mistake there is not found by a visitor.

    Raises:
        RcpuError: ``RCPU_DEMO`` is neither 0 nor 1, or ``RCPU_DEMO_MODELS`` holds something else than model names.
    """
    switch = os.environ.get("RCPU_DEMO", "").strip()
    if switch not in ("", "0", "1"):
        raise RcpuError(f"RCPU_DEMO is {_short(switch)}: set it to 1 for a public demo, or to 0 or nothing for none")
    if switch != "1":
        return OPEN
    listed = os.environ.get("RCPU_DEMO_MODELS")
    if listed is None:
        return DEMO
    models = tuple(dict.fromkeys(filter(None, (name.strip() for name in listed.split(",")))))
    if not models:
        raise RcpuError("RCPU_DEMO_MODELS names no model: list some with commas, like 'embedded', or leave it unset")
    for name in models:
        if name != "embedded" and (not HUB_ID.fullmatch(name) or any(p.startswith(".") for p in name.split("/"))):
            raise RcpuError(
                f"RCPU_DEMO_MODELS holds {_short(name)}: a public demo offers 'embedded' and hub ids like 'owner/name'"
            )
        _refuse_path(name)
    return replace(DEMO, models=models)


def check_model(name: str, device: str = "auto", dtype: str = "auto") -> None:
    """Raise ``RcpuError`` for a model, or a further copy of one in another place, that this host does not load."""
    now = limits()
    if now.models is None:
        return
    if name not in now.models:
        raise RcpuError(
            f"the model {_short(name)} is not offered by this public demo: choose one of {', '.join(now.models)}, or "
            "run the app on a machine of your own"
        )
    _refuse_path(name)
    if (device, dtype) != ("auto", "auto"):  # each pair would be one more copy in memory
        raise RcpuError(
            f"device {_short(device)} and precision {_short(dtype)} were asked for, but this public demo loads each "
            "model once: leave both on 'auto'"
        )


def check_text(name: str) -> None:
    """Raise ``RcpuError`` for a text that this host does not read."""
    now = limits()
    if now.texts is None:
        return
    upload = UPLOAD in now.texts and name.startswith(UPLOAD) and len(name) > len(UPLOAD)
    if not upload and (name not in now.texts or name == UPLOAD):
        offered = [f"'{text}'" for text in now.texts if text != UPLOAD] + ["an upload"] * (UPLOAD in now.texts)
        raise RcpuError(
            f"the text {_short(name)} is not offered by this public demo: choose one of {', '.join(offered)}, or run "
            "the app on a machine of your own"
        )
    if upload and any(c in name for c in "/\\\0"):
        raise RcpuError(f"{_short(name)} is not the name of an upload: choose one from the list, or upload the text")
    _refuse_path(name)


def check_calibration(samples: int, window: int, held_out: int) -> None:
    """Raise ``RcpuError`` for more or longer calibration windows than this host allows."""
    now = limits()
    _at_most(now.samples, samples, "calibration windows")
    _at_most(now.window, window, "tokens a window")
    _at_most(now.held_out, held_out, "held-out windows")


def check_evaluation(windows: int, window: int) -> None:
    """Raise ``RcpuError`` for more or longer evaluation windows than this host allows."""
    now = limits()
    _at_most(now.eval_windows, windows, "evaluation windows")
    _at_most(now.window, window, "tokens a window")


def check_tasks(names: Sequence[str], folder: str, items: int) -> None:
    """Raise ``RcpuError`` for tasks, a folder of them, or more items than this host runs."""
    now = limits()
    _at_most(now.task_items, items, "items a task")
    if now.tasks is None:
        return
    if folder:
        raise RcpuError("this public demo reads no folder of tasks: run the app on a machine of your own")
    for name in names:
        if name not in now.tasks:
            raise RcpuError(
                f"the task {_short(name)} is not offered by this public demo: choose one of {', '.join(now.tasks)}, or "
                "run the app on a machine of your own"
            )


def check_generation(prompt: str, new_tokens: int) -> None:
    """Raise ``RcpuError`` for a longer prompt or continuation than this host allows."""
    now = limits()
    _at_most(now.prompt_characters, len(prompt), "characters in the prompt")
    _at_most(now.new_tokens, new_tokens, "new tokens")


def check_shown(text: str) -> None:
    """Raise ``RcpuError`` for a text too long to be shown token by token on this host."""
    _at_most(limits().text_characters, len(text), "characters to show token by token")


def check_upload(size: int) -> None:
    """Raise ``RcpuError`` for an upload of more bytes than this host takes."""
    _at_most(limits().upload_bytes, size, "bytes in the upload")


def check_saving() -> None:
    """Raise ``RcpuError`` if this host writes no models to its disk."""
    if not limits().saving:
        raise RcpuError("this public demo saves no models: run the app or `python -m rcpu` on a machine of your own")


def _at_most(most: int, found: int, what: str) -> None:
    if found > most:
        where, else_do = ("this public demo", ", or run it on a machine of your own") if limits().demo else ("it", "")
        raise RcpuError(f"{found:,} {what} were asked for, but {where} allows {most:,}: ask for less{else_do}")


def _refuse_path(name: str) -> None:
    """The library takes a name for a path where there is one; ``embedded`` alone it never looks up on the disk."""
    if name != "embedded" and existing(name):
        raise RcpuError(
            f"{_short(name)} is a file or folder of this host, and a public demo reads none: start the app from "
            f"another folder, or rename {_short(Path(name).parts[0])}"
        )


def _short(name: str) -> str:
    """A name quoted, and cut where a link holds a novel."""
    return repr(name if len(name) <= 80 else name[:79] + "…")
