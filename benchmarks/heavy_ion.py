"""Two heavy-ion systems in two stages and at once: is one's posterior, as a flow, a faithful prior for the other?

Au+Au at 200 GeV, then Pb+Pb at 2.76 TeV, and the reverse, by `run_stages`; beside it the one-shot fit of all 18
parameters, twice: how far two joint fits with different seeds are apart is the control. Each system has a normalisation
of its own; the first one's stays among the parameters of the second stage, so that stage one's density is known there
as a function: the flow learns it, tails included, and the guards can tell what the flow costs.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
import numpyro
from tables import kept, origin, table

import numpyro_flowprior as fp

FILES = {"AuAu": "hic_auau200.npz", "PbPb": "hic_pbpb2760.npz"}
DRAWN = 8  # parameters in the corner plot
FULL = {"n_total": 4096, "n_effective": 1024, "n_active": 512}
QUICK = {"n_total": 1024, "n_effective": 512, "n_active": 256}
EMULATORS = "system|runs x observables|components|R^2 median|R^2 lowest|68 %|95 %|rows|left out|fit [s]"
RUNS = "run|parameters|rows|effective draws|likelihood calls|iterations|seconds|log Z"
STAGED = "order|posterior|average KL, 75 bins|excess|largest shift [sigma]|log Z1 + log Z2 - log Z|guards"
PARAMETERS = "parameter|joint|Au+Au then Pb+Pb|Pb+Pb then Au+Au|shifts [sigma]|width ratios"


@dataclass(frozen=True)
class System:
    """One collision system: its emulator, measurements with their errors, and the table's row on the emulator."""

    emulator: fp.GPEmulator
    y: np.ndarray
    error: np.ndarray
    row: tuple[Any, ...]


def read_system(path: Path, label: str, components: int) -> System:
    """Returns a system with its emulator fitted and validated; `norm` becomes `norm_<label>`, one per system."""
    data = dict(np.load(path, allow_pickle=False))
    names = [f"norm_{label}" if name == "norm" else str(name) for name in data["names"]]
    labels = [name.replace("_over_s", "/s").replace("_in_GeV", "").replace("_", " ") for name in names]
    space, outputs = fp.ParameterSpace(names, *data["bounds"].T, labels=labels), data["y_names"].tolist()
    start = time.perf_counter()
    emulator = fp.GPEmulator.fit(data["X"], data["Y"], space, n_components=components, output_names=outputs)
    seconds = time.perf_counter() - start
    complete = np.isfinite(np.hstack([data["X_val"], data["Y_val"]])).all(axis=1)
    found = emulator.validate(data["X_val"][complete], data["Y_val"][complete])
    r2 = f"{np.median(found.r2):.4f}", f"{found.r2.min():.3f} ({outputs[np.argmin(found.r2)]})"
    coverage = f"{found.coverage_68.mean():.3f}", f"{found.coverage_95.mean():.3f}"
    size = f"{len(data['X'])} x {len(outputs)}"
    row = (label, size, components, *r2, *coverage, complete.sum(), (~complete).sum(), f"{seconds:.0f}")
    return System(emulator, data["y_exp"], data["y_err"], row)


def joint_likelihood(*systems: System) -> fp.EmulatorLikelihood:
    """Returns the likelihood of all measurements of some systems, in one distribution."""
    y, error = (np.concatenate([getattr(system, part) for system in systems]) for part in ("y", "error"))
    return fp.EmulatorLikelihood([system.emulator for system in systems], y, np.diag(error**2))


def model(prior: Any, own: fp.ParameterSpace | None, likelihood: fp.EmulatorLikelihood) -> None:
    """A stage, and the joint fit: a prior, flat ones on a system's own parameters, all measurements."""
    theta = prior.space.as_dict(numpyro.sample("theta", prior))
    for name, (low, high) in zip(own.names, own.bounds, strict=True) if own else ():
        theta[name] = numpyro.sample(name, numpyro.distributions.Uniform(low, high))
    numpyro.sample("y", likelihood(theta), obs=likelihood.observed)


