"""The calls of a nested sampler, kept in their order: a run that was killed is repeated without a single call.

dynesty keeps its state in pickles, and nautilus changes a file in place, so that a kill may damage it. Both are
deterministic functions of their seed and of the log likelihoods. So we keep these. A resumed run gives the sampler the
values from the file, and calls the model where the file ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .._util.checks import FloatArray
from .._util.described import described
from .checkpoint import require_same_values
from .density import ModelDensity
from .state_file import StateFile
from .unit_cube import Evaluated, UnitCube

_BETWEEN = 20.0  # seconds between two writes, at least, ...
_SHARE = 0.02  # ... and so many that writing takes no more than this fraction of the time
_COMPARED = 16  # first calls, repeated, as is the best one, to see whether a file is of this model


class Overdue(Exception):
    """The time limit of a run has passed."""


class Calls:
    """The likelihood of a nested sampler: points of the unit cube in, log likelihoods out, all kept.

    Args:
        cube: the posterior over the unit cube.
        file: where the calls are kept.
        watch: function of the number of calls so far, called after each batch.

    Attributes:
        deadline: time of `time.perf_counter` after which no call is made.
        made: number of calls that were made, those of former runs included.
        replayed: number of calls that were answered from the file.
        possible: whether the posterior is not zero at one of the points.
    """

    def __init__(self, cube: UnitCube, file: StateFile, watch: Callable[[int], None]):
        self._cube, self._file, self._watch, self.deadline = cube, file, watch, np.inf
        self._parts: list[Evaluated] = []
        self._sums: list[FloatArray] = []
        self._known, self._known_sums = _nothing(), np.empty(0)
        self.made, self.replayed, self.possible = 0, 0, False
        self._next_write = time.perf_counter() + _BETWEEN
        found = file.read(())
        if found is not None:
            arrays = found[1]
            self._known = Evaluated(*(arrays[name] for name in Evaluated._fields))
            self._known_sums = arrays["sums"]
        self._best = int(np.argmax(self._known.target)) if len(self._known.target) else -1

    def __call__(self, u: FloatArray) -> Evaluated:
        """Returns the log densities at points u (n, d) of the unit cube.

        Raises:
            Overdue: the time limit has passed.
            ValueError: the file is of another model, or another version of the sampler wrote it.
        """
        start, stop, sums = self.made, self.made + len(u), u.sum(axis=1)
        known = max(min(stop, len(self._known.target)) - start, 0)
        if known and not np.allclose(self._known_sums[start : start + known], sums[:known], rtol=1e-9, atol=1e-12):
            raise ValueError(
                f"checkpoint: {self._file.path}: expected a run that asks for the same points; it differs at call "
                f"{start + 1}. Another version of the sampler, or another machine, made it. Use another file, or "
                "remove this one to begin again."
            )
        parts = [Evaluated(*(part[start : start + known] for part in self._known))]
        compared = [j for j in range(known) if start + j < _COMPARED or start + j == self._best]
        if compared:
            self._require_same(u[compared], Evaluated(*(part[compared] for part in parts[0])))
        if known < len(u):
            if time.perf_counter() > self.deadline:
                raise Overdue
            parts.append(self._cube.evaluate(u[known:]))
        found = Evaluated(*(np.concatenate(each) for each in zip(*parts, strict=True)))
        self._parts.append(found)
        self._sums.append(sums)
        self.made, self.replayed = stop, self.replayed + known
        if time.perf_counter() > self._next_write and stop > len(self._known.target):
            self.save()
        self._watch(stop)
        self.possible = self.possible or bool((found.target > -np.inf).any())
        return found

    def all(self) -> Evaluated:
        """Returns all calls so far, in their order."""
        return Evaluated(*(np.concatenate(each) for each in zip(_nothing(), *self._parts, strict=True)))

    def save(self) -> None:
        """Writes the checkpoint, if the run is kept and has calls that the file lacks."""
        if self.made <= len(self._known.target):
            return
        start = time.perf_counter()
        arrays = dict(zip(Evaluated._fields, self.all(), strict=True))
        self._file.write((), {**arrays, "sums": np.concatenate(self._sums)}, {"calls": self.made})
        now = time.perf_counter()
        self._next_write = now + max(_BETWEEN, (now - start) / _SHARE)

    def _require_same(self, u: FloatArray, stored: Evaluated) -> None:
        """Raises ValueError unless the model has the stored log densities; an external likelihood is not called."""
        density = self._cube.density
        if density.external:
            found = {"log_prior": density.log_prior(self._cube.points(u))}
        else:
            found = self._cube.evaluate(u)._asdict()
        require_same_values(self._file.path, found, {name: getattr(stored, name) for name in found})


def _nothing() -> Evaluated:
    return Evaluated(*(np.empty(0) for _ in Evaluated._fields))


def record_of(sampler: str, density: ModelDensity, seed: int, **settings: Any) -> dict[str, Any]:
    """Returns what makes a run of a nested sampler this run, for its checkpoint."""
    about = {"sampler": sampler, "names": list(density.names), "seed": seed, "observed": described(density.observed)}
    external = {site: each._identity for site, each in density.external.items()}
    return {**about, **({"external": external} if external else {}), **settings}
