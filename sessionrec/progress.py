"""Progress bars: a widget in Jupyter, and text in a terminal."""

from __future__ import annotations

import functools
import os

import tqdm
import tqdm.auto

# `make results` executes a notebook, in whose process a widget would have no reader: it names its own terminal.
TERMINAL = "SESSIONREC_TERMINAL"


def progress_bar(*args, **options) -> tqdm.tqdm:
    """A tqdm bar with these options."""
    if terminal := os.environ.get(TERMINAL):
        return tqdm.tqdm(*args, file=_opened(terminal), **options)
    return tqdm.auto.tqdm(*args, **options)


@functools.cache
def _opened(terminal: str):
    # O_NOCTTY: it must not become the terminal of this process, whose Ctrl-C it would then be.
    return open(os.open(terminal, os.O_WRONLY | os.O_NOCTTY), "w", encoding="utf-8")  # noqa: SIM115
