"""The folder of a staged analysis: the files of each stage, and how they are read back.

analysis.json          the stages' names, in order; versions
01_<name>/settings.json   the settings of the stage; a run with other settings is refused
          run.checkpoint      checkpoint of the sampler, if it keeps one; HDF5 for emcee, otherwise safetensors
          chain.npz           the chain from the sampler
          prior.safetensors   the flow trained on the chain, with its quality report
          guards.json
          posterior.npz       the chain reweighted to the exact prior, if the last call asked for it, with
          prior_reweighted.safetensors, guards_reweighted.json   its flow and its guards
          made_from.json      fingerprints of the inputs of each file; a file is out of date if its inputs have changed
          rehearsal_1.npz     a chain that lost too much to its learned prior, and
          taught_1.safetensors      the prior that was trained again with it; chain.npz was sampled under the last one
          live_<inputs>.checkpoint  checkpoint of a training on the exact density
          chain.stale.npz     a chain that was out of date and was sampled again; run.stale.checkpoint likewise
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from .._util.checks import plain_json, shorten
from .._util.messages import FlowPriorWarning
from .._util.storage import FileFormatError, remove_leftovers, write_atomically
from ..chains.chain import Chain
from ..diagnostics.report import QualityReport
from ..formats.npz import read_npz
from ..formats.read import read_chain
from ..formats.write import write_chain
from ..priors.fingerprint import prior_fingerprint
from ..priors.flow_prior import FlowPrior
from ..sampling.checkpoint import differing
from .analysis import StagedAnalysis, StageResult
from .guards import Guards
from .origin import chain_fingerprint, learnt_from

SCHEMA = 1
_MOST_REHEARSALS = 20  # whose leftovers are looked for
ANALYSIS = "analysis.json"
_ONLY_LENGTHS = {"max_steps", "n_samples", "max_seconds", "progress"}  # sampler options that may change between calls
_RECORDED = ("numpyro-flowprior", "jax", "numpyro", "distrax", "numpy")


class StageFolder:
    """The files of one stage. Each file is written completely or not at all.

    Before a file is written, the fingerprints of its inputs are recorded, by the name of the input. Folders of earlier
    versions have no such record, so the inputs of their files are unknown.
    """

    def __init__(self, path: Path):
        self.path = path
        former = path / "run.safetensors"  # the name in earlier versions
        self.checkpoint = former if former.exists() else path / "run.checkpoint"
        self.chain, self.posterior = path / "chain.npz", path / "posterior.npz"
        self.settings, self.origins = path / "settings.json", path / "made_from.json"

    def prior(self, *, reweighted: bool) -> Path:
        """Returns the path of the flow trained on the chain, or on the reweighted chain."""
        return self.path / f"prior{'_reweighted' * reweighted}.safetensors"

    def guards(self, *, reweighted: bool) -> Path:
        """Returns the path of the guards of the chain, or of the reweighted chain."""
        return self.path / f"guards{'_reweighted' * reweighted}.json"

    def rehearsal(self, number: int) -> Path:
        """Returns the path of a chain that lost too much to its learned prior; `number` counts from one."""
        return self.path / f"rehearsal_{number}.npz"

    def taught(self, number: int) -> Path:
        """Returns the path of the prior that was trained again with a rehearsal."""
        return self.path / f"taught_{number}.safetensors"

    def keep_rehearsal(self, number: int, origin: Mapping[str, Any]) -> None:
        """Makes the chain of the stage a rehearsal, so that the stage can be sampled again."""
        file = self.rehearsal(number)
        if file.exists():
            file.rename(_unused(file))
        self.record(file, origin)
        self.chain.replace(file)
        self.checkpoint.unlink(missing_ok=True)

    def adopt_rehearsal(self, number: int, origin: Mapping[str, Any]) -> None:
        """Makes a rehearsal the chain of the stage; a later chain is set aside."""
        self.set_aside()
        self.record(self.chain, origin)
        self.rehearsal(number).replace(self.chain)

    def begin(self, settings: Mapping[str, Any], *, override: bool = False) -> None:
        """Creates the folder of the stage and writes its settings, or checks those that are there.

        Options that limit the length of a run, and `progress`, may differ. As long as the stage has no finished chain,
        all options of the sampler may differ; the sampler itself refuses a checkpoint of another run.

        Args:
            settings: settings of the stage.
            override: whether a chain that has not converged counts as finished.

        Raises:
            ValueError: the folder belongs to a stage with other settings (named).
        """
        self.path.mkdir(exist_ok=True)
        made = [make(reweighted=which) for make in (self.prior, self.guards) for which in (False, True)]
        made += [make(number) for make in (self.rehearsal, self.taught) for number in range(1, _MOST_REHEARSALS)]
        for file in (self.checkpoint, self.chain, self.posterior, self.settings, self.origins, *made):
            remove_leftovers(file)
        if not self.settings.exists():
            write_json(self.settings, settings)
            return
        known = _in_todays_words(read_json(self.settings))
        other = differing(known, settings)
        if other == ["sampler_options"]:
            changed = differing(known.get("sampler_options", {}), settings["sampler_options"])
            if set(changed) <= _ONLY_LENGTHS:
                return
            if not self.has_chain(override=override):
                write_json(self.settings, settings)
                return
        if other:
            raise ValueError(
                f"run_stages: {self.path}: expected a stage with the same {shorten(other)}; got other settings. Use "
                "another folder. To run the stage again, remove its folder and those of later stages."
            )

    def is_begun(self) -> bool:
        """Returns whether the stage has been sampled, to its end or for a rehearsal."""
        return self.chain.exists() or self.rehearsal(1).exists()

    def has_chain(self, *, override: bool) -> bool:
        """Returns whether there is a finished chain: not marked as unconverged, or accepted with `override`."""
        return self.chain.exists() and (override or read_npz(self.chain).info.get("converged") is not False)

    def made_from(self, file: Path, origin: Mapping[str, Any]) -> bool:
        """Returns whether a file exists and its recorded inputs are the given ones."""
        return file.exists() and self._recorded().get(file.name) == dict(origin)

    def out_of_date(self, file: Path, origin: Mapping[str, Any]) -> bool:
        """Returns whether the recorded inputs of a file differ from the given ones; False if there is no record."""
        known = self._recorded().get(file.name)
        return known is not None and any(known.get(name) != value for name, value in origin.items())

    def record(self, file: Path, origin: Mapping[str, Any]) -> None:
        """Records the inputs of a file that exists or is about to be written."""
        known = self._recorded()
        if known.get(file.name) != dict(origin):
            write_json(self.origins, {**known, file.name: dict(origin)})

    def begin_making(self, file: Path, origin: Mapping[str, Any]) -> None:
        """Removes a file that is to be written again, and records its new inputs."""
        file.unlink(missing_ok=True)
        self.record(file, origin)

    def _recorded(self) -> dict[str, Any]:
        return read_json(self.origins) if self.origins.exists() else {}

    def set_aside(self) -> list[str]:
        """Renames the chain and the checkpoint of a stage that is to be sampled again, and returns the new names."""
        renamed = [file.rename(_unused(file)) for file in (self.chain, self.checkpoint) if file.exists()]
        return [file.name for file in renamed]

    def keep_posterior(self, chain: Chain | None, origin: Mapping[str, str]) -> None:
        """Writes the reweighted chain and its inputs; None only removes the reweighted chain of an earlier call."""
        self.posterior.unlink(missing_ok=True)
        if chain is not None:
            self.record(self.posterior, origin)
            write_chain(self.posterior, chain)

    def read(self, name: str, before: Mapping[str, str]) -> tuple[StageResult, dict[str, str]]:
        """Returns the result of the stage, and the fingerprints of the inputs of the next stage.

        Files made from another chain or another prior are left out, with a warning.

        Args:
            name: name of the stage.
            before: fingerprints of the inputs of this stage.

        Raises:
            FileNotFoundError: the folder has no chain.
        """
        chain = read_chain(self.chain)
        origin = {"chain": chain_fingerprint(chain)}
        old = [file.name for file in [self.posterior] if file.exists() and self.out_of_date(file, origin)]
        reweighted = self.posterior.exists() and not old
        if reweighted:
            chain = read_chain(self.posterior)
            origin = {"chain": chain_fingerprint(chain)}
        prior, found = self.prior(reweighted=reweighted), self.guards(reweighted=reweighted)
        learned = FlowPrior.load(prior) if prior.exists() else None
        if learned is not None and (self.out_of_date(prior, origin) or not learnt_from(learned, chain)):
            learned, old = None, [*old, prior.name]
        guards = Guards.from_json(read_json(found)) if found.exists() else None
        if guards is not None and self.out_of_date(found, {**before, **origin}):
            guards, old = None, [*old, found.name]
        if old:
            _warn_of_old(f"{self.path}: {', '.join(old)}: made from a chain or prior that has changed since", 4)
        settings = read_json(self.settings) if self.settings.exists() else None
        report = None if learned is None else report_of(learned)
        result = StageResult(name, chain, learned, report, guards, settings, self._taught_prior())
        return result, handed_on(chain, learned)

    def _taught_prior(self) -> FlowPrior | None:
        """Returns the prior under which the chain was sampled if it was taught by rehearsals, else None."""
        known = self._recorded().get(self.chain.name) or {}
        files = (self.taught(number) for number in range(1, _MOST_REHEARSALS))
        priors = (FlowPrior.load(file) for file in files if file.exists() and known.get("taught") is not None)
        return next((prior for prior in priors if prior_fingerprint(prior) == known["taught"]), None)


def handed_on(chain: Chain, learned: FlowPrior | None) -> dict[str, str]:
    """Returns the fingerprints of the chain and the flow that a stage hands on to the next one."""
    prior = {} if learned is None else {"prior": prior_fingerprint(learned)}
    return {"chain before": chain_fingerprint(chain), **prior}


def _in_todays_words(settings: Any) -> Any:
    """Returns recorded settings with the former sampler option "space" renamed to "coordinates"."""
    options = settings.get("sampler_options") if isinstance(settings, Mapping) else None
    if not isinstance(options, Mapping) or "space" not in options:
        return settings
    renamed = {"coordinates" if name == "space" else name: value for name, value in options.items()}
    return {**settings, "sampler_options": renamed}


def _unused(file: Path) -> Path:
    """Returns a path that no file has yet: `chain.stale.npz`, `chain.stale_2.npz`, ..."""
    names = (f"{file.stem}.stale{f'_{j}' * (j > 1)}{file.suffix}" for j in count(1))
    return next(path for path in map(file.with_name, names) if not path.exists())


def _warn_of_old(what: str, level: int) -> None:
    warnings.warn(
        f"load_stages: {what}. These results are left out. Call run_stages to make them again.",
        FlowPriorWarning,
        stacklevel=level,
    )


def report_of(prior: FlowPrior) -> QualityReport | None:
    """Returns the quality report stored in a prior; None if there is none."""
    return QualityReport.from_json(prior.info["report"]) if prior.info.get("report") else None


def begin_folder(folder: Any, names: Sequence[str]) -> list[StageFolder]:
    """Returns the folders of the stages, and creates the root folder if it is missing.

    Raises:
        ValueError: the folder holds an analysis with other stages, or the same stages in another order.
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
                f"run_stages: folder: {root} holds the stages {shorten(known, 20)}; expected {shorten(names, 20)}. "
                "Only stages at the end may be added or left out. Use another folder."
            )
        record["stages"] = max(known, list(names), key=len)
    write_json(path, record)
    return _stage_folders(root, names)


