"""Where exports go: a folder of this machine, and from there the hub; what would go is shown before it is sent."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

import rcpu
from app.job_panels import job_panel, known_job, start
from app.settings import control, settings
from app.widgets import plain, say, size, table
from app.work import push_job
from rcpu.base import existing
from rcpu.compact import files_of


def folder_field() -> None:
    """Where the next export is written."""
    control(
        st.text_input,
        "New folder on the machine that serves this app",
        "folder",
        placeholder="/path/to/pruned-model",
        max_chars=1000,
    )


def hub_section() -> None:
    """Nothing unless the folder that is set holds an export of ours."""
    s = settings()
    folder = existing(s.folder) if s.folder else None
    if folder is None or not folder.is_dir():
        return
    try:
        files = files_of(folder)
    except rcpu.RcpuError:  # a folder of something else
        return
    st.markdown("##### On the hub")
    repository, private, button = st.columns([6, 2, 2], vertical_alignment="bottom")
    with repository:
        control(st.text_input, "Repository", "repository", placeholder="OWNER/NAME", max_chars=100)
    hidden = private.toggle("Private, if it is new", key="upload-private")
    if button.button("Upload", width="stretch", disabled=not s.repository):
        start("push", lambda: push_job(folder, s.repository, hidden))
    elif pushed := known_job("push"):
        job_panel(pushed)
        if pushed.state == "done":
            st.success(f"It is at {plain(pushed.result)}", icon=":material/check:")
    _dry_run(folder, files)


def _dry_run(folder: Path, files: list[Path]) -> None:
    sizes = [path.stat().st_size for path in files]
    fold = st.expander(f"What would go: {len(files)} files, {size(sum(sizes))}", key="dry-run", on_change="rerun")
    if not fold.open:
        return
    with fold:
        table({"file": [path.name for path in files], "bytes": sizes}, "upload")
        card = next((path for path in files if path.name == "README.md"), None)
        if card is None:
            say(f"{folder} has no model card: save it again")
        else:
            st.code(card.read_text(encoding="utf-8"), language="markdown")
