"""What comes out: edits of layers, the compact model made of them, exports."""

from rcpu.compact.building import rebuild
from rcpu.compact.edits import Edits
from rcpu.compact.loaders import loads_in, shapes_load_in
from rcpu.compact.shapes import SHAPES, shape_config, shape_problem
from rcpu.compact.uploading import check_repository, files_of, upload

__all__ = [
    "SHAPES",
    "Edits",
    "check_repository",
    "files_of",
    "loads_in",
    "rebuild",
    "shape_config",
    "shape_problem",
    "shapes_load_in",
    "upload",
]
