"""read_chain reads the files and objects of an analysis as a Chain.

This module only selects the reader. Each format has its own module. No package is imported to identify an object,
because the module of its type names the package.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .._util.checks import shorten
from .._util.messages import ConvergenceWarning, FlowPriorWarning
from ..chains.chain import Chain
from ..chains.checks import check_convergence
from ..chains.parameters import ParameterSpace
from .arrays import read_array, read_dict
from .bilby import read_bilby, read_bilby_result
from .delimited import read_csv
from .dynesty import read_dynesty
from .emcee import read_checkpoint, read_emcee, read_emcee_hdf5
from .frames import read_pandas, read_parquet
from .from_arviz import read_arviz, read_netcdf
from .getdist import files_of_root, read_getdist, read_mcsamples, roots_in
from .npz import read_archive, read_npy, read_npz
from .numpyro import read_numpyro
from .pocomc import read_pickle, read_pocomc
from .stan import is_stan, read_stan
from .table import Table, complaints_of_doubt, joined, to_chain

Reader = Callable[..., Table]
_PARAMETERS = "parameters"  # argument of readers of named columns: columns known to be parameters

_FILES: dict[str, Reader] = {
    ".npz": read_npz,
    ".npy": read_npy,
    ".csv": read_csv,
    ".txt": read_getdist,
    ".h5": read_emcee_hdf5,
    ".hdf5": read_emcee_hdf5,
    ".checkpoint": read_checkpoint,
    ".nc": read_netcdf,
    ".pkl": read_pickle,
    ".pickle": read_pickle,
    ".json": read_bilby,
    ".json.gz": read_bilby,
    ".parquet": read_parquet,
}
_PACKAGES: dict[str, Reader] = {
    "pandas": read_pandas,
    "emcee": read_emcee,
    "numpyro": read_numpyro,
    "pocomc": read_pocomc,
    "dynesty": read_dynesty,
    "bilby": read_bilby_result,
    "getdist": read_mcsamples,
    "arviz": read_arviz,
    "arviz_base": read_arviz,
    "xarray": read_arviz,
    "numpy": read_array,
    "jax": read_array,
    "jaxlib": read_array,
}


def read_chain(
    source: Any, space: ParameterSpace | None = None, *, names: Sequence[str] | None = None, **options: Any
) -> Chain:
    """Returns a Chain read from a file, several files, or an object of another package.

    Files: npz and npy; csv with a header and parquet; Stan csv; GetDist, CosmoMC and Cobaya text (a file, the root of
    root_1.txt, ..., or a folder with one root); emcee HDF5; ArviZ NetCDF; bilby JSON; the pickled dictionary of pocoMC
    analyses, read without running code. In csv and parquet, log_prob, log_prior, log_likelihood, weight(s), chain_id
    and family_id are recognised by name, and chain and row numbers of other packages are not read as parameters.
    Several files of one kind are read as chains of one analysis.

    Objects: arrays (n, d) or (chains, draws, d), dictionaries, pandas frames, emcee samplers and backends, NumPyro
    MCMC, pocoMC Sampler, dynesty results, bilby Result, GetDist MCSamples, ArviZ InferenceData and DataTree.

    `info` of the chain records the source, which column is the log density and whether it includes the prior, what was
    left out and why, the kind of the weights and of the order of rows, the effective size and R-hat. One warning
    reports chains that are not converged or have too few independent draws.

    Args:
        source: a path, a list of paths, or an object.
        space: which parameters to read, in which order, with their bounds. It takes precedence over the source, and may
            name a subset of the columns. None: all that are not derived, with the bounds of the source (unbounded if it
            has none), called theta[0], theta[1], ... if it has no names.
        names: which parameters to read, in which order, with the bounds of the source. Use it instead of a space. If
            the source has no names (an array), these are the names of all columns.
        **options: emcee: burn_in, thin (steps), group (HDF5). GetDist: burn_in (rows or a fraction), log_posterior,
            sampled (Cobaya). Arrays: log_prob, log_prior, log_likelihood, weights, chain_id, family_id, weights_kind,
            rows. If another source does not declare its rows and weights, set them with
            `chain.replace(rows=..., weights_kind=...)`.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: the format needs a package that is not installed.
        TypeError: no reader knows the object, or the reader does not have the option.
        ValueError: the format is unknown, an array or column is missing, or a Chain does not accept the values.

    Example:
        >>> import numpy as np
        >>> from numpyro_flowprior import read_chain
        >>> rows = np.random.default_rng(0).normal(size=(4, 500, 2))  # chains, draws, parameters
        >>> chain = read_chain(rows, names=["a", "b"])
        >>> chain
        Chain(2000 rows of a, b; chain_id)
        >>> np.unique(chain.chain_id)
        array([0, 1, 2, 3])
    """
    if isinstance(source, Chain):
        if options:
            raise TypeError(f"read_chain: {shorten(options)}: a Chain takes no options; use its own methods.")
        source = source if names is None else source.select(names)
        return source if space is None else source.select(space.names).replace(space=space)
    return read_object(source, space, options, names=names, stacklevel=3)


def read_object(
    source: Any,
    space: ParameterSpace | None,
    options: Mapping[str, Any],
    *,
    names: Sequence[str] | None = None,
    stacklevel: int,
) -> Chain:
    """Returns the chain of any source except a Chain, with a convergence check; `stacklevel` is that of the warning."""
    subject = _subject(source)
    try:
        asked = names if space is None else getattr(space, "names", None)  # a wrong space is refused below
        table = _table(source, options, [name for name in asked or () if isinstance(name, str)])
        chain = to_chain(table, space, names)
    except (ValueError, TypeError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{subject}: {error}") from error
    chain.info["rows"] = chain.row_order.to_json()
    if chain.weights_kind is not None:
        chain.info["weights"] = chain.weights_kind
    chain.info["convergence"], unfit = check_convergence(chain, walkers=table.walkers)
    doubts = complaints_of_doubt(table) if space is None and names is None else ()
    if table.complaints or unfit or doubts:
        category = ConvergenceWarning if unfit else FlowPriorWarning
        warnings.warn(f"{subject}: {' '.join([*table.complaints, *doubts, *unfit])}", category, stacklevel=stacklevel)
    return chain


def _subject(source: Any) -> str:
    if isinstance(source, str | os.PathLike):
        return str(Path(source))
    return "read_chain" if isinstance(source, list | tuple) else type(source).__name__


def _table(source: Any, options: Mapping[str, Any], parameters: Sequence[str]) -> Table:
    """Returns the table of a source. Columns in `parameters` are parameters, even if they do not look like it."""
    if isinstance(source, str | os.PathLike):
        paths = _files(Path(source))
    elif isinstance(source, list | tuple) and source and all(isinstance(item, str | os.PathLike) for item in source):
        paths = [Path(item) for item in source]
    else:
        reader = _reader_of_object(source)
        return _called(reader, source, options, parameters)
    tables = [_read_file(path, options, parameters, alone=len(paths) == 1) for path in paths]
    return tables[0] if len(tables) == 1 else joined(tables)


def _reader_of_object(source: Any) -> Reader:
    if isinstance(source, np.lib.npyio.NpzFile):
        return read_archive
    for base in type(source).__mro__:
        reader = _PACKAGES.get(base.__module__.split(".")[0])
        if reader is not None:
            return reader
    if isinstance(source, Mapping):
        return read_dict
    if isinstance(source, list | tuple) and _holds_numbers(source):
        return read_array
    raise TypeError(
        "expected a path, a list of paths, a Chain, an array, a dictionary, or an object of "
        f"{shorten(sorted(_PACKAGES), 40)}; got {type(source).__name__}."
    )


def _holds_numbers(source: Any) -> bool:
    """Returns whether nested lists form an array of numbers."""
    try:
        return np.asarray(source).dtype.kind in "fiu" and len(source) > 0
    except ValueError:  # lists of different lengths
        return False


def _files(path: Path) -> list[Path]:
    """Returns the file at a path, or the files of a GetDist root, or of the only root in a folder."""
    if path.is_file():
        return [path]
    found = files_of_root(path)
    if path.is_dir() and not found:
        roots = roots_in(path)
        if len(roots) != 1:
            got = f"the roots {shorten(roots, 40)}" if roots else "none"
            raise ValueError(f"expected a folder with the text chains of one root; got {got}. Pass a file or a root.")
        return files_of_root(path / roots[0])
    if not found:
        raise FileNotFoundError(f"{path}: no such file, nor {path.name}_1.txt, {path.name}.1.txt, ... in its folder.")
    return found


def _read_file(path: Path, options: Mapping[str, Any], parameters: Sequence[str], *, alone: bool) -> Table:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    suffix = ".json.gz" if path.name.lower().endswith(".json.gz") else path.suffix.lower()
    reader = _FILES.get(suffix)
    if reader is None:
        raise ValueError(f"expected a file ending in {shorten(_FILES, 40)}; got {path.suffix!r}.")
    if reader is read_csv and is_stan(path):
        reader = read_stan
    try:
        return _called(reader, path, options, parameters)
    except UnicodeDecodeError as error:
        raise ValueError(f"expected text in UTF-8; got other bytes ({error.reason}). Is it compressed?") from error
    except ValueError as error:
        raise error if alone else ValueError(f"{path.name}: {error}") from error


def _called(reader: Reader, source: Any, options: Mapping[str, Any], parameters: Sequence[str]) -> Table:
    """Returns the table that a reader makes from a source; TypeError for an option that it does not have."""
    known = list(inspect.signature(reader).parameters)[1:]
    if _PARAMETERS in known:  # a reader of named columns
        known.remove(_PARAMETERS)
        reader = partial(reader, **{_PARAMETERS: parameters})
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"{shorten(unknown)}: no such option for this source; it takes {shorten(known) or 'none'}.")
    return reader(source, **options)
