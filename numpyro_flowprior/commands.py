"""The commands of the command line; each is little more than one call of the package. cli.py parses the options."""

from __future__ import annotations

import csv
import json
import sys
from argparse import Namespace
from pathlib import Path

import jax
import numpy as np

from .chains.chain import Chain
from .chains.parameters import ParameterSpace
from .diagnostics.quality import quality_report
from .diagnostics.report import QualityReport
from .examples.demo import FULL, QUICK, run_demo
from .flows.config import FlowConfig
from .formats.read import read_chain
from .formats.write import require_writable, write_chain
from .plots.corner import plot_corner
from .plots.quality import plot_quality
from .priors.box import UniformPrior
from .priors.flow_prior import FlowPrior
from .priors.model_card import HEADLINE
from .stages.combine import combine as combine_posteriors
from .stages.combine import shared_space
from .stages.folder import last_written, load_stages
from .stages.html import write_report
from .training.config import TrainConfig
from .training.fit import FlowFit, fit_flow
from .training.grid import read_grid
from .training.pool import process_pool
from .training.scan import scan_flows
from .training.scan_result import ScanResult


def _require_folder(*paths: Path) -> None:
    """Raises FileNotFoundError if the folder of an output does not exist, before any work is done."""
    for path in paths:
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist. Make it first.")


def _read(options: Namespace) -> Chain:
    chain = read_chain(options.chain)
    if options.parameters:
        chain = chain.select([name.strip() for name in options.parameters.split(",")])
    return chain.replace(space=_bounded(chain.space, options.bounds))


def _bounded(space: ParameterSpace, asked: list[tuple[str, str, str]]) -> ParameterSpace:
    """Returns a space with the bounds (name, low, high) that were asked for."""
    bounds = space.bounds
    for name, low, high in asked:
        bounds[space.index(name)] = float(low), float(high)
    return ParameterSpace(space.names, bounds[:, 0], bounds[:, 1], units=space.units, labels=space.labels)


def demo(options: Namespace) -> int:
    """Runs the demo, writes its results into a folder and prints a summary."""
    size = QUICK if options.quick else FULL
    print(run_demo(options.output, size, seed=options.seed, progress=not options.quiet))
    return 0


def fit(options: Namespace) -> int:
    """Trains a prior on a chain, prints its report, saves it and plots it with the chain; status 1 if it fails."""
    picture = options.picture or options.output.with_suffix(".png")
    _require_folder(options.output, picture)
    chain = _read(options)
    config = None if options.layers is None else FlowConfig(layers=options.layers)
    asked = {name: getattr(options, name) for name in ("max_steps", "batch_size", "learning_rate")}
    asked = {name: value for name, value in asked.items() if value is not None}
    train = TrainConfig(**asked) if asked else None
    key_fit, key_draws = jax.random.split(jax.random.key(options.seed))
    trust = {"check": None, "trust": True, "ignore": False}[options.log_prob]
    fit = fit_flow(key_fit, chain, config, train, trust_log_prob=trust, progress=not options.quiet)
    status = _save_fit(fit, options)
    if not options.no_picture:
        _save_corner(picture, {"chain": chain, "flow": _draws(fit.prior, key_draws, 100_000)})
    return status


def scan(options: Namespace) -> int:
    """Compares a grid of settings, prints the table, trains a prior with the best settings and saves it."""
    _require_folder(options.output, *([options.csv] if options.csv else []))
    chain, grid = _read(options), read_grid(options.grid)
    asked = {name: getattr(options, name) for name in ("layers", "batch_size", "learning_rate", "loss")}
    grid = {**grid, **{name: values for name, values in asked.items() if values is not None}}
    budget = {} if options.rows is None else {"rows": options.rows}
    key_scan, key_fit = jax.random.split(jax.random.key(options.seed))
    with process_pool(options.workers) as executor:
        found = scan_flows(
            key_scan,
            chain,
            grid,
            finalists=options.finalists,
            folder=options.folder,
            executor=executor,
            progress=not options.quiet,
            **budget,
        )
    print(found)
    if options.csv:
        _write_table(options.csv, found)
    if found.interrupted:
        raise KeyboardInterrupt
    fit = fit_flow(key_fit, chain, *found.best, progress=not options.quiet)
    return _save_fit(fit, options)


def _save_fit(fit: FlowFit, options: Namespace) -> int:
    """Prints the report, saves the prior and returns the exit status."""
    given = {name: getattr(options, name) for name in HEADLINE}
    metadata = {name: words for name, words in given.items() if words is not None}
    print(fit.report)
    print(f"wrote {fit.prior.save(options.output, metadata=metadata)}")
    return _status(fit.report)


def _status(report: QualityReport) -> int:
    return 0 if report.verdict != "fail" else 1


