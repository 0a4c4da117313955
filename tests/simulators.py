"""Functions that stand for a simulator: they fail, hang, kill their process, and count their calls. NumPy alone."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

CENTRE = {"a": 0.3, "b": -0.2}


def normal(a, b):
    """A correlated normal likelihood."""
    x, y = a - CENTRE["a"], b - CENTRE["b"]
    return float(-2.0 * x**2 - 0.5 * y**2 - 0.5 * x * y)


def normal_of_arrays(a, b):
    x, y = a - CENTRE["a"], b - CENTRE["b"]
    return -2.0 * x**2 - 0.5 * y**2 - 0.5 * x * y


def with_gradient(a, b):
    x, y = a - CENTRE["a"], b - CENTRE["b"]
    return {
        "log_likelihood": normal(a, b),
        "gradient": {"b": -y - 0.5 * x, "a": -4.0 * x - 0.5 * y},
        "derived": {"sum": a + b, "product": a * b},
    }


def counted(a, b, *, folder, seconds=0.0):
    """Leaves a file for each call."""
    time.sleep(seconds)
    Path(folder, f"{a!r}_{b!r}_{os.getpid()}_{time.monotonic_ns()}").touch()
    return normal(a, b)


def troubled(a, b, *, folder, kill=(), hang=(), bad=(), nan=(), always=False):
    """Fails at the first call (or `always`) where int(a) is in one of the lists."""
    mark, n = Path(folder, f"{int(a)}"), int(a)
    first = always or not mark.exists()
    mark.touch()
    if first and n in kill:
        os.kill(os.getpid(), signal.SIGKILL)
    if first and n in hang:
        time.sleep(1000.0)
    if first and n in bad:
        raise ZeroDivisionError("no cross section here")
    return np.nan if first and n in nan else normal(a, b)