def own_parameters(system: System, other: System) -> fp.ParameterSpace:
    """Returns the parameters that a system has and another lacks."""
    space = system.emulator.space
    return space.select([name for name in space.names if name not in other.emulator.space.names])


def run(
    systems: dict[str, System], folder: Path, *, quick: bool, seed: int
) -> tuple[dict[str, fp.StagedAnalysis], dict[str, fp.Chain]]:
    """Returns the staged analyses, in both orders, as sampled and reweighted, and two joint fits."""
    sizes = QUICK if quick else FULL
    first, second = systems.values()
    own = own_parameters(second, first)
    (names, lower, upper, labels) = (
        (*getattr(first.emulator.space, part), *getattr(own, part)) for part in ("names", "lower", "upper", "labels")
    )
    both = fp.UniformPrior(fp.ParameterSpace(names, lower, upper, labels=labels))
    likelihood = joint_likelihood(first, second)
    joint = {
        name: kept(
            folder / f"{name}.npz", lambda j=j: joint_fit(jax.random.key(seed + 100 + j), both, likelihood, sizes)
        )
        for j, name in enumerate(("joint", "joint, again"))
    }
    analyses = {}
    for label, order in {"AuAu, PbPb": (first, second), "PbPb, AuAu": (second, first)}.items():
        ahead, behind = (joint_likelihood(system) for system in order)
        one, two = label.split(", ")
        stages = [
            fp.Stage(one, model, (None, ahead)),
            fp.Stage(two, model, (own_parameters(order[1], order[0]), behind)),
        ]
        for psis in (False, True):
            analyses[f"{label}{', reweighted' if psis else ''}"] = fp.run_stages(
                jax.random.key(seed),
                stages,
                fp.UniformPrior(order[0].emulator.space),
                sampler_options=sizes,
                options=fp.StageOptions(psis=psis, override=True),
                folder=folder / label,
                progress=False,
            )
        print(analyses[label], flush=True)
    return analyses, joint


def joint_fit(key: jax.Array, prior: Any, likelihood: fp.EmulatorLikelihood, sizes: dict[str, int]) -> fp.Chain:
    """Returns the one-shot fit."""
    return fp.sample_pocomc(key, fp.ModelDensity(model, prior, None, likelihood), progress=False, **sizes)


def report(
    systems: dict[str, System], analyses: dict[str, fp.StagedAnalysis], joints: dict[str, fp.Chain], command: str
) -> str:
    """Returns the results as Markdown."""
    joint, again = joints.values()
    control = fp.compare(joint, again, modes={}, classify=False)
    runs = {"joint": joint, "joint, again": again}
    for analysis in (analyses["AuAu, PbPb"], analyses["PbPb, AuAu"]):
        one, two = analysis.chains.items()
        runs |= {f"{one[0]} first": one[1], f"{two[0]} second": two[1]}
    forward, reverse = (analyses[f"{label}, reweighted"].posterior for label in ("AuAu, PbPb", "PbPb, AuAu"))
    shown = [fp.compare(joint, chain) for chain in (forward, reverse)]
    marginals = (
        (
            name,
            *(moments(chain, name) for chain in (joint, forward, reverse)),
            ", ".join(f"{found.shift[j]:+.2f}" for found in shown),
            ", ".join(f"{found.width_ratio[j]:.2f}" for found in shown),
        )
        for j, name in enumerate(joint.names)
    )
    verdicts = [f"### {label}\n\n```\n{next(iter(a.guards.values()))}\n```\n" for label, a in analyses.items()]
    parts = [
        "# Heavy-ion calibration: Au+Au then Pb+Pb, and the reverse, against the joint fit\n",
        origin(command, "pocomc"),
        "## Emulators on the held-out design\n\nRows with NaN are left out. Coverage: mean over the observables.\n",
        table(EMULATORS, (system.row for system in systems.values())),
        f"## Runs: pocoMC, {', '.join(f'{name} {joint.info[name]}' for name in FULL)}\n",
        table(RUNS, ((name, *run_row(chain)) for name, chain in runs.items())),
        f"## Second stages against the joint fit, {joint.dim} parameters\n",
        "The floor is what finite draws alone give in histograms; the excess is what counts. Between the two joint "
        f"fits, which differ in their seed alone, it is {control.excess:+.4f} +- {control.excess_error:.4f}.\n",
        table(STAGED, (staged_row(label, analysis, joint) for label, analysis in analyses.items())),
        "Parameters, second stages reweighted:\n",
        table(PARAMETERS, marginals),
        "![corner plot](heavy_ion_corner.png)\n\n![specific viscosities](heavy_ion_viscosities.png)\n",
        "## What the guards say\n",
        *verdicts,
    ]
    return "\n".join(parts)


