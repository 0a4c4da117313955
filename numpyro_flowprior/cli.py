"""The command line: `flowprior demo | fit | scan | check | info | sample | plot`. Thin: every command is one call."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from . import __version__
from .chains.chain import Chain
from .chains.parameters import ParameterSpace
from .chains.readers import read_chain, write_chain_npz
from .demo import FULL, QUICK, run_demo
from .diagnostics.quality import quality_report
from .diagnostics.report import QualityReport
from .flows.config import FlowConfig
from .model_card import card_json, card_text
from .plots.corner import plot_corner
from .plots.quality import plot_quality
from .prior import FlowPrior
from .prior_file import read_prior
from .training.config import TrainConfig
from .training.fit import FlowFit, fit_flow
from .training.grid import read_grid
from .training.pool import process_pool
from .training.scan import scan_flows
from .training.scan_result import ScanResult


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status: 0, 1 for a prior that fails its check, 2 for bad input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args([f" {word}" if _is_negative_number(word) else word for word in arguments])
    try:
        return options.run(options)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"flowprior {options.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"flowprior {options.command}: interrupted", file=sys.stderr)
        return 130


def _is_negative_number(word: str) -> bool:
    """Returns whether argparse would take a number, such as -inf or -1e-3, for an option."""
    try:
        return word.startswith("-") and float(word) <= 0.0
    except ValueError:
        return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flowprior", description="The posterior of one analysis as the prior of the next."
    )
    parser.add_argument("--version", action="version", version=f"flowprior {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser("demo", help="the two-stage analysis on a closed-form stand-in, beside the joint fit")
    demo.add_argument("-o", "--output", type=Path, default=Path("demo_output"), help="folder (default: demo_output)")
    demo.add_argument("--quick", action="store_true", help="fewer samples: under two minutes")
    _add_run_options(demo, _demo)

    fit = commands.add_parser("fit", help="train a prior on a chain")
    _add_chain_options(fit)
    fit.add_argument("-o", "--output", type=Path, default=Path("prior.safetensors"), help="default: prior.safetensors")
    fit.add_argument("--picture", type=Path, help="corner plot of chain and flow (default: beside the output, .png)")
    fit.add_argument("--no-picture", action="store_true", help="draw none")
    for name, type_, text in (
        ("layers", int, "pairs of couplings in one flow"),
        ("max-steps", int, "of training"),
        ("batch-size", int, "rows per step"),
        ("learning-rate", float, "peak"),
    ):
        fit.add_argument(f"--{name}", type=type_, help=f"{text} (default: what suits the chain)")
    _add_run_options(fit, _fit)

    scan = commands.add_parser("scan", help="try a grid of settings, train a prior with the best")
    _add_chain_options(scan)
    scan.add_argument(
        "--grid", default="quick", help="quick, paper, or a JSON file of lists by field name (default: %(default)s)"
    )
    scanned: dict[str, Any] = {"layers": int, "batch-size": int, "learning-rate": float, "loss": str}
    for name, type_ in scanned.items():
        scan.add_argument(f"--{name}", type=type_, nargs="+", help="values to try, instead of the grid's")
    scan.add_argument("--rows", type=int, nargs="+", help="rows that candidates are trained on, rung by rung")
    scan.add_argument("--finalists", type=int, default=4, help="candidates trained in full (default: %(default)s)")
    scan.add_argument("--folder", type=Path, help="keeps what is done: after a kill the same command goes on")
    scan.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    scan.add_argument("--csv", type=Path, help="table of all candidates")
    scan.add_argument("-o", "--output", type=Path, default=Path("best.safetensors"), help="default: best.safetensors")
    _add_run_options(scan, _scan)

    check = commands.add_parser("check", help="judge a prior on a chain that its training did not see")
    check.add_argument("prior", type=Path, help="a prior file")
    _add_chain_options(check)
    check.add_argument("--json", action="store_true", help="print the report as JSON")
    check.add_argument("--picture", type=Path, help="draw the report into this file (default: no picture)")
    _add_run_options(check, _check)

    info = commands.add_parser("info", help="the model card of a prior file")
    info.add_argument("prior", type=Path, help="a prior file")
    info.add_argument("--json", action="store_true", help="print everything as JSON")
    info.set_defaults(run=_info)

    sample = commands.add_parser("sample", help="draw from a prior")
    sample.add_argument("prior", type=Path, help="a prior file")
    sample.add_argument("-n", type=int, default=10_000, help="number of draws (default: %(default)s)")
    sample.add_argument("-o", "--output", type=Path, default=Path("draws.npz"), help="npz file (default: draws.npz)")
    _add_run_options(sample, _sample)

    plot = commands.add_parser("plot", help="corner plot of chains and priors")
    plot.add_argument("sources", nargs="+", type=Path, help="chain files (npz, csv) and prior files (safetensors)")
    plot.add_argument("-o", "--output", type=Path, default=Path("corner.png"), help="default: corner.png")
    _add_run_options(plot, _plot)
    return parser


def _add_chain_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("chain", type=Path, help="npz or csv file of draws")
    parser.add_argument("--parameters", metavar="A,B,...", help="only these columns, in this order (default: all)")
    parser.add_argument(
        "--bounds",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "LOW", "HIGH"),
        help="support of a parameter; -inf and inf for none (default: the file's, else unbounded)",
    )


def _add_run_options(parser: argparse.ArgumentParser, run: Any) -> None:
    parser.add_argument("--seed", type=_seed, default=0, help="of the random key (default: %(default)s)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
    parser.set_defaults(run=run)


def _seed(word: str) -> int:
    if not 0 <= int(word) < 2**32:
        raise argparse.ArgumentTypeError(f"expected an integer from 0 to 2**32 - 1; got {word.strip()}")
    return int(word)


def _require_folder(*paths: Path) -> None:
    """Raises before the work is done, not after, if there is no folder to write into."""
    for path in paths:
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist. Make it first.")


def _read(options: argparse.Namespace) -> Chain:
    chain = read_chain(options.chain)
    if options.parameters:
        chain = chain.select([name.strip() for name in options.parameters.split(",")])
    bounds = chain.space.bounds
    for name, low, high in options.bounds:
        bounds[chain.space.index(name)] = float(low), float(high)
    space = chain.space
    space = ParameterSpace(space.names, bounds[:, 0], bounds[:, 1], units=space.units, labels=space.labels)
    return chain.replace(space=space)


def _demo(options: argparse.Namespace) -> int:
    size = QUICK if options.quick else FULL
    print(run_demo(options.output, size, seed=options.seed, progress=not options.quiet))
    return 0


def _fit(options: argparse.Namespace) -> int:
    picture = options.picture or options.output.with_suffix(".png")
    _require_folder(options.output, picture)
    chain = _read(options)
    config = None if options.layers is None else FlowConfig(layers=options.layers)
    asked = {name: getattr(options, name) for name in ("max_steps", "batch_size", "learning_rate")}
    asked = {name: value for name, value in asked.items() if value is not None}
    train = TrainConfig(**asked) if asked else None
    key_fit, key_draws = jax.random.split(jax.random.key(options.seed))
    fit = fit_flow(key_fit, chain, config, train, progress=not options.quiet)
    status = _save_fit(fit, options.output)
    if not options.no_picture:
        _save_corner(picture, {"chain": chain, "flow": _draws(fit.prior, key_draws, 100_000)})
    return status


def _scan(options: argparse.Namespace) -> int:
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
    return _save_fit(fit, options.output)


def _save_fit(fit: FlowFit, path: Path) -> int:
    """Prints the report, saves the prior and returns the exit status."""
    print(fit.report)
    print(f"wrote {fit.prior.save(path)}")
    return _status(fit.report)


def _status(report: QualityReport) -> int:
    return 0 if report.verdict != "fail" else 1


def _write_table(path: Path, found: ScanResult) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, found.table[0])
        writer.writeheader()
        writer.writerows(found.table)
    print(f"wrote {path}")


def _check(options: argparse.Namespace) -> int:
    if options.picture:
        _require_folder(options.picture)
    prior = FlowPrior.load(options.prior)
    report = quality_report(jax.random.key(options.seed), prior, _read(options))
    print(json.dumps(report.to_json(), indent=2) if options.json else report)
    if options.picture:
        plot_quality(report, labels=prior.space.labels).savefig(options.picture, dpi=110)
        print(f"wrote {options.picture}", file=sys.stderr if options.json else sys.stdout)
    return _status(report)


def _info(options: argparse.Namespace) -> int:
    stored = read_prior(options.prior)
    print(json.dumps(card_json(stored), indent=2) if options.json else card_text(stored))
    return 0


def _sample(options: argparse.Namespace) -> int:
    _require_folder(options.output)
    if options.output.suffix != ".npz":
        raise ValueError(f"{options.output}: expected a name ending in .npz, the format that is written.")
    prior = FlowPrior.load(options.prior)
    draws = _draws(prior, jax.random.key(options.seed), options.n)
    with jax.enable_x64(True):
        log_prob = np.asarray(jax.jit(prior.log_prob)(draws.samples))
    print(f"wrote {write_chain_npz(options.output, draws.replace(log_prob=log_prob))}: {draws.n} draws")
    return 0


def _plot(options: argparse.Namespace) -> int:
    _require_folder(options.output)
    chains: dict[str, Chain] = {}
    for j, path in enumerate(options.sources):
        key = jax.random.fold_in(jax.random.key(options.seed), j)
        is_prior = path.suffix == ".safetensors"
        name = path.name if path.name not in chains else str(path)
        if name in chains:
            raise ValueError(f"{path}: given twice; each chain is drawn once.")
        chains[name] = _draws(FlowPrior.load(path), key, 100_000) if is_prior else read_chain(path)
    _save_corner(options.output, chains)
    return 0


def _draws(prior: FlowPrior, key: jax.Array, n: int) -> Chain:
    if n < 1:
        raise ValueError(f"-n: expected at least one draw; got {n}.")
    with jax.enable_x64(True):
        return Chain(np.asarray(jax.jit(lambda k: prior.sample(k, (n,)))(key)), prior.space)


def _save_corner(path: Path, chains: dict[str, Chain]) -> None:
    plot_corner(chains).savefig(path, dpi=110)
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
