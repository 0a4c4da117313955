"""ExternalLikelihood: a plain Python function as a likelihood of a NumPyro model, called over an executor."""

from __future__ import annotations

import inspect
import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro

from .._util.checks import ArrayLike, FloatArray, float_array, one_of, positive_int, real_in, require_finite, shorten
from .._util.messages import FlowPriorError, FlowPriorWarning
from .._util.progress import progress_bar
from ..chains.parameters import ParameterSpace
from .call_log import CallLog, Evaluations
from .calls import Calls, ExternalError, sendable
from .fingerprint import function_fingerprint
from .site import ExternalFactor
from .worker import Answer

_SLOW = 5.0  # seconds of a batch from which its progress is shown


class ExternalFailure(FlowPriorError, RuntimeError):
    """An external likelihood failed at a point, also when it was called again.

    Attributes:
        point: the values of its parameters, by name.
        reason: what went wrong there.
        number: points at which it failed in the same batch.
    """

    def __init__(self, point: Mapping[str, float], reason: str, number: int = 1):
        self.point, self.reason, self.number = dict(point), reason, number
        others = f", and {number - 1} more points of this batch" if number > 1 else ""
        at = ", ".join(f"{name} = {value:.10g}" for name, value in self.point.items())
        super().__init__(
            f"the external likelihood failed at {at}{others}: {reason}. All other calls of the batch are kept. "
            "ExternalLikelihood(on_failure='reject') treats such points as impossible, and counts them."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.point, self.reason, self.number)


@dataclass
class Counts:
    """Points of an external likelihood so far.

    Attributes:
        asked: points asked for.
        known: those that were in the log, or twice in one batch.
        called: those at which the function was called, each counted once.
        repeated: calls that failed and were made again, or given up.
        failed: points given up.
        seconds: time that the successful calls took, summed over workers.
    """

    asked: int = 0
    known: int = 0
    called: int = 0
    repeated: int = 0
    failed: int = 0
    seconds: float = 0.0


