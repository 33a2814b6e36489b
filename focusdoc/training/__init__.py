"""Training candidate projections: objectives, data, runs."""
