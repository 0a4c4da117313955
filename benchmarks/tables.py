"""What the benchmarks share: a clock, Markdown tables, and the line that says where the numbers come from."""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from numpyro_flowprior import Chain, read_chain, write_chain


def table(head: str, rows: Any) -> str:
    """Returns a Markdown table; the head's columns are separated by bars."""
    cells = [head.split("|"), ["---"] * len(head.split("|")), *rows]
    return "\n".join("| " + " | ".join(str(cell).strip() for cell in row) + " |" for row in cells) + "\n"


def origin(command: str, *packages: str) -> str:
    """Returns the command, the date, the machine and the versions, of our own stack and of further packages."""
    names = ("jax", "numpyro", "distrax", *packages, "numpyro-flowprior")
    versions = f"python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in names)
    return f"Reproduce with `{command}`. {datetime.date.today()}; {os.cpu_count()} cores, {processor()}; {versions}.\n"


def seconds(call: Callable[[], Any], *, calls: int = 20) -> float:
    """Returns the median time of a call, after one that compiles, over at least so many calls and a second."""
    jax.block_until_ready(call())
    times: list[float] = []
    while len(times) < calls or sum(times) < 1.0:
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def kept(path: Path, make: Callable[[], Chain]) -> Chain:
    """Returns a chain from its file, made if it is not there."""
    if not path.exists():
        write_chain(path, make())
    return read_chain(path)


def publish(parts: Sequence[str], output: Path | None) -> None:
    """Prints a result page and writes it, if there is a file to write."""
    text = "\n".join(parts)
    print(text)
    if output:
        output.write_text(text)


def processor() -> str:
    """Returns the processor's model."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
