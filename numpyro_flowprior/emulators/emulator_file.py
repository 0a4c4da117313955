"""How an emulator is laid out in a file, and every check when it is read back."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..chains.parameters import ParameterSpace
from ..storage import FileFormatError, StoredFile, load_file, require_arrays, save_file
from .fit import ComponentReport
from .gaussian_process import Components, EmulatorState
from .kernel_trees import kernel_from_json, kernel_to_json, require_fitting, stack_kernels, unstack_kernels
from .kernels import Kernel
from .scaling import InputScaling, OutputBasis

KIND, SCHEMA = "gp_emulator", 2  # 1 had no checksum

Contents = tuple[ParameterSpace, tuple[str, ...], EmulatorState, tuple[ComponentReport, ...]]


def write_emulator(
    path: str | os.PathLike[str],
    space: ParameterSpace,
    output_names: tuple[str, ...],
    state: EmulatorState,
    report: tuple[ComponentReport, ...],
) -> Path:
    """Writes an emulator and returns the path; of each triangular L^-1 only the lower triangle is stored."""
    components = state.components
    rows, columns = np.tril_indices(len(components.design))
    arrays = {
        "input_offset": state.inputs.offset,
        "input_scale": state.inputs.scale,
        "output_mean": state.outputs.mean,
        "loadings": state.outputs.loadings,
        "truncation": state.outputs.truncation,
        "design": components.design,
        "weights": components.weights,
        "inverse_cholesky": components.inverse_cholesky[:, rows, columns],
    }
    record = {
        "space": space.to_json(),
        "output_names": list(output_names),
        "kernels": [kernel_to_json(kernel) for kernel in unstack_kernels(components.kernel)],
        "report": [asdict(entry) for entry in report],
    }
    return save_file(path, KIND, SCHEMA, record, arrays)


def read_emulator(path: str | os.PathLike[str]) -> Contents:
    """Returns what `write_emulator` stored, bit for bit.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: not a file of an emulator, or its parts do not fit together.
    """
    stored = load_file(path, KIND, newest_schema=SCHEMA)
    try:
        space, output_names, kernels, report = _read_record(stored.record)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FileFormatError(f"{path}: its header does not describe an emulator ({error}). It is damaged.") from error
    _check_arrays(path, stored, space.dim, len(output_names), len(kernels))
    return space, output_names, _state(stored.arrays, stack_kernels(kernels)), report


def _read_record(
    record: dict[str, Any],
) -> tuple[ParameterSpace, tuple[str, ...], list[Kernel], tuple[ComponentReport, ...]]:
    space = ParameterSpace.from_json(record["space"])
    output_names = tuple(record["output_names"])
    if not output_names or any(not isinstance(name, str) for name in output_names):
        raise ValueError(f"output_names: expected strings; got {output_names!r}")
    kernels = [kernel_from_json(entry) for entry in record["kernels"]]
    for kernel in kernels:
        require_fitting(kernel, space.dim)
    stack_kernels(kernels)
    report = tuple(ComponentReport(**{**entry, "notes": tuple(entry["notes"])}) for entry in record["report"])
    return space, output_names, kernels, report


def _check_arrays(path: str | os.PathLike[str], stored: StoredFile, d: int, m: int, p: int) -> None:
    design = stored.arrays.get("design")
    n = len(design) if design is not None and design.ndim else 0
    expected: dict[str, tuple[int, ...]] = {
        "input_offset": (d,),
        "input_scale": (d,),
        "output_mean": (m,),
        "loadings": (m, p),
        "truncation": (m, m),
        "design": (n, d),
        "weights": (p, n),
        "inverse_cholesky": (p, n * (n + 1) // 2),
    }
    require_arrays(path, stored.arrays, expected)
    single = sorted(name for name, array in stored.arrays.items() if array.dtype != np.float64)
    if single:
        raise FileFormatError(f"{path}: expected float64 arrays; {', '.join(single)} are not. Write the file again.")
    if not (stored.arrays["input_scale"] > 0).all():
        raise FileFormatError(f"{path}: array 'input_scale': expected positive numbers. The file is damaged.")


def _state(arrays: dict[str, np.ndarray], kernel: Kernel) -> EmulatorState:
    p, n = arrays["weights"].shape
    inverse = np.zeros((p, n, n))
    rows, columns = np.tril_indices(n)
    inverse[:, rows, columns] = arrays["inverse_cholesky"]
    return EmulatorState(
        InputScaling(arrays["input_offset"], arrays["input_scale"]),
        OutputBasis(arrays["output_mean"], arrays["loadings"], arrays["truncation"]),
        Components(kernel, arrays["design"], arrays["weights"], inverse),
    )
