"""``make bench``: the library's time and memory, then the explorer's latency, a table each."""

from __future__ import annotations

import sys
from functools import partial

from tests import bench_explorer, bench_library, bench_stream

PARTS = {"library": bench_library.main} | {name: partial(bench_explorer.main, name) for name in bench_explorer.PARTS}


def main() -> None:
    """Run the parts named on the command line, or all."""
    if sys.argv[1:2] == ["stream"]:  # takes long, and 30 GB of disk: only when it is asked for
        bench_stream.main()
        return
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main()
