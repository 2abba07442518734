"""What goes in: texts, token windows, and the text of single tokens."""

from rcpu.text.leaks import leak_note, overlap
from rcpu.text.pieces import token_pieces
from rcpu.text.texts import NAMED
from rcpu.text.token_text import VISIBLE, visible
from rcpu.text.windows import check_windows, divided, held_out_windows

__all__ = [
    "NAMED",
    "VISIBLE",
    "check_windows",
    "divided",
    "held_out_windows",
    "leak_note",
    "overlap",
    "token_pieces",
    "visible",
]
