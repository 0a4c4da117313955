"""The folder of a staged analysis: what each stage leaves in it, and how it is read back.

analysis.json          the stages' names, in order; versions
01_<name>/settings.json   what the stage was run with; another run is refused
          run.safetensors     the sampler's checkpoint, where it has one
          chain.npz           what the sampler returned
          prior.safetensors   the flow learnt from it, with its quality report
          guards.json
          posterior.npz       the chain reweighted to the exact prior, if the last call asked for that; then
          prior_reweighted.safetensors, guards_reweighted.json   are the flow and the guards of it
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .._checks import plain_json, shorten
from ..chains.chain import Chain
from ..chains.readers import read_chain, write_chain_npz
from ..diagnostics.report import QualityReport
from ..prior import FlowPrior
from ..sampling.checkpoint import differing
from ..storage import FileFormatError, remove_leftovers, write_atomically
from .analysis import StagedAnalysis, StageResult
from .guards import Guards

SCHEMA = 1
ANALYSIS = "analysis.json"
_RECORDED = ("numpyro-flowprior", "jax", "numpyro", "distrax", "numpy")


class StageFolder:
    """The files of one stage; a file is there whole, or not at all."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoint = path / "run.safetensors"
        self.chain, self.posterior = path / "chain.npz", path / "posterior.npz"
        self.settings = path / "settings.json"

    def prior(self, *, reweighted: bool) -> Path:
        """Returns the file of the flow learnt from the chain, or from the reweighted one."""
        return self.path / f"prior{'_reweighted' * reweighted}.safetensors"

    def guards(self, *, reweighted: bool) -> Path:
        """Returns the file of the guards of the chain, or of the reweighted one."""
        return self.path / f"guards{'_reweighted' * reweighted}.json"

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Makes the folder, or raises ValueError if it is that of a stage with other settings (named)."""
        self.path.mkdir(exist_ok=True)
        made = [make(reweighted=which) for make in (self.prior, self.guards) for which in (False, True)]
        for file in (self.checkpoint, self.chain, self.posterior, self.settings, *made):
            remove_leftovers(file)
        if not self.settings.exists():
            write_json(self.settings, settings)
            return
        other = differing(read_json(self.settings), settings)
        if other:
            raise ValueError(
                f"run_stages: {self.path}: expected a stage run with the same {shorten(other)}; got another. Use "
                "another folder, or remove this one, and those of later stages, to run it anew."
            )

    def keep_posterior(self, chain: Chain | None) -> None:
        """Writes the reweighted chain; None removes that of an earlier call, which asked for it."""
        if chain is None:
            self.posterior.unlink(missing_ok=True)
        else:
            write_chain_npz(self.posterior, chain)

    def read(self, name: str) -> StageResult:
        """Returns what there is of the stage.

        Raises:
            FileNotFoundError: there is no chain.
        """
        reweighted = self.posterior.exists()
        chain = read_chain(self.posterior if reweighted else self.chain)
        prior, found = self.prior(reweighted=reweighted), self.guards(reweighted=reweighted)
        learned = FlowPrior.load(prior) if prior.exists() else None
        guards = Guards.from_json(read_json(found)) if found.exists() else None
        settings = read_json(self.settings) if self.settings.exists() else None
        return StageResult(name, chain, learned, None if learned is None else report_of(learned), guards, settings)


def report_of(prior: FlowPrior) -> QualityReport | None:
    """Returns the quality report that a prior carries."""
    return QualityReport.from_json(prior.info["report"]) if prior.info.get("report") else None


def begin_folder(folder: Any, names: Sequence[str]) -> list[StageFolder]:
    """Returns the folders of the stages, in a folder that is made if missing.

    Raises:
        ValueError: the folder holds an analysis that does not begin with these stages.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    record = {"schema": SCHEMA, "stages": list(names), "versions": {name: version(name) for name in _RECORDED}}
    path = root / ANALYSIS
    remove_leftovers(path)
    if path.exists():
        known = _names_in(path)
        shared = min(len(known), len(names))
        if known[:shared] != list(names[:shared]):
            raise ValueError(
                f"run_stages: folder: {root} holds the stages {shorten(known, 20)}; expected {shorten(names, 20)}, or "
                "more or fewer of the same. Use another folder."
            )
        record["stages"] = max(known, list(names), key=len)
    write_json(path, record)
    return _stage_folders(root, names)


def _stage_folders(root: Path, names: Sequence[str]) -> list[StageFolder]:
    return [StageFolder(root / f"{j + 1:02d}_{name}") for j, name in enumerate(names)]


def load_stages(folder: str | os.PathLike[str]) -> StagedAnalysis:
    """Returns the stages that are done in a folder that `run_stages` wrote; nothing is run.

    Raises:
        FileNotFoundError: no such folder, or none of its stages has a chain yet.
        FileFormatError: a file is damaged, or from a newer version of the package.
    """
    root = Path(folder)
    if not (root / ANALYSIS).exists():
        raise FileNotFoundError(f"{root}: no {ANALYSIS} there. Name a folder that run_stages(folder=...) wrote.")
    names = _names_in(root / ANALYSIS)
    done = []
    for name, stage in zip(names, _stage_folders(root, names), strict=True):
        if not stage.chain.exists():
            break
        done.append(stage.read(name))
    if not done:
        raise FileNotFoundError(f"{root}: its first stage, {names[0]!r}, has no chain yet. Run it to its end first.")
    return StagedAnalysis(tuple(done))


def last_written(folder: str | os.PathLike[str]) -> datetime:
    """Returns when the newest chain in the folder of an analysis was written, by its file's time stamp."""
    return datetime.fromtimestamp(max(path.stat().st_mtime for path in Path(folder).glob("*/chain.npz")))


def _names_in(path: Path) -> list[str]:
    record = read_json(path)
    names = record.get("stages")
    if record.get("schema") != SCHEMA or not isinstance(names, list) or not names:
        raise FileFormatError(
            f"{path}: expected a record of schema {SCHEMA} with the stages' names; got {record.get('schema')!r}. "
            "It is damaged, or from a newer version of the package."
        )
    return [str(name) for name in names]


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a record whole or not at all."""
    text = json.dumps(plain_json(record, path.name), indent=2, allow_nan=False)
    write_atomically(path, text.encode())


def read_json(path: Path) -> dict[str, Any]:
    """Returns a record.

    Raises:
        FileFormatError: the file is no JSON object.
    """
    try:
        record = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: not valid JSON ({error}). It is damaged: remove it to make it anew.") from error
    if not isinstance(record, dict):
        raise FileFormatError(f"{path}: expected a JSON object; got {type(record).__name__}. It is damaged.")
    return record
