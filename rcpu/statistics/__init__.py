"""What is measured: sums over inputs, one pass through layers, statistics on disk, decompositions."""

from rcpu.statistics.kept import Collection, collect, collection_bytes, collection_of

__all__ = ["Collection", "collect", "collection_bytes", "collection_of"]
