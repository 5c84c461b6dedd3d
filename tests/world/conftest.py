"""Fixtures of other modules."""

from __future__ import annotations

from tests.commands import files

__all__ = ["files"]
