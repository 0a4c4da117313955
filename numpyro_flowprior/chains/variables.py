"""Columns that form arrays: `x[0]`, `x[1]`, ... are one variable x with a shape."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .._util.checks import shorten

_ELEMENT = re.compile(r"(.+?)\[(\d+(?:,\d+)*)\](?:\.(.+))?")  # x[1], x[1,2], or theta[1].a in a repeated prior
_OF_ARVIZ = ("chain", "draw")


@dataclass(frozen=True)
class Variable:
    """Columns that form one array.

    Attributes:
        names: names of the columns, raveled in C order.
        shape: shape of the array; () for a scalar, which is a column with its own name.
        dims: names of the dimensions.
        coords: {dimension: values along it}, for dimensions with values.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...] = ()
    dims: tuple[str, ...] = ()
    coords: dict[str, Sequence[Any]] = field(default_factory=dict)


def parameter_dim(site: str) -> str:
    """Returns the name of the dimension along the parameters, for a site with a prior over named parameters."""
    return f"{site}_parameter"


def storable(name: str) -> str:
    """Returns a name that NetCDF and the trees of xarray allow: slashes, which separate groups, become dots."""
    return name.replace("/", ".")


def all_storable(arrays: Mapping[str, Variable]) -> dict[str, Variable]:
    """Returns variables and their dimensions with names that ArviZ can store. Raises ValueError if two are equal."""
    renamed = {}
    for name, array in arrays.items():
        known = storable(name)
        if known in renamed:
            raise ValueError(
                f"to_arviz: expected names that still differ when slashes become dots; got {known!r} twice. Rename one."
            )
        coords = {storable(dim): values for dim, values in array.coords.items()}
        renamed[known] = replace(array, dims=tuple(map(storable, array.dims)), coords=coords)
    return renamed


def default_dims(name: str, rank: int) -> tuple[str, ...]:
    """Returns the names that ArviZ gives to a variable's dimensions."""
    return tuple(f"{name}_dim_{axis}" for axis in range(rank))


def variables_of(names: Sequence[str]) -> dict[str, Variable]:
    """Returns the variables that columns with these names form. A column outside a complete array is a scalar.

    A complete array has each element of its shape once. `x[0]` and `x[2]` without `x[1]` are two scalars.
    """
    groups: dict[str, dict[tuple[Any, ...], str]] = {}
    for name in names:
        match = _ELEMENT.fullmatch(name)
        if match is not None:
            site, index, parameter = match.groups()
            groups.setdefault(site, {})[(*map(int, index.split(",")), parameter)] = name
    whole = {site: found for site, group in groups.items() if site not in names and (found := _array(site, group))}
    owner = {column: site for site, variable in whole.items() for column in variable.names}
    variables: dict[str, Variable] = {}
    for name in names:
        site = owner.get(name)
        variables[name if site is None else site] = Variable((name,)) if site is None else whole[site]
    return variables


def labels_of(
    arrays: Mapping[str, Variable], dims: Mapping[str, Sequence[str]], coords: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    """Returns the arguments `dims` and `coords` of the ArviZ converters, for the variables of one object.

    A dimension gets another name if its name is that of a variable, "chain" or "draw", or would have two sizes.

    Args:
        arrays: the variables, with their default dimensions.
        dims: names of dimensions from the user, by variable.
        coords: values along dimensions from the user.

    Raises:
        ValueError: a variable has the name of an ArviZ dimension. Or `dims` has an unknown variable, the wrong number
            of names, or the name of a variable. Or `coords` has an unknown dimension, or the wrong number of values.
            Or a dimension has two sizes.
    """
    reserved = [name for name in _OF_ARVIZ if name in arrays]
    if reserved:
        raise ValueError(
            f"to_arviz: expected no variables named {shorten(_OF_ARVIZ)}, which are ArviZ's dimensions; "
            f"got {shorten(reserved)}. Rename them."
        )
    taken = {*arrays, *_OF_ARVIZ}
    for name, given in dims.items():
        if name not in arrays or len(given) != len(arrays[name].shape) or isinstance(given, str) or taken & {*given}:
            shapes = {known: array.shape for known, array in arrays.items()}
            raise ValueError(
                "to_arviz: dims: expected a list of names for each dimension of a variable, not names of variables; "
                f"got {name!r}: {given!r}. The shapes are {shorten(shapes, 20)}."
            )
    sizes: dict[str, int] = {}
    for name, given in dims.items():
        for dim, size in zip(given, arrays[name].shape, strict=True):
            if sizes.setdefault(dim, size) != size:
                raise ValueError(f"to_arviz: dims: expected one size of {dim!r}; got {sizes[dim]} and {size}.")
    found = {name: list(given) for name, given in dims.items()}
    along: dict[str, Any] = {}
    for name, array in arrays.items():
        if name in found or not array.shape:
            continue
        found[name] = []
        for dim, default, size in zip(array.dims, default_dims(name, len(array.shape)), array.shape, strict=True):
            known = f"{dim}_dim" if dim in taken else dim
            known = known if sizes.setdefault(known, size) == size else default
            found[name].append(known)
            sizes[known] = size
            along |= {known: list(array.coords[dim])} if dim in array.coords else {}
    for dim, values in coords.items():
        if sizes.get(dim) != len(values):
            raise ValueError(
                "to_arviz: coords: expected one value for each position along a dimension; "
                f"got {len(values)} for {dim!r}. The dimensions are {shorten(sizes, 20)}."
            )
    return {"dims": found, "coords": {**along, **{dim: list(values) for dim, values in coords.items()}}}


def _array(site: str, elements: dict[tuple[Any, ...], str]) -> Variable | None:
    """Returns the array with elements {(index..., parameter or None): column}; None if it is not complete."""
    if len({len(key) for key in elements}) > 1:
        return None
    parameters = list(dict.fromkeys(key[-1] for key in elements))
    shape = tuple(1 + max(key[axis] for key in elements) for axis in range(len(next(iter(elements))) - 1))
    keys = [(*index, parameter) for index in np.ndindex(*shape) for parameter in parameters]
    if len(keys) != len(elements) or any(key not in elements for key in keys):
        return None
    columns, dims = tuple(elements[key] for key in keys), default_dims(site, len(shape))
    if parameters == [None]:
        return Variable(columns, shape, dims)
    along = parameter_dim(site)
    return Variable(columns, (*shape, len(parameters)), (*dims, along), {along: parameters})
