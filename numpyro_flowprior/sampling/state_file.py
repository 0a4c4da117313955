"""The state of a sampler that JAX runs, as arrays in a file, so that the run can go on after a kill."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._util.storage import FileFormatError, load_file, remove_leftovers, save_file
from .checkpoint import require_folder, require_same_run

KIND, SCHEMA = "sampler_state", 2  # the first schema has checksums, as schema 2 of every kind


@dataclass(frozen=True)
class StateFile:
    """A checkpoint: where it is, and which run it is of.

    Args:
        path: the file; None for a run that is not kept.
        about: JSON-ready record of everything that makes it this run: sampler, names, seed, settings.

    Raises:
        OSError: the path is a folder, or its folder does not exist.
    """

    path: str | os.PathLike[str] | None
    about: Mapping[str, Any]

    def __post_init__(self) -> None:
        require_folder(self.path)
        if self.path is not None:
            remove_leftovers(self.path)

    def write(self, state: Any, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
        """Writes a state (a pytree of arrays), further arrays by name, and a JSON-ready record. A kill leaves the file
        that was there before.
        """
        if self.path is None:
            return
        leaves = {f"state/{j}": np.asarray(_numbers(leaf)) for j, leaf in enumerate(jax.tree.leaves(state))}
        more = {f"run/{name}": np.asarray(array) for name, array in arrays.items()}
        save_file(self.path, KIND, SCHEMA, {"about": dict(self.about), "run": dict(record)}, {**leaves, **more})

    def read(self, template: Any) -> tuple[Any, dict[str, np.ndarray], dict[str, Any]] | None:
        """Returns the state, the further arrays and the record in the file; None if there is no file yet.

        Args:
            template: a state of the same structure, shapes and dtypes.

        Raises:
            FileFormatError: the file is damaged, or holds something else.
            ValueError: it holds another run; the message names the settings that differ.
        """
        if self.path is None or not Path(self.path).exists():
            return None
        stored = load_file(self.path, KIND, newest_schema=SCHEMA)
        known = stored.record.get("about")
        if isinstance(known, dict) and known.get("sampler") != self.about["sampler"]:  # nothing else is comparable
            known = {**self.about, "sampler": known.get("sampler")}
        require_same_run(self.path, known, self.about)
        expected, structure = jax.tree.flatten(template)
        leaves = [stored.arrays.get(f"state/{j}") for j in range(len(expected))]
        for j, (leaf, like) in enumerate(zip(leaves, expected, strict=True)):
            wanted = _numbers(like)
            if leaf is None or leaf.shape != wanted.shape or leaf.dtype != wanted.dtype:
                got = "none" if leaf is None else f"{leaf.dtype} {leaf.shape}"
                raise FileFormatError(
                    f"checkpoint: {self.path}: array 'state/{j}': expected {wanted.dtype} {wanted.shape}; got {got}. "
                    "Another version of the sampler wrote it. Use another file, or remove this one to begin again."
                )
        state = [_like(leaf, like) for leaf, like in zip(leaves, expected, strict=True)]
        arrays = {name[4:]: array for name, array in stored.arrays.items() if name.startswith("run/")}
        return jax.tree.unflatten(structure, state), arrays, stored.record["run"]


def _numbers(leaf: Any) -> Any:
    """Returns a leaf as an array of numbers: the data of a typed random key, everything else as it is."""
    leaf = jnp.asarray(leaf)
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like(numbers: Any, leaf: Any) -> Any:
    leaf = jnp.asarray(leaf)
    return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else jnp.asarray(numbers)


def _is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))