def staged_row(label: str, analysis: fp.StagedAnalysis, joint: fp.Chain) -> tuple[Any, ...]:
    """Returns how far a staged analysis ends from the joint fit, in the order of the table's columns."""
    posterior = analysis.posterior.select(joint.names)  # which has them in the order of the stages
    theirs = fp.marginal_kl(joint, posterior, "declared")  # the paper's bins
    found = fp.compare(joint, posterior, modes={}, classify=False)
    difference = (analysis.log_evidence or np.nan) - (joint.log_evidence or np.nan)
    error = np.hypot(analysis.log_evidence_error or np.nan, joint.log_evidence_error or np.nan)
    order, _, how = label.partition(", reweighted")
    return (
        order,
        "reweighted" if label.endswith("reweighted") else f"as sampled{how}",
        f"{theirs.average:.3f}",
        f"{found.excess:+.4f} +- {found.excess_error:.4f}",
        f"{found.shift[np.argmax(np.abs(found.shift))]:+.2f}",
        f"{difference:+.2f} +- {error:.2f}",
        next(iter(analysis.guards.values())).verdict,
    )


def run_row(chain: fp.Chain) -> tuple[Any, ...]:
    """Returns what a run cost and gave, in the order of the table's columns."""
    info, evidence = chain.info, f"{chain.log_evidence:.2f} +- {chain.log_evidence_error:.2f}"
    cost = info["calls"], info["iterations"], f"{info['seconds']:.0f}"
    return chain.dim, chain.n, f"{chain.effective_size:.0f}", *cost, evidence


def moments(chain: fp.Chain, name: str) -> str:
    """Returns a parameter's mean and standard deviation as text; a dash where the chain lacks it."""
    marginal = chain.select([name]) if name in chain.names else None
    return "-" if marginal is None else f"{marginal.mean()[0]:.3g} +- {np.sqrt(marginal.covariance()[0, 0]):.2g}"


def draw(analyses: dict[str, fp.StagedAnalysis], joint: fp.Chain, path: Path) -> None:
    """Draws the shared parameters that the joint fit constrains most, against their prior boxes."""
    first, second = analyses["AuAu, PbPb, reweighted"].chains.values()
    reverse = analyses["PbPb, AuAu, reweighted"].posterior
    shared = [name for name in first.names if name in joint.names and not name.startswith("norm")]
    width = np.sqrt(np.diagonal(joint.select(shared).covariance()))
    width = width / np.diff(joint.space.select(shared).bounds, axis=1)[:, 0]
    legends = {"joint fit": joint, "Au+Au": first, "Au+Au, then Pb+Pb": second, "Pb+Pb, then Au+Au": reverse}
    names = [shared[j] for j in np.sort(np.argsort(width)[:DRAWN])]
    drawn = {label: chain.select(shared) for label, chain in legends.items()}
    fp.plot_corner(drawn, names=names, full_range=True).savefig(path, dpi=75)


