"""The posterior of one analysis as the prior of the next.

A chain goes in, a normalizing flow learns its density, and a NumPyro distribution comes out:

    chain = read_chain("stage1.npz")
    prior = fit_flow(jax.random.key(0), chain).prior
    theta = numpyro.sample("theta", prior)

Importing the package changes no global state. A module is loaded when one of its names is first used, so `load_numpy`
does not need JAX. Optional dependencies (pocoMC, emcee, BlackJAX, scikit-learn, ArviZ, matplotlib, h5py, pyarrow) are
imported when they are first needed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._util.version import __version__ as __version__

if TYPE_CHECKING:  # for type checkers and editors; a test checks that the table below is the same
    from ._util.messages import ConvergenceWarning, FlowPriorError, FlowPriorWarning
    from ._util.storage import FileFormatError
    from .chains.chain import Chain
    from .chains.parameters import ParameterSpace
    from .diagnostics.comparison import Comparison, compare
    from .diagnostics.divergences import MarginalKL, marginal_kl
    from .diagnostics.importance import DensityReport
    from .diagnostics.quality import quality_report
    from .diagnostics.report import QualityReport
    from .emulators.design import design_points
    from .emulators.emulator import GPEmulator
    from .emulators.gaussian_process import Prediction
    from .emulators.likelihood import EmulatorLikelihood
    from .emulators.measurement import measurement_covariance
    from .emulators.validation import EmulatorValidation
    from .flows.config import FlowConfig
    from .formats.from_arviz import from_arviz
    from .formats.read import read_chain
    from .formats.to_arviz import to_arviz
    from .formats.write import write_chain
    from .likelihoods.call_log import Evaluations
    from .likelihoods.calls import ExternalError
    from .likelihoods.external import ExternalFailure, ExternalLikelihood
    from .likelihoods.joint_normal import conditional_normal, joint_normal
    from .likelihoods.learned import LearnedLikelihood
    from .models.latent import LatentReparam
    from .plots.comparison import plot_comparison
    from .plots.corner import plot_corner
    from .plots.emulator import plot_emulator
    from .plots.quality import plot_quality
    from .priors.box import BroadPrior, UniformPrior
    from .priors.composed import RobustPrior, TemperedPrior, robustify, temper
    from .priors.conditional import ConditionalPrior
    from .priors.flow_prior import FlowPrior
    from .priors.moments import MonteCarloSummary
    from .priors.numpy_prior import NumpyPrior, load_numpy
    from .sampling.blackjax import sample_blackjax
    from .sampling.density import ModelDensity
    from .sampling.dynesty import sample_dynesty
    from .sampling.emcee import sample_emcee
    from .sampling.evidence import evidence
    from .sampling.evidence_report import Evidence
    from .sampling.nautilus import sample_nautilus
    from .sampling.nuts import sample_nuts
    from .sampling.pocomc import sample_pocomc
    from .sampling.reweight import psis_reweight, reweight
    from .stages.analysis import StagedAnalysis
    from .stages.combine import Combined, combine
    from .stages.folder import load_stages
    from .stages.guards import Guards, check_stage
    from .stages.html import write_report
    from .stages.pictures import plot_guards, plot_stages
    from .stages.run import StageStopped, run_stages
    from .stages.stage import Stage, StageOptions
    from .stages.swap import swap_prior
    from .stages.tension import Tension, tension
    from .training.config import TrainConfig
    from .training.fit import FlowFit, fit_flow
    from .training.grid import PAPER_GRID
    from .training.live import LiveConfig
    from .training.marginal import fit_marginal
    from .training.scan import scan_flows
    from .training.scan_result import ScanResult

_HOMES = {
    "_util.messages": ("ConvergenceWarning", "FlowPriorError", "FlowPriorWarning"),
    "_util.storage": ("FileFormatError",),
    "chains.chain": ("Chain",),
    "chains.parameters": ("ParameterSpace",),
    "diagnostics.comparison": ("Comparison", "compare"),
    "diagnostics.divergences": ("MarginalKL", "marginal_kl"),
    "diagnostics.importance": ("DensityReport",),
    "diagnostics.quality": ("quality_report",),
    "diagnostics.report": ("QualityReport",),
    "emulators.design": ("design_points",),
    "emulators.emulator": ("GPEmulator",),
    "emulators.gaussian_process": ("Prediction",),
    "emulators.likelihood": ("EmulatorLikelihood",),
    "emulators.measurement": ("measurement_covariance",),
    "emulators.validation": ("EmulatorValidation",),
    "flows.config": ("FlowConfig",),
    "formats.from_arviz": ("from_arviz",),
    "formats.read": ("read_chain",),
    "formats.to_arviz": ("to_arviz",),
    "formats.write": ("write_chain",),
    "likelihoods.call_log": ("Evaluations",),
    "likelihoods.calls": ("ExternalError",),
    "likelihoods.external": ("ExternalFailure", "ExternalLikelihood"),
    "likelihoods.joint_normal": ("conditional_normal", "joint_normal"),
    "likelihoods.learned": ("LearnedLikelihood",),
    "models.latent": ("LatentReparam",),
    "plots.comparison": ("plot_comparison",),
    "plots.corner": ("plot_corner",),
    "plots.emulator": ("plot_emulator",),
    "plots.quality": ("plot_quality",),
    "priors.box": ("BroadPrior", "UniformPrior"),
    "priors.composed": ("RobustPrior", "TemperedPrior", "robustify", "temper"),
    "priors.conditional": ("ConditionalPrior",),
    "priors.flow_prior": ("FlowPrior",),
    "priors.moments": ("MonteCarloSummary",),
    "priors.numpy_prior": ("NumpyPrior", "load_numpy"),
    "sampling.blackjax": ("sample_blackjax",),
    "sampling.density": ("ModelDensity",),
    "sampling.dynesty": ("sample_dynesty",),
    "sampling.emcee": ("sample_emcee",),
    "sampling.evidence": ("evidence",),
    "sampling.evidence_report": ("Evidence",),
    "sampling.nautilus": ("sample_nautilus",),
    "sampling.nuts": ("sample_nuts",),
    "sampling.pocomc": ("sample_pocomc",),
    "sampling.reweight": ("psis_reweight", "reweight"),
    "stages.analysis": ("StagedAnalysis",),
    "stages.combine": ("Combined", "combine"),
    "stages.folder": ("load_stages",),
    "stages.guards": ("Guards", "check_stage"),
    "stages.html": ("write_report",),
    "stages.pictures": ("plot_guards", "plot_stages"),
    "stages.run": ("StageStopped", "run_stages"),
    "stages.stage": ("Stage", "StageOptions"),
    "stages.swap": ("swap_prior",),
    "stages.tension": ("Tension", "tension"),
    "training.config": ("TrainConfig",),
    "training.fit": ("FlowFit", "fit_flow"),
    "training.grid": ("PAPER_GRID",),
    "training.live": ("LiveConfig",),
    "training.marginal": ("fit_marginal",),
    "training.scan": ("scan_flows",),
    "training.scan_result": ("ScanResult",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "PAPER_GRID",
    "BroadPrior",
    "Chain",
    "Combined",
    "Comparison",
    "ConditionalPrior",
    "ConvergenceWarning",
    "DensityReport",
    "EmulatorLikelihood",
    "EmulatorValidation",
    "Evaluations",
    "Evidence",
    "ExternalError",
    "ExternalFailure",
    "ExternalLikelihood",
    "FileFormatError",
    "FlowConfig",
    "FlowFit",
    "FlowPrior",
    "FlowPriorError",
    "FlowPriorWarning",
    "GPEmulator",
    "Guards",
    "LatentReparam",
    "LearnedLikelihood",
    "LiveConfig",
    "MarginalKL",
    "ModelDensity",
    "MonteCarloSummary",
    "NumpyPrior",
    "ParameterSpace",
    "Prediction",
    "QualityReport",
    "RobustPrior",
    "ScanResult",
    "Stage",
    "StageOptions",
    "StageStopped",
    "StagedAnalysis",
    "TemperedPrior",
    "Tension",
    "TrainConfig",
    "UniformPrior",
    "check_stage",
    "combine",
    "compare",
    "conditional_normal",
    "design_points",
    "evidence",
    "fit_flow",
    "fit_marginal",
    "from_arviz",
    "joint_normal",
    "load_numpy",
    "load_stages",
    "marginal_kl",
    "measurement_covariance",
    "plot_comparison",
    "plot_corner",
    "plot_emulator",
    "plot_guards",
    "plot_quality",
    "plot_stages",
    "psis_reweight",
    "quality_report",
    "read_chain",
    "reweight",
    "robustify",
    "run_stages",
    "sample_blackjax",
    "sample_dynesty",
    "sample_emcee",
    "sample_nautilus",
    "sample_nuts",
    "sample_pocomc",
    "scan_flows",
    "swap_prior",
    "temper",
    "tension",
    "to_arviz",
    "write_chain",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Returns a public name from its module (PEP 562), and stores it here."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
