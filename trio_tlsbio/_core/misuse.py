"""Words for arguments that can't be used: what was given, and what to give instead."""

from __future__ import annotations

__all__ = ["check_not_negative", "check_positive", "kind_of"]


def kind_of(value: object) -> str:
    """Name the kind of a value, for a message that says what it should have been."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def check_positive(name: str, value: float, *, least: float = 0) -> None:
    """Check a number that must be above 0, and at least ``least``. NaN is refused.

    Raises:
      ValueError: if it is less.
      TypeError: if it is no number.
    """
    _check_number(name, value)
    if not (value > 0 and value >= least):
        raise ValueError(f"{name} must be positive, not {value!r}")


def check_not_negative(name: str, value: float) -> None:
    """Check a number that must be 0 or more. NaN is refused.

    Raises:
      ValueError: if it is less.
      TypeError: if it is no number.
    """
    _check_number(name, value)
    if not value >= 0:
        raise ValueError(f"{name} must not be negative, or NaN: it is {value!r}")


def _check_number(name: str, value: object) -> None:
    try:
        value < 0  # type: ignore[operator]  # noqa: B015
    except TypeError:
        raise TypeError(
            f"{name} must be a number, not {kind_of(value)}: math.inf stands for no limit"
        ) from None
