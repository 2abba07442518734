"""What every room uses: errors, paths, the hub, quiet libraries, kept answers. Imports no other room."""

from rcpu.base.answers import Answers
from rcpu.base.code import code_version
from rcpu.base.errors import OUT_OF_MEMORY, choose, out_of_memory
from rcpu.base.options import Option, named, options_of
from rcpu.base.paths import existing

__all__ = [
    "OUT_OF_MEMORY",
    "out_of_memory",
    "Answers",
    "Option",
    "choose",
    "code_version",
    "existing",
    "named",
    "options_of",
]
