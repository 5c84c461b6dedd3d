"""Runs one target in atheris: ``python -m fuzz._engine TARGET [OPTION OF LIBFUZZER ...]``."""

from __future__ import annotations

import shlex
import sys
import warnings

import atheris


def main() -> None:
    """Run until libFuzzer ends the process."""
    # Our own code alone: OpenSSL is as it is, and the targets are no subject.
    with atheris.instrument_imports(include=["trio_tlsbio"]):
        from .targets import TARGETS  # noqa: PLC0415  # what is imported here is instrumented

    warnings.simplefilter("ignore")
    name, *options = sys.argv[1:]
    # By the first word libFuzzer starts itself, through a shell, to merge.
    command = shlex.join([sys.executable, "-m", "fuzz._engine", name])
    atheris.Setup([command, *options], TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
