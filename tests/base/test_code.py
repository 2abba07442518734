"""Which code made a result."""

import shutil

from rcpu.base import code


def test_the_version_is_of_the_source_of_the_rooms_and_of_what_computes(tmp_path, monkeypatch):
    shutil.copytree(code.LIBRARY, tmp_path / "rcpu")
    monkeypatch.setattr(code, "LIBRARY", tmp_path / "rcpu")

    def found(*rooms: str) -> str:
        code.code_version.cache_clear()
        return code.code_version(*rooms)

    first = found("text", "statistics")
    assert len(first) == 16
    (tmp_path / "rcpu" / "models" / "sizes.py").write_text("other = 1\n")
    assert found("text", "statistics") == first, "another room"
    (tmp_path / "rcpu" / "statistics" / "sums.py").write_text("other = 1\n")
    second = found("text", "statistics")
    monkeypatch.setattr(code, "version", lambda package: "0.0")
    assert len({first, second, found("text", "statistics")}) == 3
    code.code_version.cache_clear()
