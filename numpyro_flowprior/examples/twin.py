"""A closed-form stand-in for diffractive J/psi production off protons and lead, with known posteriors.

The study this package follows (Roch and Shen 2025) calibrates an IP-Glasma + JIMWLK simulator on 86
measurements. The simulator needs a cluster; this module replaces it by formulas of a few lines with the same
seven parameters, the same prior box, the same four groups of observables and the same difficulty. Nothing
here is fitted to real data.

Every observable is a NATURAL LOGARITHM (of a cross section in arbitrary units): a relative error is additive.
For a target A (proton or lead), photon-target energy W and momentum transfer |t|:

    density     ln x_A = const_A - 1.2 ln(1 + Qs_ratio) - ln(1 + m / 0.6) + lambda_A ln(W / 100 GeV)
                a larger Q_s / (g^2 mu) at fixed Q_s means fewer colour charges; m screens the infrared
    amplitude   N_A = x_A / (1 + x_A)                        saturates, sooner in lead
    evolution   lambda_A = lambda0_A + gain_A alpha(Lambda_QCD) / (1 + (m_JIMWLK / M_A)^p_A)
                alpha = 1 / ln(1 GeV^2 / (Lambda_QCD^2 + Lambda_0^2)); the mass cuts off long wavelengths, more
                abruptly in lead, the larger target
    coherent    N_A^2 times a form factor. The size of the proton is B_G + B_q, a tail from m, and a growth with
                ln W that m_JIMWLK cuts off. The size of lead is its radius and a gluon halo of range 1 / m_JIMWLK
    incoherent  N_A^2 times the variance from hot-spot positions (B_q, B_G), colour fluctuations (sigma), nucleons

The exact posteriors under a uniform prior have these features. gamma+p constrains one broad band of evolution
speeds in (m_JIMWLK, Lambda_QCD), and its posterior is unimodal. gamma+Pb does not constrain B_G and hardly
constrains sigma. It pushes B_q, m_JIMWLK and Lambda_QCD against their lower bounds, and has 0.7 % of its
posterior mass at 0.06 < Lambda_QCD < 0.16 GeV. The bands of the two systems meet there and, less well, at the
corner of the lower bounds. The joint posterior therefore has two separated modes of about equal weight. The
truth is in the mode that gamma+Pb alone nearly excludes. The order gamma+p, then gamma+Pb is easy; the reverse
order is hard.

This module does not use samplers, emulators or flows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy.linalg import solve_triangular
from scipy.stats import qmc

from .._util.checks import FloatArray
from ..chains.parameters import ParameterSpace
from ..flows.network import matmul

NAMES = ("m", "B_G", "B_q", "sigma", "Qs_ratio", "m_JIMWLK", "Lambda_QCD")
LOWER = (0.02, 1.0, 0.05, 0.0, 0.05, 0.02, 0.0001)
UPPER = (1.2, 10.0, 3.0, 1.5, 1.5, 1.2, 0.28)
UNITS = ("GeV", "GeV^-2", "GeV^-2", "", "", "GeV", "GeV")
LABELS = (
    r"$m$",
    r"$B_G$",
    r"$B_q$",
    r"$\sigma$",
    r"$Q_s/(g^2\mu)$",
    r"$m_\mathrm{JIMWLK}$",
    r"$\Lambda_\mathrm{QCD}$",
)
SPACE = ParameterSpace(NAMES, LOWER, UPPER, units=UNITS, labels=LABELS)

TRUTH: Mapping[str, float] = MappingProxyType(
    {"m": 0.3, "B_G": 4.0, "B_q": 0.15, "sigma": 0.6, "Qs_ratio": 0.6, "m_JIMWLK": 0.7, "Lambda_QCD": 0.11}
)

# Fixed, and found by a search: noise that makes gamma+Pb prefer the corner to the truth this strongly is rare.
NOISE_SEEDS: Mapping[str, int] = MappingProxyType({"gamma_p": 6, "gamma_Pb": 123607})
TRAINING_SEED = 2025
NORMALISATION_ERROR = 0.03  # relative; shared by the points of a group and included in their stated errors
TRAINING_ERROR = 0.015  # statistical error of every training output, on the log scale


@dataclass(frozen=True)
class Group:
    """One group of observables: its kinematics and its errors.

    Attributes:
        name: the name of the group.
        energy: (m,) photon-target energy W in GeV.
        momentum_transfer: (m,) |t| in GeV^2, or empty if integrated over |t|.
        coherent: (m,) whether the target stays intact.
        relative_error: (m,) total relative error of each point, between 0.05 and 0.2.
    """

    name: str
    energy: tuple[float, ...]
    momentum_transfer: tuple[float, ...]
    coherent: tuple[bool, ...]
    relative_error: tuple[float, ...]

    @property
    def size(self) -> int:
        """The number of observables."""
        return len(self.energy)


@dataclass(frozen=True)
class Measurement:
    """Pseudo-data of one system: y (m,) log observables, their covariance (m, m) and the names of the groups."""

    y: FloatArray
    covariance: FloatArray
    groups: tuple[str, ...]


@dataclass(frozen=True)
class TrainingSet:
    """Training data: X (n, 7) design, Y (n, m) noisy log observables, Y_error (n, m) their standard deviations."""

    X: FloatArray
    Y: FloatArray
    Y_error: FloatArray


def predict(theta: ArrayLike, system: str) -> jax.Array:
    """Returns the natural logarithms of the observables of one system, in the order of its groups.

    The function is pure, differentiable, and smooth and finite on the closed prior box. Its dtype follows `theta`.

    Args:
        theta: (..., 7) parameters in the order of `NAMES`.
        system: "gamma_p" (62 observables), "gamma_Pb" (24), or one of the `GROUPS`.

    Returns:
        (..., m) log observables.

    Raises:
        ValueError: an unknown system, or a last axis that is not seven.
    """
    values = jnp.asarray(theta)
    return _compiled(values.astype(jnp.result_type(values, float)), system, jnp)


@functools.cache
def pseudo_data(system: str) -> Measurement:
    """Returns the pseudo-measurement of one system: the prediction at `TRUTH` plus fixed Gaussian noise.

    The noise is one draw, `numpy.random.default_rng(NOISE_SEEDS[system])`, from the stated covariance. The
    seeds were chosen so that the posteriors have the features in the module docstring; the chi-square at the
    truth is typical for both systems. The arrays are read-only and float64 with any JAX flags.

    Args:
        system: "gamma_p", "gamma_Pb", or one of the `GROUPS`.

    Raises:
        ValueError: an unknown system.
    """
    groups = _groups(system)
    if system in GROUPS:
        return _of_group(system)
    truth = np.array([TRUTH[name] for name in NAMES])
    covariance = _block_diagonal([_group_covariance(group) for group in groups])
    noise = np.random.default_rng(NOISE_SEEDS[system]).standard_normal(len(covariance))
    y = _log_observables(truth, system, np) + np.linalg.cholesky(covariance) @ noise
    for array in (y, covariance):
        array.setflags(write=False)
    return Measurement(y=y, covariance=covariance, groups=SYSTEMS[system])


def _of_group(group: str) -> Measurement:
    """Returns the data of one group, a part of the data of its system; errors of groups are independent."""
    whole = pseudo_data(_system_of(group))
    start = sum(GROUPS[name].size for name in whole.groups[: whole.groups.index(group)])
    part = slice(start, start + GROUPS[group].size)
    return Measurement(y=whole.y[part], covariance=whole.covariance[part, part], groups=(group,))


def training_set(system: str, n: int = 500, *, seed: int = TRAINING_SEED) -> TrainingSet:
    """Returns noisy predictions on a Latin hypercube over the prior box.

    Args:
        system: "gamma_p", "gamma_Pb", or one of the `GROUPS`.
        n: number of design points, at least 1.
        seed: seed of the design and of the statistical noise (`TRAINING_ERROR` on the log scale).

    Raises:
        ValueError: an unknown system, or `n < 1`.
    """
    if n < 1:
        raise ValueError(f"training_set.n: expected at least 1 design point; got {n}.")
    rng = np.random.default_rng(seed)
    X = qmc.scale(qmc.LatinHypercube(len(NAMES), rng=rng).random(n), LOWER, UPPER)
    exact = _log_observables(X, system, np)
    Y_error = np.full_like(exact, TRAINING_ERROR)
    return TrainingSet(X=X, Y=exact + Y_error * rng.standard_normal(exact.shape), Y_error=Y_error)


def log_likelihood(theta: ArrayLike, system: str) -> jax.Array:
    """Returns the exact log likelihood of the pseudo-data, normalised: log N(y; predict(theta), covariance).

    Args:
        theta: (..., 7) parameters in the order of `NAMES`.
        system: "gamma_p", "gamma_Pb", one of the `GROUPS`, or "joint" for the sum of the two systems.

    Returns:
        (...,) log likelihood.

    Raises:
        ValueError: an unknown system, or a last axis that is not seven.
    """
    if system == "joint":
        return log_likelihood(theta, "gamma_p") + log_likelihood(theta, "gamma_Pb")
    prediction = predict(theta, system)
    y, whitening, log_norm = _whitened(system)
    residual = prediction - jnp.asarray(y, prediction.dtype)
    pulls = matmul(residual, jnp.asarray(whitening.T, prediction.dtype))
    return log_norm - 0.5 * jnp.sum(pulls**2, axis=-1)


# --- kinematics and errors: invented, in the spirit of the measurements at HERA and the LHC ---


def _spread(start: float, stop: float, n: int, *, power: float = 1.0) -> list[float]:
    """Returns n numbers from start to stop; a power above one keeps the first ones near start."""
    return (start + (stop - start) * np.linspace(0.0, 1.0, n) ** power).tolist()


def _gamma_p_energies() -> tuple[float, ...]:
    """Returns W (GeV) of five overlapping experiments."""
    ranges = ((25, 60, 5), (35, 90, 8), (30, 220, 11), (190, 850, 12), (160, 420, 9))
    return tuple(float(W) for low, high, n in ranges for W in np.geomspace(low, high, n))


_INTEGRATED_PB_W = (24.0, 32.0, 42.0, 55.0, 330.0, 440.0, 620.0, 36.0, 48.0, 64.0, 260.0, 350.0, 480.0)
_INTEGRATED_PB_ERROR = (0.08, 0.15, 0.07, 0.18, 0.16, 0.17, 0.2, 0.05, 0.05, 0.06, 0.15, 0.14, 0.13)
_INTEGRATED_P_ERROR = (*_spread(0.2, 0.13, 5), *[0.095] * 8, *[0.072] * 11, *[0.11] * 12, *[0.085] * 9)
_COHERENT_PB_T = (0.001, 0.002, 0.0035, 0.005, 0.0075, 0.012)
_INCOHERENT_PB_T = (0.12, 0.24, 0.4, 0.6, 0.9)
_COHERENT_P_T = (0.05, 0.12, 0.2, 0.29, 0.4, 0.54, 0.74, 1.1)
_INCOHERENT_P_T = (0.1, 0.2, 0.32, 0.47, 0.65, 0.88, 1.2, 1.6, 2.2)

GROUPS: Mapping[str, Group] = MappingProxyType(
    {
        group.name: group
        for group in (
            Group("gamma_Pb_integrated", _INTEGRATED_PB_W, (), (True,) * 13, _INTEGRATED_PB_ERROR),
            Group(
                "gamma_Pb_tdiff",
                (125.0,) * 11,
                _COHERENT_PB_T + _INCOHERENT_PB_T,
                (True,) * 6 + (False,) * 5,
                (*_spread(0.05, 0.1, 6, power=2), *_spread(0.1, 0.14, 5)),
            ),
            Group("gamma_p_integrated", _gamma_p_energies(), (), (True,) * 45, _INTEGRATED_P_ERROR),
            Group(
                "gamma_p_tdiff",
                (90.0,) * 17,
                _COHERENT_P_T + _INCOHERENT_P_T,
                (True,) * 8 + (False,) * 9,
                (*_spread(0.05, 0.2, 8, power=2), *[0.14] * 9),
            ),
        )
    }
)
SYSTEMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "gamma_p": ("gamma_p_integrated", "gamma_p_tdiff"),
        "gamma_Pb": ("gamma_Pb_integrated", "gamma_Pb_tdiff"),
    }
)


def _groups(system: str) -> tuple[Group, ...]:
    if system in GROUPS:
        return (GROUPS[system],)
    if system not in SYSTEMS:
        raise ValueError(f"system: expected one of {[*SYSTEMS, *GROUPS]}; got {system!r}.")
    return tuple(GROUPS[name] for name in SYSTEMS[system])


def _system_of(group: str) -> str:
    return next(system for system, groups in SYSTEMS.items() if group in groups)


def _group_covariance(group: Group) -> FloatArray:
    """Returns the covariance of one group: a shared normalisation error; the rest of each error is uncorrelated."""
    shared = NORMALISATION_ERROR**2
    return np.diag(np.square(group.relative_error) - shared) + shared


def _block_diagonal(blocks: list[FloatArray]) -> FloatArray:
    ends = np.cumsum([len(block) for block in blocks])
    full = np.zeros((ends[-1], ends[-1]))
    for block, end in zip(blocks, ends, strict=True):
        start = end - len(block)
        full[start:end, start:end] = block
    return full


@functools.cache
def _whitened(system: str) -> tuple[FloatArray, FloatArray, float]:
    """Returns the data, the matrix that turns residuals into unit normals, and the log normalisation."""
    data = pseudo_data(system)
    factor = np.linalg.cholesky(data.covariance)
    whitening = solve_triangular(factor, np.eye(len(factor)), lower=True)
    log_norm = -float(np.log(np.diag(factor)).sum()) - 0.5 * len(factor) * math.log(2.0 * math.pi)
    return data.y, whitening, log_norm


# --- the physics: written once, for NumPy (float64 pseudo-data, with any flags) and for JAX (xp) ---


@dataclass(frozen=True)
class _Target:
    """The constants of a target in the density and its evolution; see the module docstring."""

    log_density: float  # const: ln x at Qs_ratio = 0, m = 0 and W = 100 GeV, where evolution has no effect
    speed: float  # lambda0
    gain: float  # of the running coupling
    mass: float  # M, GeV
    power: int  # p


_PROTON = _Target(log_density=1.0 + math.log(0.25), speed=0.2, gain=0.37, mass=1.0, power=2)
_LEAD = _Target(log_density=1.0, speed=0.2, gain=3.0, mass=0.7, power=4)

_LAMBDA_FREEZE = 0.003  # GeV: keeps the coupling smooth at the lower edge of Lambda_QCD
_HOT_SPOTS = 3.0  # per proton
_LEAD_SLOPE = 240.0  # GeV^-2, from the radius of lead
_HALO = 0.175  # largest relative increase of the slope of lead
_HALO_MASS = 0.2  # GeV: scale of m_JIMWLK above which the halo is cut off
_LEAD_TAIL = 0.03  # replaces the diffractive minima; no emulator could follow their logarithm
_FLUCTUATION_FLOOR = 0.02  # variance that remains at sigma = 0


def _log_observables(theta: Any, system: str, xp: ModuleType) -> Any:
    groups = _groups(system)
    if theta.ndim < 1 or theta.shape[-1] != len(NAMES):
        raise ValueError(f"theta: expected shape (..., {len(NAMES)}) for {list(NAMES)}; got {theta.shape}.")
    p = {name: theta[..., i, None] for i, name in enumerate(NAMES)}
    parts = [_OBSERVABLES[group.name](p, group, xp) for group in groups]
    return xp.concatenate(parts, axis=-1)


_compiled = jax.jit(_log_observables, static_argnames=("system", "xp"))


def _axis(values: tuple[float, ...], p: dict[str, Any], xp: ModuleType) -> Any:
    return xp.asarray(values, dtype=p["m"].dtype)


def _log_amplitude_squared(p: dict[str, Any], target: _Target, energy: Any, xp: ModuleType) -> Any:
    """Returns 2 ln N: the normalisation and the energy dependence common to all observables of a target."""
    coupling = -1.0 / xp.log(p["Lambda_QCD"] ** 2 + _LAMBDA_FREEZE**2)
    damping = 1.0 / (1.0 + (p["m_JIMWLK"] / target.mass) ** target.power)
    speed = target.speed + target.gain * coupling * damping
    charges = -1.2 * xp.log1p(p["Qs_ratio"]) - xp.log1p(p["m"] / 0.6)
    log_x = target.log_density + charges + speed * xp.log(energy / 100.0)
    return -2.0 * xp.logaddexp(xp.zeros_like(log_x), -log_x)


def _log_form_factor(slope: Any, t: Any, power: float, xp: ModuleType) -> Any:
    """Returns the log of (1 + slope t / power)^-power: exp(-slope t) at small t, a slower fall at large t."""
    return -power * xp.log1p(slope * t / power)


def _proton_slope(p: dict[str, Any], energy: Any, xp: ModuleType) -> Any:
    """Returns the coherent slope in GeV^-2: size, infrared tail, and growth with ln W."""
    tail = 0.05 / (p["m"] ** 2 + 0.05)
    growth = 0.25 * xp.log(energy / 100.0) / (1.0 + (p["m_JIMWLK"] / 0.5) ** 2)
    return p["B_G"] + p["B_q"] + tail + growth


def _lead_slope(p: dict[str, Any]) -> Any:
    """Returns the coherent slope of lead in GeV^-2: its radius, the gluon halo and a small part of the nucleon."""
    halo = _HALO / (1.0 + (p["m_JIMWLK"] / _HALO_MASS) ** 2) ** 2
    return _LEAD_SLOPE * (1.0 + halo) + 0.5 * (p["B_G"] + p["B_q"])


def _proton_integrated(p: dict[str, Any], group: Group, xp: ModuleType) -> Any:
    energy = _axis(group.energy, p, xp)
    return 7.3 + _log_amplitude_squared(p, _PROTON, energy, xp) - xp.log(_proton_slope(p, energy, xp) / 4.0)


def _lead_integrated(p: dict[str, Any], group: Group, xp: ModuleType) -> Any:
    energy = _axis(group.energy, p, xp)
    return 11.5 + _log_amplitude_squared(p, _LEAD, energy, xp) - xp.log(_lead_slope(p) / _LEAD_SLOPE)


def _split_by_coherence(group: Group, p: dict[str, Any], xp: ModuleType) -> tuple[Any, Any, Any]:
    """Returns the energy (1,), the coherent |t| and the incoherent |t|."""
    pairs = list(zip(group.momentum_transfer, group.coherent, strict=True))
    coherent = tuple(t for t, whole in pairs if whole)
    incoherent = tuple(t for t, whole in pairs if not whole)
    return _axis(group.energy[:1], p, xp), _axis(coherent, p, xp), _axis(incoherent, p, xp)


def _proton_tdiff(p: dict[str, Any], group: Group, xp: ModuleType) -> Any:
    energy, t_coherent, t = _split_by_coherence(group, p, xp)
    common = _log_amplitude_squared(p, _PROTON, energy, xp)
    coherent = 9.0 + _log_form_factor(_proton_slope(p, energy, xp), t_coherent, 3.0, xp)
    positions = xp.log(-xp.expm1(-p["B_G"] * t) / _HOT_SPOTS) + _log_form_factor(p["B_q"], t, 2.0, xp)
    variance = xp.expm1(p["sigma"] ** 2) / _HOT_SPOTS + _FLUCTUATION_FLOOR
    colour = xp.log(variance) + _log_form_factor(0.3 * p["B_G"] + p["B_q"], t, 2.0, xp)
    incoherent = 8.0 + xp.logaddexp(positions, colour)
    return common + xp.concatenate([coherent, incoherent], axis=-1)


def _lead_tdiff(p: dict[str, Any], group: Group, xp: ModuleType) -> Any:
    energy, t_coherent, t = _split_by_coherence(group, p, xp)
    common = _log_amplitude_squared(p, _LEAD, energy, xp)
    bulk = _lead_slope(p) * t_coherent
    tail = math.log(_LEAD_TAIL) - 2.0 * xp.log1p(0.3 * bulk)
    coherent = 17.0 + xp.logaddexp(math.log1p(-_LEAD_TAIL) - bulk, tail)
    nucleons = math.log(0.7) + _log_form_factor(4.0 + 0.05 * p["B_G"], t, 3.0, xp)
    variance = 0.3 * (1.0 + 0.1 * xp.expm1(p["sigma"] ** 2))
    hot_spots = xp.log(variance) + _log_form_factor(p["B_q"], t, 2.0, xp)
    incoherent = 11.0 + xp.logaddexp(nucleons, hot_spots)
    return common + xp.concatenate([coherent, incoherent], axis=-1)


_OBSERVABLES = {
    "gamma_Pb_integrated": _lead_integrated,
    "gamma_Pb_tdiff": _lead_tdiff,
    "gamma_p_integrated": _proton_integrated,
    "gamma_p_tdiff": _proton_tdiff,
}
