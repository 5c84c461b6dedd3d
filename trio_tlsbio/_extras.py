"""The error for a missing library that an extra installs."""

from __future__ import annotations

__all__ = ["missing_extra"]


def missing_extra(exc: ModuleNotFoundError, module_name: str, extra: str) -> ModuleNotFoundError:
    """Return the exception to raise in place of ``exc``, the failed import of a public module."""
    library = str(exc.name).partition(".")[0]
    return ModuleNotFoundError(
        f"{module_name} needs {library}, which is not installed: in a clone of trio-tlsbio, "
        f"pip install '.[{extra}]'",
        name=library,
    )