def viscosities(chain: fp.Chain, temperature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns specific shear and bulk viscosity, each (n, m), of a chain's rows at temperatures (m,) in GeV.

    Source: JETSCAPE, Phys. Rev. C 103, 054904 (2021): a kinked line, not below zero, and a skewed Cauchy peak.
    """

    def column(name: str) -> np.ndarray:
        return chain.samples[:, [chain.names.index(name)]]

    above = temperature - column("eta_over_s_T_kink_in_GeV")
    slopes = (column(f"eta_over_s_{side}_T_slope_in_GeV") for side in ("low", "high"))
    shear = column("eta_over_s_at_kink") + np.where(above < 0, *(slope * above for slope in slopes))
    above = temperature - column("zeta_over_s_T_peak_in_GeV")
    width = column("zeta_over_s_width_in_GeV") * (1.0 + column("zeta_over_s_lambda_asymm") * np.sign(above))
    return np.maximum(shear, 0.0), column("zeta_over_s_max") * width**2 / (width**2 + above**2)


def draw_viscosities(analyses: dict[str, fp.StagedAnalysis], joint: fp.Chain, path: Path) -> None:
    """Draws medians and 90 % bands of the viscosities under the prior, first and second stages, and the joint fit."""
    temperature = np.linspace(0.14, 0.35, 106)
    flat = np.random.default_rng(0).uniform(*joint.space.bounds.T, size=(10_000, joint.dim))
    first, second = analyses["AuAu, PbPb, reweighted"].chains.values()
    chains = {
        "prior": fp.Chain(flat, joint.space),
        "Au+Au": first,
        "joint fit": joint,
        "Au+Au, then Pb+Pb": second,
        "Pb+Pb, then Au+Au": analyses["PbPb, AuAu, reweighted"].posterior,
    }
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), sharex=True, layout="constrained")
    for number, (label, chain) in enumerate(chains.items()):
        colour = "0.6" if label == "prior" else f"C{number - 1}"
        equal = chain.resample(jax.random.key(0), 10_000)
        for axis, values in zip(axes, viscosities(equal, temperature), strict=True):
            low, middle, high = np.quantile(values, [0.05, 0.5, 0.95], axis=0)
            if label == "prior":
                axis.fill_between(1e3 * temperature, low, high, color=colour, alpha=0.25, lw=0, label=label)
                continue
            axis.plot(1e3 * temperature, middle, color=colour, label=label)
            axis.plot(1e3 * temperature, np.stack([low, high], axis=1), color=colour, ls="--", lw=1)
    for axis, name in zip(axes, (r"$\eta/s$", r"$\zeta/s$"), strict=True):
        axis.set(xlabel="temperature [MeV]", ylabel=name, xlim=1e3 * temperature[[0, -1]], ylim=(0, None))
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, title="median and 90 %", loc="outside upper center", ncols=5, frameon=False)
    figure.savefig(path, dpi=90)


def main() -> None:
    """Runs the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with hic_auau200.npz and hic_pbpb2760.npz")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for table and picture")
    parser.add_argument("--folder", type=Path, default=Path("heavy_ion_output"), help="keeps what is done")
    parser.add_argument("--quick", action="store_true", help="small samples, 5 components: for trying it out")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    systems = {label: read_system(args.data / file, label, 5 if args.quick else 10) for label, file in FILES.items()}
    args.folder.mkdir(parents=True, exist_ok=True)
    analyses, joints = run(systems, args.folder, quick=args.quick, seed=args.seed)
    options = " --quick" * args.quick + f" --seed {args.seed}" * (args.seed != 0)
    text = report(systems, analyses, joints, f"python benchmarks/heavy_ion.py --data ../shared/data{options}")
    (args.out / "heavy_ion.md").write_text(text)
    print(text)
    draw(analyses, joints["joint"], args.out / "heavy_ion_corner.png")
    draw_viscosities(analyses, joints["joint"], args.out / "heavy_ion_viscosities.png")


if __name__ == "__main__":
    main()
