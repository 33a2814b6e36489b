"""Conversations of any length: prompts as the frameworks send them, and one engine shared by all who ask."""
