"""From a memory and a question to an answer with its sources."""
