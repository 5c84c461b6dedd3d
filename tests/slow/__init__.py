"""Searches: random and exhaustive ones, floods, memory, signals."""
