"""Options are read, checked and written from the rows that a dataclass declares."""

from dataclasses import dataclass

import pytest

from rcpu.base.errors import RcpuError
from rcpu.base.options import Part, check_options, joined, named, option, options_of

COLORS = {"red": "Red", "blue": Part(print, "Blue")}


@dataclass(frozen=True)
class Paint:
    """Options of a toy."""

    color: str = option("red", "Colour", "What it looks like.", choices=COLORS)
    coats: int = option(1, "Coats", "How often.", low=1, high=9)
    gloss: float | None = option(0.5, "Gloss", "How it shines.", low=0, auto=True)
    dry: bool = option(False, "Dry", "Wait for it.")

    def __post_init__(self) -> None:
        check_options(self)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("color", "blue", "blue"),
        ("coats", " 3 ", 3),
        ("gloss", "auto", None),
        ("gloss", "2", 2.0),
        ("dry", "Yes", True),
        ("dry", "0", False),
    ],
)
def test_what_a_person_wrote_is_read_and_written_back(name, text, value):
    row = options_of(Paint)[name]
    found = row.parse(text)
    assert (found, type(found)) == (value, type(value))
    assert row.parse(row.written(found)) == found


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("color", "green", "unknown color 'green': choose one of red, blue"),
        ("coats", "0", "coats must be a finite number from 1 to 9; got 0"),
        ("coats", "1.5", "coats must be a whole number, got '1.5'"),
        ("gloss", "shiny", "gloss must be a number or auto, got 'shiny'"),
        ("gloss", "-1", "gloss must be a finite number of at least 0, or auto; got -1"),
        ("gloss", "nan", "gloss must be a finite number"),
        ("dry", "maybe", "dry must be true or false, got 'maybe'"),
    ],
)
def test_what_cannot_be_is_said(name, text, message):
    with pytest.raises(RcpuError, match=message):
        options_of(Paint)[name].parse(text)


@pytest.mark.parametrize("values", [{"color": "green"}, {"coats": True}, {"coats": 2.0}, {"gloss": "1"}, {"dry": 1}])
def test_a_dataclass_checks_its_options(values):
    with pytest.raises(RcpuError):
        Paint(**values)


def test_auto_is_a_value_too_where_an_option_has_it():
    assert Paint(gloss="auto").gloss is None
    with pytest.raises(RcpuError, match="coats cannot be 'auto'"):
        Paint(coats="auto")


def test_options_of_parts_join_and_matter_where_their_part_is_chosen():
    @dataclass(frozen=True)
    class Blueness:
        depth: float = option(1.0, "Depth", "How blue.", low=0)

    both = joined("Both", __name__, Paint, {"color": {"red": COLORS["blue"], "blue": Part(print, "Blue", Blueness)}})
    assert list(options_of(both)) == ["color", "coats", "gloss", "dry", "depth"]
    row = options_of(both)["depth"]
    assert row.matters(both(color="blue"))
    assert not row.matters(both())
    with pytest.raises(RcpuError, match="depth must be"):
        both(depth=-1.0)
    assert hash(both()) == hash(both(coats=1))


def test_names_of_a_registry():
    assert named(COLORS) == {"red": "Red", "blue": "Blue"}
