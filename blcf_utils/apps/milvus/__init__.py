"""Search beyond one machine: an index's vectors in Milvus, and the same rankings from there."""
