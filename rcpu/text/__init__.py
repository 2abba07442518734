"""What goes in: texts, token windows, and the text of single tokens."""

from rcpu.text.pieces import token_pieces
from rcpu.text.texts import NAMED
from rcpu.text.token_text import VISIBLE, visible

__all__ = ["NAMED", "VISIBLE", "token_pieces", "visible"]
