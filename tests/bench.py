"""``make bench``: the library's time and memory, then the explorer's latency, a table each."""

from __future__ import annotations

import sys
from functools import partial

from tests import bench_explorer, bench_layer, bench_library, bench_stream

PARTS = {"library": bench_library.main} | {name: partial(bench_explorer.main, name) for name in bench_explorer.PARTS}


def main() -> None:
    """Run the parts named on the command line, or all."""
    asked = {"stream": bench_stream.main, "layer": bench_layer.main}  # long, or large: only when they are asked for
    if set(sys.argv[1:2]) & asked.keys():
        asked[sys.argv[1]]()
        return
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main()