def _write_table(path: Path, found: ScanResult) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, found.table[0])
        writer.writeheader()
        writer.writerows(found.table)
    print(f"wrote {path}")


def check(options: Namespace) -> int:
    """Checks a prior on another chain and prints the report; status 1 if it fails."""
    if options.picture:
        _require_folder(options.picture)
    prior = FlowPrior.load(options.prior)
    report = quality_report(jax.random.key(options.seed), prior, _read(options))
    print(json.dumps(report.to_json(), indent=2) if options.json else report)
    if options.picture:
        plot_quality(report, labels=prior.space.labels).savefig(options.picture, dpi=110)
        print(f"wrote {options.picture}", file=sys.stderr if options.json else sys.stdout)
    return _status(report)


def picture(options: Namespace) -> None:
    """Plots the report in a prior file."""
    _require_folder(options.picture)
    plot_quality(FlowPrior.load(options.prior)).savefig(options.picture, dpi=110)
    print(f"wrote {options.picture}", file=sys.stderr if options.json else sys.stdout)


def combine(options: Namespace) -> int:
    """Combines posteriors, prints the result and its guards, saves draws and prior; status 1 if it fails."""
    _require_folder(options.output)
    draws = options.output.with_suffix(".npz")
    given: dict[str, Chain | FlowPrior] = {}
    for path in options.sources:
        if path.stem in given:
            raise ValueError(f"{path}: expected file names that differ; got {path.stem!r} twice. Rename one.")
        given[path.stem] = FlowPrior.load(path) if path.suffix == ".safetensors" else read_chain(path)
    spaces = {name: one.space for name, one in given.items()}
    priors: dict[str, UniformPrior] = {}
    if str(options.prior) == "flat":
        shared = shared_space(spaces)
        prior = UniformPrior(_bounded(shared, options.bounds))
        own = {name: _bounded(space.select(shared.names), options.bounds) for name, space in spaces.items()}
        priors = {name: UniformPrior(one) for name, one in own.items() if (one.bounds != prior.space.bounds).any()}
    elif options.bounds:
        raise ValueError("--bounds: expected with --prior flat alone; a prior file has its own bounds.")
    else:
        prior = FlowPrior.load(options.prior)
    key_combine, key_fit = jax.random.split(jax.random.key(options.seed))
    found = combine_posteriors(
        key_combine, given, prior=prior, priors=priors, splits=options.splits, progress=not options.quiet
    )
    print(found)
    print(f"wrote {write_chain(draws, found.chain)}: {found.chain.n} draws")
    status = _save_fit(found.fit(key_fit, progress=not options.quiet), options)
    return 1 if found.verdict == "fail" else status


def sample(options: Namespace) -> int:
    """Writes draws from a prior, with their log density."""
    _require_folder(options.output)
    require_writable(options.output)
    prior = FlowPrior.load(options.prior)
    draws = _draws(prior, jax.random.key(options.seed), options.n)
    with jax.enable_x64(True):
        log_prob = np.asarray(jax.jit(prior.log_prob)(draws.samples))
    print(f"wrote {write_chain(options.output, draws.replace(log_prob=log_prob))}: {draws.n} draws")
    return 0


def plot(options: Namespace) -> int:
    """Draws chains and priors into one corner plot."""
    _require_folder(options.output)
    chains: dict[str, Chain] = {}
    for j, path in enumerate(options.sources):
        key = jax.random.fold_in(jax.random.key(options.seed), j)
        is_prior = path.suffix == ".safetensors"
        name = path.name if path.name not in chains else str(path)
        if name in chains:
            raise ValueError(f"{path}: given twice. Give each chain or prior once.")
        chains[name] = _draws(FlowPrior.load(path), key, 100_000) if is_prior else read_chain(path)
    _save_corner(options.output, chains)
    return 0


def report(options: Namespace) -> int:
    """Writes the report of a staged analysis and prints a summary; status 1 if the analysis fails."""
    output = options.output or options.folder / "report.html"
    _require_folder(output)
    analysis = load_stages(options.folder)
    print(analysis)
    date = last_written(options.folder).strftime("%d %B %Y")
    key = jax.random.key(options.seed)
    print(f"wrote {write_report(analysis, output, title=options.title, date=date, key=key)}")
    return 0 if analysis.verdict != "fail" else 1


def _draws(prior: FlowPrior, key: jax.Array, n: int) -> Chain:
    if n < 1:
        raise ValueError(f"-n: expected at least one draw; got {n}.")
    with jax.enable_x64(True):
        return Chain(np.asarray(jax.jit(lambda k: prior.sample(k, (n,)))(key)), prior.space)


def _save_corner(path: Path, chains: dict[str, Chain]) -> None:
    plot_corner(chains).savefig(path, dpi=110)
    print(f"wrote {path}")