def _stage_folders(root: Path, names: Sequence[str]) -> list[StageFolder]:
    return [StageFolder(root / f"{j + 1:02d}_{name}") for j, name in enumerate(names)]


def load_stages(folder: str | os.PathLike[str]) -> StagedAnalysis:
    """Returns the finished stages in a folder that `run_stages` wrote. Nothing is run.

    Results that are out of date are left out, with a warning. These are flows and guards made from a chain that has
    changed since, and stages sampled under a prior that has been trained again since, for example because an earlier
    stage was run longer.

    Raises:
        FileNotFoundError: there is no such folder, or its first stage has no chain yet.
        FileFormatError: a file is damaged, or from a newer version of the package.
    """
    root = Path(folder)
    if not (root / ANALYSIS).exists():
        raise FileNotFoundError(
            f"{root}: expected a folder that run_stages(folder=...) wrote; got no {ANALYSIS} in it."
        )
    names = _names_in(root / ANALYSIS)
    done: list[StageResult] = []
    origin: dict[str, str] = {}
    for name, stage in zip(names, _stage_folders(root, names), strict=True):
        if not stage.chain.exists():
            break
        if stage.out_of_date(stage.chain, origin):
            _warn_of_old(f"{stage.path} and later stages: sampled under a prior that has been trained again since", 3)
            break
        result, origin = stage.read(name, origin)
        done.append(result)
    if not done:
        raise FileNotFoundError(
            f"{root}: the first stage, {names[0]!r}, has no chain yet. Finish it with run_stages first."
        )
    return StagedAnalysis(tuple(done))


