"""The memory of a document: chunks read once, their keys and values kept."""
