"""What comes out: edits of layers, the compact model made of them, exports."""

from rcpu.compact.building import rebuild
from rcpu.compact.edits import Edits

__all__ = ["Edits", "rebuild"]
