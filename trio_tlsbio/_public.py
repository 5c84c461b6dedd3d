"""Makes the exported names of a public module report that module as their own."""

from __future__ import annotations

import inspect
import sys
from contextlib import suppress
from typing import Any

__all__ = ["publish"]


def publish(module_name: str) -> None:
    """Make a public module the ``__module__`` of the classes and functions in its ``__all__``.

    So tracebacks, ``help()`` and pickles have names that don't change when code moves.
    """
    # Sphinx finds the docstrings of attributes in the module that defines a class.
    if "sphinx.ext.autodoc" in sys.modules:
        return
    module = sys.modules[module_name]
    for name in module.__all__:
        _publish(getattr(module, name), module_name)


def _publish(value: Any, module_name: str) -> None:
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return
    written_in = value.__module__ or ""  # PyPy has functions without a module
    if not written_in.startswith("trio_tlsbio.") or "._" not in written_in:
        return
    if inspect.isclass(value):
        # The annotations are strings, whose names would be looked up in the public module.
        with suppress(NameError):  # imported for type checkers only
            value.__annotations__ = inspect.get_annotations(value, eval_str=True)
        for member in list(vars(value).values()):
            _publish(member, module_name)
    value.__module__ = module_name
