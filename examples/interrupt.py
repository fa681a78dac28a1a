# SPDX-FileCopyrightText: 2026 The sparseconv authors
# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C between two training steps, never inside one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


def ignore_ctrl_c(worker: int) -> None:
    """Leave Ctrl-C to the main process, which finishes its step with what the workers deliver."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def stop_on_ctrl_c() -> Iterator[list[int]]:
    """Collect Ctrl-C in the list it yields instead of breaking a step in two; a second Ctrl-C breaks at
    once.
    """
    pressed: list[int] = []

    def press(number: int, frame: object) -> None:
        del frame
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
