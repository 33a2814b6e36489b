"""The memory of a document: the keys and values of its chunks, computed once and kept."""