def last_written(folder: str | os.PathLike[str]) -> datetime:
    """Returns the modification time of the newest chain file in the folder of an analysis."""
    return datetime.fromtimestamp(max(path.stat().st_mtime for path in Path(folder).glob("*/chain.npz")))


def _names_in(path: Path) -> list[str]:
    record = read_json(path)
    names = record.get("stages")
    if record.get("schema") != SCHEMA or not isinstance(names, list) or not names:
        raise FileFormatError(
            f"{path}: expected a record of schema {SCHEMA} with the names of the stages; got schema "
            f"{record.get('schema')!r}. The file is damaged, or from a newer version of the package."
        )
    return [str(name) for name in names]


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a record to a JSON file, completely or not at all."""
    text = json.dumps(plain_json(record, path.name), indent=2, allow_nan=False)
    write_atomically(path, text.encode())


def read_json(path: Path) -> dict[str, Any]:
    """Returns the record in a JSON file.

    Raises:
        FileFormatError: the file does not hold a JSON object.
    """
    try:
        record = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise FileFormatError(
            f"{path}: not valid JSON ({error}). The file is damaged: remove it, and run_stages writes it again."
        ) from error
    if not isinstance(record, dict):
        raise FileFormatError(f"{path}: expected a JSON object; got {type(record).__name__}. The file is damaged.")
    return record
