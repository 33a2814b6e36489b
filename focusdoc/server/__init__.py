"""An OpenAI-compatible server over documents that are read once."""
