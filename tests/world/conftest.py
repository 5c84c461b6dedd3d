"""Fixtures of other modules."""

from __future__ import annotations

from tests.commands import files, site

__all__ = ["files", "site"]
