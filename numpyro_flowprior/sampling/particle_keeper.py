"""Between the iterations of a run of particles: writes the checkpoint, restores the run, checks the time limit."""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any

import numpy as np

from .._util.storage import remove_leftovers
from .checkpoint import require_same_density
from .density import ModelDensity
from .particle_file import ParticleRun, read_particles, write_particles
from .particle_run import NUMBERS


class Keeper:
    """Writes the checkpoint of a run between its iterations, and checks the time limit."""

    def __init__(self, torch: ModuleType, path: Any, about: dict[str, Any], *, every: int, deadline: float):
        self._torch, self._path, self._about, self._every, self._deadline = torch, path, about, every, deadline
        self._since = 0
        self.late = False
        if path is not None:
            remove_leftovers(path)

    def between(self, run: Any, unfinished: bool) -> bool:
        """Writes the checkpoint if it is due. Returns False if time is up before the run has finished."""
        self.late = unfinished and time.perf_counter() > self._deadline
        run.complete = not self.late
        self._since += 1
        if self._path is not None and (self._since >= self._every or self.late or not unfinished):
            self._since = 0
            write_particles(self._path, self._state(run), self._about)
        return not self.late

    def keep(self, run: Any) -> None:
        """Writes the checkpoint with the draws of the flow so far."""
        if self._path is not None:
            write_particles(self._path, self._state(run), self._about)

    def _state(self, run: Any) -> ParticleRun:
        draws = run.kept_draws()
        if run.preconditioner is not None:
            flow = run.preconditioner.arrays()
        else:
            flow = {name: tensor.numpy() for name, tensor in run.flow.flow.state_dict().items()}
            flow = {name: np.array(array, np.float64) for name, array in flow.items()}
        return ParticleRun(
            past=run.past_arrays(),
            numbers={name: getattr(run, name) for name in NUMBERS},
            scaler={"mu": run.scaler.mu, "sigma": run.scaler.sigma},
            geometry={name: np.asarray(part) for name, part in vars(run.theta_geometry).items() if part is not None},
            flow=flow,
            draws={} if draws is None else draws._asdict(),
            numpy_state=np.random.get_state(legacy=True),  # noqa: NPY002 (pocoMC's)
            torch_state=self._torch.get_rng_state().numpy(),
        )

    def restore(self, run: Any, density: ModelDensity) -> None:
        """Restores a run to the state in its checkpoint."""
        stored = read_particles(self._path, self._about)
        last = {name: stored.past[name][-1] for name in ("x", "logl", "logp")}
        require_same_density(self._path, density, last["x"], last["logl"] + last["logp"])
        run.go_on_from(stored.past, stored.numbers, stored.draws)
        run.scaler.mu, run.scaler.sigma = stored.scaler["mu"], stored.scaler["sigma"]
        vars(run.theta_geometry).update(stored.geometry)
        if run.preconditioner is not None:
            run.preconditioner.restore(stored.flow)
        else:
            model = run.flow.flow
            tensors = {name: self._torch.as_tensor(array) for name, array in stored.flow.items()}
            kinds = {name: tensor.dtype for name, tensor in model.state_dict().items()}
            model.load_state_dict({name: tensor.to(kinds.get(name)) for name, tensor in tensors.items()})
        np.random.set_state(stored.numpy_state)  # noqa: NPY002
        self._torch.set_rng_state(self._torch.as_tensor(stored.torch_state))
