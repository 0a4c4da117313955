"""The posterior of one analysis as the prior of the next.

A chain goes in, a normalizing flow learns its density, and a NumPyro distribution comes out:

    chain = read_chain("stage1.npz")
    prior = fit_flow(jax.random.key(0), chain).prior
    theta = numpyro.sample("theta", prior)

Importing the package changes nothing global. Optional dependencies (pocoMC, emcee, scikit-learn, ArviZ, matplotlib,
h5py, pyarrow) are imported when they are first needed.
"""

from .box import BroadPrior, UniformPrior
from .chains.chain import Chain
from .chains.inference_data import from_arviz, to_arviz
from .chains.parameters import ParameterSpace
from .chains.readers import read_chain, write_chain_npz
from .compose import RobustPrior, TemperedPrior, robustify, temper
from .conditional import ConditionalPrior
from .diagnostics.comparison import Comparison, compare
from .diagnostics.divergences import MarginalKL, marginal_kl
from .diagnostics.quality import quality_report
from .diagnostics.report import QualityReport
from .emulators.emulator import GPEmulator
from .emulators.gaussian_process import Prediction
from .emulators.likelihood import EmulatorLikelihood
from .flows.config import FlowConfig
from .latent import LatentReparam
from .moments import MonteCarloSummary
from .plots.corner import plot_corner
from .plots.quality import plot_quality
from .prior import FlowPrior
from .sampling.density import ModelDensity
from .sampling.emcee import sample_emcee
from .sampling.pocomc import sample_pocomc
from .storage import FileFormatError
from .training.config import TrainConfig
from .training.fit import FlowFit, fit_flow
from .training.grid import PAPER_GRID
from .training.marginal import fit_marginal
from .training.scan import ScanResult, scan_flows

__version__ = "0.1.0"

__all__ = [
    "PAPER_GRID",
    "BroadPrior",
    "Chain",
    "Comparison",
    "ConditionalPrior",
    "EmulatorLikelihood",
    "FileFormatError",
    "FlowConfig",
    "FlowFit",
    "FlowPrior",
    "GPEmulator",
    "LatentReparam",
    "MarginalKL",
    "ModelDensity",
    "MonteCarloSummary",
    "ParameterSpace",
    "Prediction",
    "QualityReport",
    "RobustPrior",
    "ScanResult",
    "TemperedPrior",
    "TrainConfig",
    "UniformPrior",
    "compare",
    "fit_flow",
    "fit_marginal",
    "from_arviz",
    "marginal_kl",
    "plot_corner",
    "plot_quality",
    "quality_report",
    "read_chain",
    "robustify",
    "sample_emcee",
    "sample_pocomc",
    "scan_flows",
    "temper",
    "to_arviz",
    "write_chain_npz",
]
