"""Where CPU time goes, by samples of what runs."""

from __future__ import annotations

import signal
import time
from collections import Counter
from types import FrameType
from typing import Self

KERNEL, OPENSSL, STREAM, TRIO, PROGRAM = (
    "kernel: sockets and epoll",
    "OpenSSL and ssl.py",
    "the TLS stream",
    "Trio",
    "the program",
)
PLACES = (KERNEL, OPENSSL, STREAM, TRIO, PROGRAM)

INTERVAL = 0.001
"""Seconds of CPU time between two samples. The system may take more."""

# What does little but system calls.
_KERNEL_FUNCTIONS = {
    "_read_nowait",
    "_send_some_nowait",
    "_nonblocking_helper",
    "_update_registrations",
    "get_events",
}


def _place(frame: FrameType) -> str:
    """Tell by the innermost function in Python, which stands for what it calls in C as well."""
    code = frame.f_code
    file, function = code.co_filename, code.co_qualname
    if code.co_name in _KERNEL_FUNCTIONS:
        return KERNEL
    if file.endswith("/ssl.py"):
        return OPENSSL
    if "trio_tlsbio" in file or file.endswith("/trio/_ssl.py") or function.startswith("BareStream"):
        return STREAM
    if any(name in file for name in ("/trio/", "methods trio.", "outcome", "sortedcontainers")):
        return TRIO
    return PROGRAM


class Sampler:
    """Looks at what runs in the main thread, within a ``with`` block."""

    def __init__(self) -> None:
        self._samples: Counter[str] = Counter()
        self._seconds = 0.0

    def seconds(self) -> dict[str, float]:
        """Tell how much CPU time each place has taken."""
        total = max(self._samples.total(), 1)
        return {place: self._seconds * self._samples[place] / total for place in PLACES}

    def _sample(self, _: int, frame: FrameType | None) -> None:
        if frame is not None:
            self._samples[_place(frame)] += 1

    def __enter__(self) -> Self:
        signal.signal(signal.SIGPROF, self._sample)
        self._seconds = -time.process_time()
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        self._seconds += time.process_time()
