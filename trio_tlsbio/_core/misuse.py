"""Checks of arguments, with messages that show what was passed and what to pass instead."""

from __future__ import annotations

__all__ = ["check_not_negative", "check_positive", "kind_of", "max_bytes_error"]


def kind_of(value: object) -> str:
    """Return the name of a value's type, for a message about an argument of the wrong type."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def max_bytes_error(max_bytes: int) -> ValueError:
    """Return the exception for a ``max_bytes`` below 1. The callers compare by themselves, because
    they receive data, and a call takes longer than the comparison.
    """
    return ValueError(f"max_bytes must be >= 1, not {max_bytes}: leave it out to receive all")


def check_positive(name: str, value: float, *, least: float = 0) -> None:
    """Check that a number is above 0, and at least ``least``. NaN is refused.

    Raises:
      ValueError: if it is less, or NaN.
      TypeError: if it is not a number.
    """
    _check_number(name, value)
    if not (value > 0 and value >= least):
        raise ValueError(f"{name} must be positive, not {value!r}")


def check_not_negative(name: str, value: float) -> None:
    """Check that a number is 0 or more. NaN is refused.

    Raises:
      ValueError: if it is less, or NaN.
      TypeError: if it is not a number.
    """
    _check_number(name, value)
    if not value >= 0:
        raise ValueError(f"{name} must be 0 or more, not {value!r}")


def _check_number(name: str, value: object) -> None:
    try:
        value < 0  # type: ignore[operator]  # noqa: B015
    except TypeError:
        raise TypeError(
            f"{name} must be a number, not {kind_of(value)}: math.inf means no limit"
        ) from None
