"""Fuzzing of what reads bytes of a peer. ``python -m fuzz --help`` tells how to run it."""
