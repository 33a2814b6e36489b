"""The frozen base model, the families it may come from, and its candidate projections."""
