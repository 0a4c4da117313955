"""The command line: `flowprior demo | fit | scan | check | info | sample | export | plot | report`, and its options.

The commands themselves are in commands.py, which is loaded only when one is run. Help, `info` and `export` therefore
work without JAX.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ._util.version import __version__
from .hosts.export import HOSTS, export_prior
from .priors.model_card import HEADLINE, card_json, card_text
from .priors.prior_file import read_prior


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its status: 0, 1 if a prior or analysis fails, 2 for bad input, 130 if interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args([f" {word}" if _is_negative_number(word) else word for word in arguments])
    try:
        if options.command == "info":
            return _info(options)
        if options.command == "export":
            return _export(options)
        return getattr(import_module(".commands", __package__), options.command)(options)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"flowprior {options.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"flowprior {options.command}: interrupted", file=sys.stderr)
        return 130


def _is_negative_number(word: str) -> bool:
    """Returns whether a word is a negative number, such as -inf or -1e-3, which argparse would take for an option."""
    try:
        return word.startswith("-") and float(word) <= 0.0
    except ValueError:
        return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flowprior", description="Use the posterior of one analysis as the prior of the next."
    )
    parser.add_argument("--version", action="version", version=f"flowprior {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser("demo", help="run the two-stage analysis and the joint fit on a closed-form stand-in")
    demo.add_argument(
        "-o", "--output", type=Path, default=Path("demo_output"), help="output folder (default: demo_output)"
    )
    demo.add_argument("--quick", action="store_true", help="fewer samples, without emcee: under two minutes")
    _add_run_options(demo)

    fit = commands.add_parser("fit", help="train a prior on a chain")
    _add_chain_options(fit)
    fit.add_argument(
        "-o", "--output", type=Path, default=Path("prior.safetensors"), help="prior file (default: prior.safetensors)"
    )
    fit.add_argument("--picture", type=Path, help="corner plot of chain and flow (default: next to the output, .png)")
    fit.add_argument("--no-picture", action="store_true", help="do not draw a corner plot")
    for name, type_, text in (
        ("layers", int, "pairs of couplings in each flow"),
        ("max-steps", int, "maximum number of training steps"),
        ("batch-size", int, "rows per step"),
        ("learning-rate", float, "peak learning rate"),
    ):
        fit.add_argument(f"--{name}", type=type_, help=f"{text} (default: chosen for the chain)")
    fit.add_argument(
        "--log-prob",
        choices=("check", "trust", "ignore"),
        default="check",
        help="train on the chain's log density if held-out rows agree, always, or never (default: %(default)s)",
    )
    _add_metadata_options(fit)
    _add_run_options(fit)

    scan = commands.add_parser("scan", help="compare a grid of settings and train a prior with the best")
    _add_chain_options(scan)
    scan.add_argument(
        "--grid",
        default="quick",
        help="quick, paper, or a JSON file that maps field names to lists (default: %(default)s)",
    )
    scanned: dict[str, Any] = {"layers": int, "batch-size": int, "learning-rate": float, "loss": str}
    for name, type_ in scanned.items():
        scan.add_argument(f"--{name}", type=type_, nargs="+", help="values to try instead of those in the grid")
    scan.add_argument("--rows", type=int, nargs="+", help="number of rows that candidates are trained on, per rung")
    scan.add_argument(
        "--finalists", type=int, default=4, help="maximum number of candidates trained in full (default: %(default)s)"
    )
    scan.add_argument("--folder", type=Path, help="folder for the outcomes; after a kill the same command continues")
    scan.add_argument("--workers", type=int, default=1, help="number of processes (default: %(default)s)")
    scan.add_argument("--csv", type=Path, help="write a table of all candidates to this CSV file")
    scan.add_argument(
        "-o", "--output", type=Path, default=Path("best.safetensors"), help="prior file (default: best.safetensors)"
    )
    _add_metadata_options(scan)
    _add_run_options(scan)

    check = commands.add_parser("check", help="check a prior on a chain that was not used to train it")
    check.add_argument("prior", type=Path, help="a prior file")
    _add_chain_options(check)
    check.add_argument("--json", action="store_true", help="print the report as JSON")
    check.add_argument("--picture", type=Path, help="plot the report to this file (default: no plot)")
    _add_run_options(check)

    info = commands.add_parser("info", help="show the model card of a prior file")
    info.add_argument("prior", type=Path, help="a prior file")
    info.add_argument("--json", action="store_true", help="print everything as JSON")
    info.add_argument("--picture", type=Path, help="plot the report in the prior file to this file")

    sample = commands.add_parser("sample", help="draw samples from a prior")
    sample.add_argument("prior", type=Path, help="a prior file")
    sample.add_argument("-n", type=int, default=10_000, help="number of draws (default: %(default)s)")
    sample.add_argument(
        "-o", "--output", type=Path, default=Path("draws.npz"), help=".npz, .csv or .parquet file (default: draws.npz)"
    )
    _add_run_options(sample)

    combine = commands.add_parser(
        "combine", help="multiply posteriors that share parameters; exit status 1 if it fails"
    )
    combine.add_argument("sources", nargs="+", type=Path, help="two or more chains or prior files (.safetensors)")
    combine.add_argument(
        "--prior", required=True, type=Path, help='what all analyses assumed: a prior file, or "flat" within the bounds'
    )
    _add_bounds(combine, "bounds of the flat prior of a parameter, in all analyses (default: its own in each)")
    combine.add_argument(
        "--splits",
        type=int,
        default=1,
        help="random splits of each chain; flows of the halves give the errors due to rows (default: %(default)s)",
    )
    combine.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("combined.safetensors"),
        help="prior file; draws go next to it, as .npz (default: combined.safetensors)",
    )
    _add_metadata_options(combine)
    _add_run_options(combine)

    export = commands.add_parser("export", help="write a program that uses a prior in another framework")
    export.add_argument("prior", type=Path, help="a prior file")
    export.add_argument("--to", required=True, choices=HOSTS, help="the framework")
    export.add_argument("-o", "--output", type=Path, help="the program (default: next to the prior)")
    export.add_argument("--force", action="store_true", help="replace the program if it is there")

    plot = commands.add_parser("plot", help="make a corner plot of chains and priors")
    plot.add_argument("sources", nargs="+", type=Path, help="chains, and prior files (.safetensors)")
    plot.add_argument("-o", "--output", type=Path, default=Path("corner.png"), help="plot file (default: corner.png)")
    _add_run_options(plot)

    report = commands.add_parser("report", help="report a staged analysis in one HTML file; exit status 1 if it fails")
    report.add_argument("folder", type=Path, help="folder that run_stages(folder=...) wrote")
    report.add_argument("-o", "--output", type=Path, help="HTML file (default: report.html in the folder)")
    report.add_argument("--title", default="Staged analysis", help="heading of the report (default: %(default)s)")
    _add_run_options(report)
    return parser


def _add_chain_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("chain", type=Path, help="a chain: npz, csv, GetDist root, NetCDF, ... (see read_chain)")
    parser.add_argument("--parameters", metavar="A,B,...", help="use only these columns, in this order (default: all)")
    _add_bounds(parser, "bounds of a parameter; -inf or inf for none (default: those in the file, else unbounded)")


def _add_bounds(parser: argparse.ArgumentParser, words: str) -> None:
    limits = ("NAME", "LOW", "HIGH")
    parser.add_argument("--bounds", nargs=3, action="append", default=[], metavar=limits, help=words)


def _add_metadata_options(parser: argparse.ArgumentParser) -> None:
    for name in HEADLINE:
        parser.add_argument(f"--{name}", help="stored in the file and shown on its model card")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=_seed, default=0, help="seed of the random key (default: %(default)s)")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress bars")


def _seed(word: str) -> int:
    if not 0 <= int(word) < 2**32:
        raise argparse.ArgumentTypeError(f"expected an integer from 0 to 2**32 - 1; got {word.strip()}")
    return int(word)


def _info(options: argparse.Namespace) -> int:
    stored = read_prior(options.prior)
    print(json.dumps(card_json(stored), indent=2) if options.json else card_text(stored))
    if options.picture:
        import_module(".commands", __package__).picture(options)
    return 0


def _export(options: argparse.Namespace) -> int:
    print(f"wrote {export_prior(options.prior, options.to, options.output, force=options.force)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
