"""The file format of an emulator, and the checks when a file is read."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .._util.storage import FileFormatError, StoredFile, load_file, require_arrays, save_file
from ..chains.parameters import ParameterSpace
from .fit import ComponentReport
from .gaussian_process import Components, EmulatorState
from .kernel_trees import kernel_from_json, kernel_to_json, require_fitting, stack_kernels, unstack_kernels
from .kernels import Kernel
from .scaling import InputScaling, OutputBasis

KIND, SCHEMA = "gp_emulator", 3  # 1: no checksum; 2: one scale per input, no log_outputs

Contents = tuple[ParameterSpace, tuple[str, ...], EmulatorState, tuple[ComponentReport, ...], tuple[str, ...]]


def write_emulator(
    path: str | os.PathLike[str],
    space: ParameterSpace,
    output_names: tuple[str, ...],
    state: EmulatorState,
    report: tuple[ComponentReport, ...],
    log_outputs: tuple[str, ...],
) -> Path:
    """Writes an emulator and returns the path. Only the lower triangle of each L^-1 is stored."""
    components = state.components
    rows, columns = np.tril_indices(len(components.design))
    arrays = {
        "input_offset": state.inputs.offset,
        "input_matrix": state.inputs.matrix,
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
        "log_outputs": list(log_outputs),
    }
    return save_file(path, KIND, SCHEMA, record, arrays)


def read_emulator(path: str | os.PathLike[str]) -> Contents:
    """Returns what `write_emulator` stored, bit for bit.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: the file does not contain an emulator, or its parts are inconsistent.
    """
    stored = load_file(path, KIND, newest_schema=SCHEMA)
    try:
        space, output_names, kernels, report, log_outputs = _read_record(stored.record)
        if stored.schema < 3:
            _scale_as_matrix(stored.arrays)
        for kernel in kernels:
            require_fitting(kernel, np.shape(stored.arrays.get("input_matrix", np.empty((0, 0))))[-1])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FileFormatError(
            f"{path}: its header does not describe an emulator ({error}). The file is damaged."
        ) from error
    _check_arrays(path, stored, space.dim, len(output_names), len(kernels))
    return space, output_names, _state(stored.arrays, stack_kernels(kernels)), report, log_outputs


def _read_record(
    record: dict[str, Any],
) -> tuple[ParameterSpace, tuple[str, ...], list[Kernel], tuple[ComponentReport, ...], tuple[str, ...]]:
    space = ParameterSpace.from_json(record["space"])
    output_names = tuple(record["output_names"])
    if not output_names or any(not isinstance(name, str) for name in output_names):
        raise ValueError(f"output_names: expected strings; got {output_names!r}")
    kernels = [kernel_from_json(entry) for entry in record["kernels"]]
    stack_kernels(kernels)
    report = tuple(ComponentReport(**{**entry, "notes": tuple(entry["notes"])}) for entry in record["report"])
    log_outputs = tuple(record.get("log_outputs", ()))
    if not set(log_outputs) <= set(output_names):
        raise ValueError(f"log_outputs: expected names of outputs; got {log_outputs!r}")
    return space, output_names, kernels, report, log_outputs


def _scale_as_matrix(arrays: dict[str, np.ndarray]) -> None:
    """Replaces the scales (d,) of the inputs, which older files store, by the matrix (d, d)."""
    scale = arrays.pop("input_scale", np.empty(0))
    if scale.ndim != 1 or not (scale > 0).all():
        raise ValueError("array 'input_scale': expected one positive number for each parameter")
    arrays["input_matrix"] = np.diag(1 / scale)


def _check_arrays(path: str | os.PathLike[str], stored: StoredFile, d: int, m: int, g: int) -> None:
    """Raises FileFormatError unless the arrays fit d parameters, m outputs and g processes, and fit each other."""
    n, q = (*np.shape(stored.arrays.get("design", 0)), 0, 0)[:2]
    p = len(np.atleast_1d(stored.arrays.get("weights", 0)))
    expected: dict[str, tuple[int, ...]] = {
        "input_offset": (d,),
        "input_matrix": (d, q),
        "output_mean": (m,),
        "loadings": (m, p),
        "truncation": (m, m),
        "design": (n, q),
        "weights": (p if g == 1 else g, n),
        "inverse_cholesky": (g, n * (n + 1) // 2),
    }
    require_arrays(path, stored.arrays, expected)
    single = sorted(name for name, array in stored.arrays.items() if array.dtype != np.float64)
    if single:
        raise FileFormatError(f"{path}: expected float64 arrays; {', '.join(single)} are not. Save the emulator again.")


def _state(arrays: dict[str, np.ndarray], kernel: Kernel) -> EmulatorState:
    g, n = len(arrays["inverse_cholesky"]), len(arrays["design"])
    inverse = np.zeros((g, n, n))
    rows, columns = np.tril_indices(n)
    inverse[:, rows, columns] = arrays["inverse_cholesky"]
    return EmulatorState(
        InputScaling(arrays["input_offset"], arrays["input_matrix"]),
        OutputBasis(arrays["output_mean"], arrays["loadings"], arrays["truncation"]),
        Components(kernel, arrays["design"], arrays["weights"], inverse),
    )
