"""Conversations of any length for the framework integrations, with one shared engine."""
