"""Conversion of fitted scikit-learn models to emulators, without a new fit.

A fitted GaussianProcessRegressor already holds everything that a prediction needs. The affine transformers around it
(scalers and principal components) are absorbed in our input scaling and output basis. This module does not import
scikit-learn: it recognises objects by the name of their class. A subclass is refused, because its maths may differ.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from .._util.checks import FloatArray, float_array, require_finite, shorten
from .fit import ComponentReport
from .gaussian_process import Components, EmulatorState, evaluate, moments
from .kernel_trees import from_sklearn_kernel, require_fitting, stack_kernels
from .marginal_likelihood import inverse_of
from .scaling import InputScaling, OutputBasis

_COMPARED = 10  # points at which the predictions are compared with those of scikit-learn
_ROUNDING = 1e-8  # accepted asymmetry or negative eigenvalue, relative to the largest element of the covariance
_AGREEMENT = 1e-4  # in units of an output's spread; round-off is far smaller, a wrong number is not


class Affine(NamedTuple):
    """The map z = (x - offset) @ matrix and its inverse x = z @ back + offset.

    Shapes: `offset` (d,), `matrix` (d, q), `back` (q, d).
    """

    offset: FloatArray
    matrix: FloatArray
    back: FloatArray

    def then(self, after: Affine) -> Affine:
        """Returns the composition of this map with a later one."""
        return Affine(self.offset + after.offset @ self.back, self.matrix @ after.matrix, after.back @ self.back)


def _diagonal(offset: Any, scale: Any) -> Affine:
    offset, scale = np.asarray(offset, np.float64), np.asarray(scale, np.float64)
    return Affine(offset, np.diag(1 / scale), np.diag(scale))


def _standard_scaler(fitted: Any) -> Affine:
    d = fitted.n_features_in_
    mean = fitted.mean_ if fitted.with_mean else np.zeros(d)
    return _diagonal(mean, fitted.scale_ if fitted.with_std else np.ones(d))


def _min_max_scaler(fitted: Any) -> Affine:
    if fitted.clip:
        raise ValueError("from_sklearn: MinMaxScaler with clip=True is not affine and is not supported.")
    shift, scale = np.asarray(fitted.min_, np.float64), np.asarray(fitted.scale_, np.float64)
    return _diagonal(-shift / scale, 1 / scale)


def _pca(fitted: Any) -> Affine:
    mean, components, variance = (
        np.asarray(values, np.float64) for values in (fitted.mean_, fitted.components_, fitted.explained_variance_)
    )
    scale = np.sqrt(variance) if fitted.whiten else np.ones(len(components))
    return Affine(mean, components.T / scale, components * scale[:, None])


_AFFINE: dict[str, Callable[[Any], Affine]] = {
    "sklearn.preprocessing.StandardScaler": _standard_scaler,
    "sklearn.preprocessing.MinMaxScaler": _min_max_scaler,
    "sklearn.decomposition.PCA": _pca,
}


class Parts(NamedTuple):
    """The parts of a model: transformers of the inputs, Gaussian processes, and transformers of the outputs.

    There is one process for each of p components, or one for all components.
    """

    inputs: list[Any]
    processes: list[Any]
    outputs: list[Any]


def emulator_state(
    model: Any, names: tuple[str, ...], inputs: Any, outputs: Any, truncation: Any
) -> tuple[EmulatorState, list[ComponentReport]]:
    """Returns the emulator state of a fitted scikit-learn model, and a report on the fit of each component.

    Args:
        model: a GaussianProcessRegressor, a sequence of them (one per component), a MultiOutputRegressor, a Pipeline
            that ends in one of these, or a TransformedTargetRegressor around one.
        names: names of the parameters, in the order of the model's columns.
        inputs: fitted transformer(s) from the parameters to the model's inputs, or None.
        outputs: fitted transformer(s) from the outputs to the targets that the model was fitted to, or None.
        truncation: (m, m) covariance of the truncated components. None means zero, as in scikit-learn.
    """
    parts, dim = _apart(model), len(names)
    design = _common_design(parts.processes)
    _require_same_names([*_steps(inputs), *parts.inputs, *parts.processes][0], names)
    inward = _chained([*_steps(inputs), *parts.inputs], dim, "inputs")
    if (len(inward.offset), inward.matrix.shape[1]) != (dim, design.shape[1]):
        raise ValueError(
            f"space: expected the {len(inward.offset)} parameters that lead to the {design.shape[1]} inputs of the "
            f"model; got {dim}, which lead to {inward.matrix.shape[1]}. Pass the space of the model's parameters, in "
            "their order, and the transformer that scaled them as `inputs`."
        )
    components = _components(parts.processes, design)
    own = _own_scaling(parts.processes)
    outward = _chained([*_steps(outputs), *parts.outputs], len(components.weights), "outputs")
    if len(outward.back) != len(components.weights):
        raise ValueError(
            f"outputs: expected transformers to {len(components.weights)} targets; got transformers to "
            f"{len(outward.back)}. Pass those that led to the targets of the fit."
        )
    whole = outward.then(own)
    m = len(whole.offset)
    basis = OutputBasis(whole.offset, whole.back.T, _checked_truncation(truncation, m))
    state = EmulatorState(InputScaling(inward.offset, inward.matrix), basis, components)
    _require_same_predictions(state, inward, parts.processes, own.offset, np.diag(own.back))
    return state, [_report(process) for process in parts.processes for _ in range(_targets(process))]


def _require_same_names(outermost: Any, names: tuple[str, ...]) -> None:
    """Raises ValueError if the first step was fitted to a DataFrame with other columns, or in another order."""
    fitted = getattr(outermost, "feature_names_in_", None)
    if fitted is not None and tuple(fitted) != names:
        raise ValueError(
            f"space: expected the columns that {_short(outermost)} was fitted to, in their order: "
            f"{shorten(map(str, fitted), 40)}; got {shorten(names, 40)}."
        )


def _checked_truncation(truncation: Any, m: int) -> FloatArray:
    if truncation is None:
        return np.zeros((m, m))
    matrix = float_array(truncation, "truncation", shape=(m, m))
    require_finite(matrix, "truncation")
    size = np.abs(matrix).max()
    if np.abs(matrix - matrix.T).max() > _ROUNDING * size or np.linalg.eigvalsh(matrix)[0] < -_ROUNDING * size:
        raise ValueError(
            "truncation: expected a symmetric and positive semi-definite covariance matrix; it is not one."
        )
    return (matrix + matrix.T) / 2


def _common_design(processes: list[Any]) -> FloatArray:
    designs = [np.asarray(_fitted(process, "X_train_")) for process in processes]
    if any(design.ndim != 2 or design.dtype.kind not in "fiu" for design in designs):
        raise ValueError("from_sklearn: expected processes trained on arrays of numbers (n, d); got others.")
    if any(not np.array_equal(design, designs[0]) for design in designs):
        raise ValueError("from_sklearn: expected processes trained at the same points; got different ones.")
    return np.asarray(designs[0], np.float64)


def _own_scaling(processes: list[Any]) -> Affine:
    """Returns the map that normalize_y applied to the targets, to zero mean and unit standard deviation."""
    parts = [
        [np.broadcast_to(np.ravel(getattr(process, name)), _targets(process)) for process in processes]
        for name in ("_y_train_mean", "_y_train_std")
    ]
    return _diagonal(np.concatenate(parts[0]), np.concatenate(parts[1]))


def _apart(model: Any) -> Parts:
    name = _kind(model)
    if name == "sklearn.gaussian_process.GaussianProcessRegressor":
        return Parts([], [model], [])
    if name == "sklearn.multioutput.MultiOutputRegressor":
        return _apart(_fitted(model, "estimators_"))
    if name == "sklearn.pipeline.Pipeline":
        inner = _apart(model.steps[-1][1])
        return inner._replace(inputs=[*_steps([step for _, step in model.steps[:-1]]), *inner.inputs])
    if name == "sklearn.compose.TransformedTargetRegressor":
        inner = _apart(_fitted(model, "regressor_"))
        return inner._replace(outputs=[*_steps(model.transformer_), *inner.outputs])
    if isinstance(model, Sequence) and not isinstance(model, str) and len(model):
        wrong = [_short(one) for one in model if _kind(one) != "sklearn.gaussian_process.GaussianProcessRegressor"]
        if not wrong:
            return Parts([], list(model), [])
        raise ValueError(
            f"from_sklearn: expected a sequence of GaussianProcessRegressor; got {', '.join(wrong)} in it."
        )
    raise _unsupported(model, "GaussianProcessRegressor, MultiOutputRegressor, Pipeline, TransformedTargetRegressor")


def _kind(thing: Any) -> str:
    """Returns the public name of the class, e.g. sklearn.decomposition.PCA for sklearn.decomposition._pca.PCA."""
    module = ".".join(part for part in type(thing).__module__.split(".") if not part.startswith("_"))
    return f"{module}.{type(thing).__name__}"


def _short(thing: Any) -> str:
    return type(thing).__name__


def _unsupported(thing: Any, expected: str) -> Exception:
    error = ValueError if _kind(thing).startswith("sklearn.") or hasattr(thing, "get_params") else TypeError
    return error(f"from_sklearn: {_short(thing)} is not supported; expected {expected}.")


def _fitted(model: Any, attribute: str) -> Any:
    if not hasattr(model, attribute):
        raise ValueError(f"from_sklearn: {_short(model)} is not fitted. Call its fit first.")
    return getattr(model, attribute)


def _steps(transformers: Any) -> list[Any]:
    """Returns the transformers of a pipeline or sequence, or a single one, in order and without identity steps."""
    if _kind(transformers) == "sklearn.pipeline.Pipeline":
        return _steps([step for _, step in transformers.steps])
    if isinstance(transformers, Sequence) and not isinstance(transformers, str):
        return [step for one in transformers for step in _steps(one)]
    is_function = _kind(transformers) == "sklearn.preprocessing.FunctionTransformer"
    identity = is_function and transformers.func is None and transformers.inverse_func is None
    return [] if transformers is None or transformers == "passthrough" or identity else [transformers]


def _affine(fitted: Any) -> Affine:
    kind = _kind(fitted)
    if kind not in _AFFINE:
        raise _unsupported(fitted, ", ".join(name.split(".")[-1] for name in _AFFINE))
    _fitted(fitted, "n_features_in_")
    return _AFFINE[kind](fitted)


def _chained(steps: list[Any], dim: int, subject: str) -> Affine:
    """Returns the composition of fitted transformers; without any, the identity in `dim` dimensions."""
    maps = [_affine(step) for step in steps]
    for (step, first), (next_step, second) in pairwise(zip(steps, maps, strict=True)):
        if len(first.back) != len(second.offset):
            raise ValueError(
                f"{subject}: expected transformers that fit each other; {_short(step)} gives {len(first.back)} "
                f"columns, and {_short(next_step)} takes {len(second.offset)}."
            )
    return reduce(Affine.then, maps) if maps else _diagonal(np.zeros(dim), np.ones(dim))


def _targets(process: Any) -> int:
    return 1 if process.alpha_.ndim == 1 else int(process.alpha_.shape[1])


def _components(processes: list[Any], design: FloatArray) -> Components:
    if len(processes) > 1 and any(_targets(process) > 1 for process in processes):
        raise ValueError(
            "from_sklearn: expected processes with one output each, or one process with several outputs; got neither."
        )
    kernels = [from_sklearn_kernel(process.kernel_) for process in processes]
    for kernel in kernels:
        require_fitting(kernel, design.shape[1])
    inverses = [inverse_of(np.asarray(process.L_, np.float64)) for process in processes]
    weights = [process.alpha_.reshape(len(design), -1).T for process in processes]
    return Components(stack_kernels(kernels), design, np.concatenate(weights), np.stack(inverses))


def _require_same_predictions(
    state: EmulatorState, inward: Affine, processes: list[Any], mean: FloatArray, scale: FloatArray
) -> None:
    """Raises ValueError unless the predictions between some training points equal those of scikit-learn."""
    middle = (state.components.design[:_COMPARED] + state.components.design[-_COMPARED:]) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about names of columns, and about variances that are negative by round-off
        theirs = [process.predict(middle, return_std=True) for process in processes]
    their_mean, their_deviation = (np.hstack([one[j].reshape(len(middle), -1) for one in theirs]) for j in (0, 1))
    theta = middle @ inward.back + inward.offset
    if not np.allclose(state.inputs.apply(theta), middle):
        return  # fewer inputs than parameters, in other directions: no parameters correspond to these points
    ours = evaluate(moments, state, theta, allow_float32=False)
    wrong = np.abs(ours.mean * scale + mean - their_mean).max(axis=0) / (scale + np.abs(their_mean).max(axis=0))
    spread = np.abs(ours.variance * scale**2 - their_deviation**2).max(axis=0) / scale**2
    difference = np.maximum(wrong, spread)
    if difference.max() > _AGREEMENT:
        raise ValueError(
            f"from_sklearn: the predictions differ from scikit-learn's by up to {difference.max():.1g} of an output's "
            f"spread (target {int(np.argmax(difference))}). The model was changed after its fit, or its covariance "
            "matrix is numerically singular. Fit it again, with some noise in its kernel."
        )


def _report(process: Any) -> ComponentReport:
    return ComponentReport(None, float(process.log_marginal_likelihood_value_), str(process.kernel_), ())
