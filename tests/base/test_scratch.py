"""Folders to write in: gone after the block, and those that others left behind go with the next one."""

import pytest
from safetensors import SafetensorError

from rcpu.base.scratch import refusal, scratch


def test_what_was_left_behind_goes_and_what_is_at_work_stays(tmp_path):
    (tmp_path / ".x-dead" / "deep").mkdir(parents=True)
    (tmp_path / ".x-dead-old").mkdir()
    (tmp_path / "other").mkdir()
    with scratch(tmp_path, ".x-") as first:
        (first / "file").write_text("")
        with scratch(tmp_path, ".x-") as second:
            assert first != second
            assert (first / "file").exists()
        assert not second.exists()
        assert first.exists()
    assert {p.name for p in tmp_path.iterdir()} == {"other", ".x-dead-old"}


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), scratch(tmp_path / "new", ".x-"):
        raise RuntimeError
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "No space left"),
        (Exception("No space left on device (os error 28)"), "No space left on device"),
        (SafetensorError("something else"), "something else"),
        (RuntimeError("a bug"), None),
        (KeyboardInterrupt("x (os error 28)"), None),
    ],
)
def test_what_the_system_refuses_is_told_in_its_words(error, told):
    found = refusal(error)
    assert found == told or found.startswith(told)
