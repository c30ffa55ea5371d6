"""Closing the terminal ends a run as Ctrl-C does, and leaves no training behind.

A closed terminal or a lost connection sends SIGHUP. Snakemake knows only Ctrl-C and SIGTERM: it
would die at once, and its steps would keep running without it.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from types import FrameType


def end_on_hangup() -> None:
    """On SIGHUP end every step, then Snakemake; under `nohup` SIGHUP stays ignored."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _terminate_steps)


def _terminate_steps(number: int, frame: FrameType | None) -> None:
    import psutil  # rarely needed, so not imported above

    for step in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            step.terminate()
    raise KeyboardInterrupt