class ExternalLikelihood:
    """A Python function of named parameters as a log likelihood: any code, in any number of processes.

    Example:
        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> from numpyro_flowprior import ExternalLikelihood, ModelDensity
        >>> def simulate(m, width):  # NumPy, C++, Fortran: anything
        ...     return -0.5 * ((m - 0.3) / width) ** 2 - 0.5 * width
        >>> external = ExternalLikelihood(simulate, ["m", "width"])
        >>> def model():
        ...     m = numpyro.sample("m", dist.Normal(0.0, 1.0))
        ...     width = numpyro.sample("width", dist.LogNormal(0.0, 1.0))
        ...     external.factor("data", {"m": m, "width": width})
        >>> ModelDensity(model).log_likelihood(np.array([[0.3, 1.0], [1.3, 1.0]]))
        array([-0.5, -1. ])

    Each result is kept in a log, and no point is called twice. ModelDensity, and with it pocoMC, emcee and the guards,
    sends a batch of points as one map over the executor. In traced code (BlackJAX, NUTS, NumPyro's own samplers) it is
    a callback that gets all points of a mapped program together.

    Args:
        function: called with one number per name, as keywords; with `vectorized`, with arrays (n,). It returns the log
            likelihood, or a dictionary with "log_likelihood", and possibly "gradient" (by name, or an array in the
            order of the names) and "derived" ({name: number}). -inf is a likelihood of zero. NaN, +inf and exceptions
            are failures.
        names: the parameters of the function.
        executor: where it is called. None: in this process, one call after the other. A number: so many processes of
            its own, which are started again if one of them dies. Any `concurrent.futures.Executor`: threads, Dask's
            `client.get_executor()`, `mpi4py.futures`, loky. Or a function without arguments that makes an executor,
            called again if it breaks. Processes must be spawned and not forked, since a forked JAX can hang.
        batch: points per task. None for as many as take 50 ms; with `vectorized`, a share for each worker.
        vectorized: whether the function takes arrays.
        gradient: whether it returns gradients, so that NUTS can use it.
        retries: further calls at a point that failed.
        timeout: seconds without any finished call after which the running calls count as hung (times the points of a
            task, if `batch` or `vectorized` is given). Processes of its own are then killed; other executors get the
            call again. The start of processes does not count. None for no limit.
        cache: a file for the log of calls (SQLite). A run that is called again evaluates nothing twice, also after a
            kill. None to keep the log in memory.
        version: what identifies the values of the function in the cache. None for a checksum of its source, of the
            functions of yours that it calls, and of the values that it uses from outside. Compiled code and files that
            it reads are not seen: give them a version of your own.
        on_failure: what a point means at which the function failed `retries` + 1 times. "raise": ExternalFailure,
            after the rest of the batch. "reject": a likelihood of zero, with a warning, and counted.
        progress: whether to show the progress of batches that take longer than five seconds.

    Attributes:
        names: (m,) parameters.
        counts: points asked for, known, called, repeated and failed.
        failure: the last ExternalFailure that was raised; None if there was none.

    Raises:
        TypeError: a function that cannot be called with these names or sent to processes; other arguments of the wrong
            type.
        ValueError: a timeout without an executor; a cache of another likelihood.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        names: Sequence[str],
        *,
        executor: Executor | int | Callable[[], Executor] | None = None,
        batch: int | None = None,
        vectorized: bool = False,
        gradient: bool = False,
        retries: int = 1,
        timeout: float | None = None,
        cache: str | os.PathLike[str] | None = None,
        version: str | None = None,
        on_failure: str = "raise",
        progress: bool = True,
    ):
        who = "ExternalLikelihood"
        self.names = ParameterSpace(names).names
        _require_function(function, self.names)
        known = executor is None or isinstance(executor, int | Executor) or callable(executor)
        if isinstance(executor, bool) or not known:
            raise TypeError(
                f"{who}: executor: expected a number of processes, a concurrent.futures.Executor, a function that "
                f"makes one, or None; got {type(executor).__name__}. Dask's is client.get_executor()."
            )
        if isinstance(executor, int):
            positive_int(executor, f"{who}: executor")
            sendable(function)
        if timeout is not None:
            timeout = real_in(timeout, f"{who}: timeout", 0.0, np.inf, open_low=True)
            if executor is None:
                raise ValueError(
                    f"{who}: timeout: expected an executor with it: a call in this process cannot be ended. Pass "
                    "executor=1 for one process."
                )
        self.gradient, self.vectorized = bool(gradient), bool(vectorized)
        self._on_failure = one_of(on_failure, f"{who}: on_failure", ("raise", "reject"))
        self._calls = Calls(
            function,
            self.names,
            executor=executor,
            batch=None if batch is None else positive_int(batch, f"{who}: batch"),
            vectorized=self.vectorized,
            gradient=self.gradient,
            retries=positive_int(retries, f"{who}: retries", minimum=0),
            timeout=timeout,
        )
        self._function, self._cache, self._progress = function, cache, bool(progress)
        self._about = {
            "names": list(self.names),
            "gradient": self.gradient,
            "version": version if cache is None or version is not None else function_fingerprint(function),
        }
        self._warned = False
        self._log: CallLog | None = None
        self._lock = threading.RLock()
        self.counts = Counts()
        self.failure: ExternalFailure | ExternalError | None = None
        self._opened()  # so that a cache of another likelihood is refused here

    @property
    def _identity(self) -> dict[str, Any]:
        """What makes it this likelihood: the same in every process, for the same function and version."""
        return {**self._about, "version": self._about["version"] or function_fingerprint(self._function)}

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a copy in another process needs: neither the open log nor the running processes."""
        return {**self.__dict__, "_log": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def factor(self, site: str, theta: Any) -> None:
        """Adds the log likelihood at theta to the density of a NumPyro model, as `numpyro.factor` does.

        Args:
            site: name of the site.
            theta: {name: value}, of which others than `names` are ignored; or an array (..., m) in the order of
                `names`. Values are scalars or arrays of one shape.

        Raises:
            ValueError: a parameter is missing, or an array has another number of columns.
        """
        factor = ExternalFactor(self, site, self._inputs(site, theta))
        numpyro.sample(site, factor, obs=factor.sample(None), infer={"is_auxiliary": True})

    def log_likelihood(self, theta: ArrayLike) -> FloatArray:
        """Returns the log likelihoods (n,) at points (n, m); -inf where it is zero, or failed and is to be rejected.

        Raises:
            ExternalFailure: the function failed at a point, also when it was called again.
            ExternalError: the executor does not work.
        """
        return self._evaluate(theta)[0]

    def log_likelihood_and_gradient(self, theta: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Returns log likelihoods (n,) and their gradients (n, m) at points (n, m); zeros where a value is -inf."""
        if not self.gradient:
            raise TypeError("ExternalLikelihood: this function returns no gradient; pass gradient=True if it does.")
        values, answers = self._evaluate(theta)
        slopes = np.zeros((len(values), len(self.names)))
        for row, answer in enumerate(answers):
            if answer is not None and answer.gradient is not None and answer.log_likelihood > -np.inf:
                slopes[row] = answer.gradient
        return values, slopes

    def evaluations(self) -> Evaluations:
        """Returns all calls that are in the log."""
        return self._opened().evaluations(self.names)

    def close(self) -> None:
        """Ends the processes of its own, and closes the log. It opens both again when it is called."""
        with self._lock:
            self._calls.close()
            if self._log is not None and self._cache is not None:
                self._log.close()
                self._log = None

    @property
    def seconds_per_call(self) -> float:
        """Seconds that a call has taken on average, shared by the workers; 0 before the first in the log."""
        counts = self.counts
        mean = counts.seconds / counts.called if counts.called else self._opened().mean_seconds()
        return mean / (self._calls.n_workers or 1)

    def record(self) -> dict[str, Any]:
        """Returns the counts, for the record of a run."""
        return {**asdict(self.counts), "seconds": round(self.counts.seconds, 3)}

    def __enter__(self) -> ExternalLikelihood:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        name = getattr(self._function, "__qualname__", type(self._function).__name__)
        return f"ExternalLikelihood({name} of {', '.join(self.names)}; {self.counts.called} calls)"

    def _inputs(self, site: str, theta: Any) -> jax.Array:
        if isinstance(theta, Mapping):
            missing = [name for name in self.names if name not in theta]
            if missing:
                raise ValueError(
                    f"site {site!r}: expected values of {shorten(self.names, 40)}; missing: {shorten(missing)}. Pass a "
                    "dictionary, e.g. space.as_dict(theta)."
                )
            return jnp.stack(jnp.broadcast_arrays(*(jnp.asarray(theta[name], float) for name in self.names)), axis=-1)
        array = jnp.asarray(theta)
        if array.shape[-1:] != (len(self.names),):
            raise ValueError(
                f"site {site!r}: expected shape (..., {len(self.names)}) for {shorten(self.names, 40)}; got "
                f"{array.shape}. A dictionary {{name: value}} is found by name."
            )
        return array.astype(jnp.promote_types(array.dtype, jnp.float32))

    def _opened(self) -> CallLog:
        if self._log is None:
            self._log = CallLog(self._cache, self._about)
        return self._log

    def _evaluate(self, theta: ArrayLike) -> tuple[FloatArray, list[Answer | None]]:
        """Returns the values (n,), and the answers of the function or None where it failed."""
        points = float_array(theta, "theta", shape=(None, len(self.names)))
        require_finite(points, "theta", columns=self.names)
        with self._lock:
            distinct, place = np.unique(points, axis=0, return_inverse=True)
            log = self._opened()
            answers = [log.get(point) for point in distinct]
            unknown = [j for j, answer in enumerate(answers) if answer is None]
            todo = np.array([j for j in unknown if not self._is_rejected(log, distinct[j])], dtype=int)
            if len(todo) < len(unknown):
                self._warn_of_known(len(unknown) - len(todo))
            counts = self.counts
            counts.asked, counts.known = counts.asked + len(points), counts.known + len(points) - len(todo)
            failed = self._call(distinct, todo, answers, log) if len(todo) else {}
        if failed:
            self._settle(distinct, failed, log)
        values = np.array([-np.inf if answer is None else answer.log_likelihood for answer in answers])
        place = place.reshape(-1)
        return values[place] if len(points) else np.empty(0), [answers[j] for j in place]

    def _is_rejected(self, log: CallLog, point: FloatArray) -> bool:
        """Returns whether a point was given up before, and was to count as impossible from then on."""
        return self._on_failure == "reject" and log.is_rejected(point)

    def _warn_of_known(self, number: int) -> None:
        """Warns, once, of points that an earlier run gave up."""
        if self.counts.failed or self._warned:
            return
        self._warned = True
        warnings.warn(
            f"ExternalLikelihood: {number} points failed in an earlier run and count as impossible. To call them "
            "again, use another cache.",
            FlowPriorWarning,
            stacklevel=4,
        )

    def _call(
        self, distinct: FloatArray, todo: np.ndarray, answers: list[Answer | None], log: CallLog
    ) -> dict[int, str]:
        """Calls the function at some rows, fills in their answers, and returns why others failed."""
        counts = self.counts
        with progress_bar(
            total=len(todo), desc="external likelihood", unit="call", disable=not self._progress, delay=_SLOW
        ) as bar:

            def keep(found: dict[int, Answer]) -> None:
                log.add(distinct[todo[list(found)]], list(found.values()))
                for row, answer in found.items():
                    answers[todo[row]] = answer
                    counts.seconds += answer.seconds
                counts.called += len(found)
                bar.update(len(found))

            def failed_once() -> None:
                counts.repeated += 1
                bar.set_postfix(failures=counts.repeated)

            try:
                failed = self._calls.at(distinct[todo], keep, failed_once)
            except ExternalError as error:
                self.failure = error
                raise
        return {int(todo[row]): reason for row, reason in failed.items()}

    def _settle(self, distinct: FloatArray, failed: Mapping[int, str], log: CallLog) -> None:
        """Writes failures down, and raises or warns."""
        for row, reason in failed.items():
            log.add_failure(distinct[row], reason, rejected=self._on_failure == "reject")
        first = min(failed)
        point = dict(zip(self.names, distinct[first].tolist(), strict=True))
        self.counts.failed += len(failed)
        if self._on_failure == "raise":
            self.failure = ExternalFailure(point, failed[first], len(failed))
            raise self.failure
        warnings.warn(
            f"ExternalLikelihood: {self.counts.failed} points failed so far and count as impossible, for example "
            f"{shorten([f'{name} = {value:.6g}' for name, value in point.items()], 40)}: {failed[first]}.",
            FlowPriorWarning,
            stacklevel=3,
        )


def _require_function(function: Any, names: Sequence[str]) -> None:
    """Raises TypeError unless a function can be called with these names."""
    if not callable(function):
        raise TypeError(f"ExternalLikelihood: function: expected a function; got {type(function).__name__}.")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # compiled code may have none
        return
    try:
        signature.bind(**dict.fromkeys(names))
    except TypeError as error:
        raise TypeError(
            f"ExternalLikelihood: function: expected one that can be called with {shorten(names, 40)} as keywords; "
            f"got {getattr(function, '__name__', type(function).__name__)}{signature} ({error}). For a function of "
            "one dictionary, pass a function(**theta) that calls it."
        ) from None
