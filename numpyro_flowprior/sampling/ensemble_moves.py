"""The moves of emcee's walkers: its own, mixed with proposals that do not depend on the position of a walker."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import jax
import numpy as np

from .._util.checks import FloatArray, real_in, shorten
from .._util.described import described
from ..priors.protocol import ParameterPrior
from .density import ModelDensity

Proposal = ParameterPrior | str | None  # a density, or "prior"
Moves = list[tuple[Any, float]]  # emcee's moves and their weights


def moves_of(emcee: ModuleType, moves: Any) -> Moves:
    """Returns moves with their weights, from what emcee accepts: None for stretch moves, one move, or several."""
    moves = emcee.moves.StretchMove() if moves is None else moves
    several = list(moves) if isinstance(moves, Iterable) else [moves]
    return [tuple(move) if isinstance(move, tuple | list) else (move, 1.0) for move in several]


def mixed(emcee: ModuleType, density: ModelDensity, moves: Moves, proposal: Proposal, share: float) -> Moves:
    """Returns the moves mixed with independent proposals, which take a share of all steps; unchanged without one."""
    if proposal is None:
        return moves
    draw, log_q = _proposed(density, proposal)

    def propose(coords: FloatArray, random: np.random.RandomState) -> tuple[FloatArray, FloatArray]:
        new = draw(jax.random.key(random.randint(2**31 - 1)), len(coords))
        return new, log_q(coords) - log_q(new)

    share = real_in(share, "sample_emcee: proposal_share", 0.0, 1.0, open_low=True, open_high=True)
    total = sum(weight for _, weight in moves)
    kept = [(move, (1 - share) * weight / total) for move, weight in moves]
    return [*kept, (emcee.moves.MHMove(propose), share)]


def recorded(moves: Moves, proposal: Proposal, share: float) -> dict[str, Any]:
    """Returns the JSON-ready record of the moves that a checkpoint stores."""
    total = float(sum(weight for _, weight in moves))
    drawn_from = proposal if proposal is None or isinstance(proposal, str) else _fingerprint(proposal)
    return {
        "moves": [[described(move), float(weight) / total] for move, weight in moves],
        "proposal": drawn_from,
        "proposal_share": None if proposal is None else float(share),
    }


def _fingerprint(proposal: Proposal) -> str:
    """Returns the SHA-256 of a density, over its type, settings, names, bounds and arrays."""
    return hashlib.sha256(json.dumps(described(proposal), sort_keys=True).encode()).hexdigest()


def _proposed(density: ModelDensity, proposal: Proposal) -> tuple[Callable[..., FloatArray], Callable[..., FloatArray]]:
    """Returns two functions: draws from a proposal, (key, n) -> (n, d), and its log density, (n, d) -> (n,)."""
    if isinstance(proposal, str) and proposal == "prior":
        return density.sample_prior, density.log_prior
    if isinstance(proposal, str | None) or getattr(getattr(proposal, "space", None), "names", None) is None:
        raise TypeError(f"sample_emcee: proposal: expected 'prior' or a FlowPrior; got {proposal!r}.")
    names = proposal.space.names
    if sorted(names) != sorted(density.names):
        raise ValueError(
            f"sample_emcee: proposal: expected a density over {shorten(density.names, 40)}; got one over "
            f"{shorten(names, 40)}."
        )
    there, back = [density.names.index(name) for name in names], [names.index(name) for name in density.names]

    def draw(key: jax.Array, n: int) -> FloatArray:
        with jax.enable_x64(True):
            return np.asarray(proposal.sample(key, (n,)), np.float64)[:, back]

    def log_q(x: FloatArray) -> FloatArray:
        with jax.enable_x64(True):
            return np.asarray(proposal.log_prob(x[:, there]), np.float64)

    return draw, log_q
