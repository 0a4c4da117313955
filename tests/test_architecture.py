"""The rooms import only from rooms above them, third-party backends live in one place each, imports change nothing."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import pytest

import numpyro_flowprior

PACKAGE = Path(__file__).parent.parent / "numpyro_flowprior"
ROOMS = [
    "_util",
    "chains",
    "flows",
    "priors",
    "models",
    "formats",
    "diagnostics",
    "training",
    "emulators",
    "likelihoods",
    "sampling",
    "plots",
    "stages",
    "hosts",
    "examples",
    "commands",
    "cli",
]
BACKENDS = {
    "pocomc": {"sampling/pocomc.py"},
    "torch": {"sampling/pocomc.py", "hosts/torch.py"},
    "emcee": {"sampling/emcee.py"},
    "blackjax": {"sampling/blackjax.py"},
    "h5py": {"formats/emcee.py", "sampling/ensemble_file.py"},
    "pyarrow": {"formats/frames.py"},
    "pandas": set(),
    "dynesty": {"sampling/dynesty.py"},
    "nautilus": {"sampling/nautilus.py"},
    "cloudpickle": {"likelihoods/calls.py"},
    "distributed": set(),  # its executor is one of concurrent.futures
    "getdist": set(),
    "bilby": {"hosts/bilby.py"},
    "cobaya": {"hosts/cobaya.py"},
    "pymc": {"hosts/pymc.py"},
    "pytensor": {"hosts/pymc.py"},
    "xarray": set(),
    "sklearn": {"hosts/stan.py"},  # the emulators know its kernels and models by their names
    "arviz": {"formats/from_arviz.py"},
    "matplotlib": {"plots/canvas.py"},
    "safetensors": {"_util/storage.py"},
    "optax": {"training/losses.py", "training/steps.py"},
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules() -> dict[str, Path]:
    """Returns {dotted name within the package: file}, but for the package's own face."""
    files = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports_of(name: str, files: dict[str, Path]) -> set[str]:
    """Returns the modules that a module imports: at its top, within functions, and for types alone."""
    package = name.split(".")[:-1] if files[name].name != "__init__.py" else name.split(".")
    found = set()
    for node in ast.walk(ast.parse(files[name].read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
        for alias in node.names:
            full, whole = ".".join([*base, alias.name]), ".".join(base)
            found.add(full if full in files else whole)
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Returns the groups of modules that import each other, directly or not."""
    reach = {name: set(others) for name, others in graph.items()}
    for middle in graph:  # Warshall
        for others in reach.values():
            if middle in others:
                others |= reach.get(middle, set())
    groups = {frozenset(b for b in graph if b in reach[a] and a in reach[b]) for a in graph}
    return [sorted(group) for group in groups if group]


def test_no_module_imports_itself_and_none_from_a_room_below():
    files = modules()
    graph = {name: imports_of(name, files) for name in files}
    strays = [name for name in graph if room_of(files[name]) not in ROOMS]
    faces = [name for name, others in graph.items() if "" in others]  # of the package's own face, which imports all
    upwards = [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in others & files.keys()
        if ROOMS.index(room_of(files[other])) > ROOMS.index(room_of(files[name]))
    ]
    assert (strays, faces, upwards, circles(graph)) == ([], [], [], [])


def test_circles_are_found():
    planted = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}}
    assert circles(planted) == [["a", "b", "c"]]


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_each_backend_is_imported_in_one_place(backend):
    users = {str(p.relative_to(PACKAGE)) for p in modules().values() if _uses(p, backend)}
    assert users == BACKENDS[backend]


def _uses(path: Path, backend: str) -> bool:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == backend for alias in node.names):
            return True
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == backend:
            return True
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "optional_import" and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and str(first.value).split(".")[0] == backend:
                return True
    return False


def test_distrax_lives_in_flows_and_its_wrapper():
    users = {room_of(path) for path in modules().values() if _uses(path, "distrax")}
    assert users == {"flows", "priors"}  # the latter only names its types


def test_import_changes_nothing_global():
    code = """
import logging, sys, warnings
import jax, numpy, numpyro, distrax, optax
def state():
    handlers, generator = logging.getLogger().handlers[:], numpy.random.get_state()[1][0]
    return list(warnings.filters), jax.config.jax_enable_x64, handlers, generator
before = state()
from numpyro_flowprior import *
assert state() == before
optional = "pocomc torch emcee blackjax sklearn arviz matplotlib h5py pandas pyarrow dynesty getdist xarray"
optional += " bilby cobaya pymc"
loaded = set(optional.split()) & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_resolves_and_the_type_checkers_see_the_same():
    assert sorted(numpyro_flowprior.__all__) == sorted(numpyro_flowprior._HOME_OF)
    for name in numpyro_flowprior.__all__:
        assert getattr(numpyro_flowprior, name) is not None
        assert name in dir(numpyro_flowprior)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        numpyro_flowprior.nothing  # noqa: B018 (the access is the test)
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    declared = {alias.name: node.module for node in block.body for alias in node.names}
    assert declared == numpyro_flowprior._HOME_OF


def test_a_file_is_read_without_jax():
    code = """
import sys
from numpyro_flowprior import FileFormatError, FlowConfig, ParameterSpace, load_numpy
loaded = {name for name in ("jax", "numpyro", "distrax", "optax") if name in sys.modules}
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_function_and_method_is_named_in_some_test():
    words = {word for path in Path(__file__).parent.glob("*.py") for word in re.findall(r"\w+", path.read_text())}
    unnamed = []
    for name in numpyro_flowprior.__all__:
        thing = getattr(numpyro_flowprior, name)
        if inspect.isfunction(thing) and name not in words:
            unnamed.append(name)
        if inspect.isclass(thing) and thing.__module__.startswith("numpyro_flowprior"):
            kinds = (FunctionType, property, classmethod, staticmethod)
            members = [member for member, value in vars(thing).items() if isinstance(value, kinds)]
            unnamed += [f"{name}.{m}" for m in members if not m.startswith("_") and m not in words]
    assert unnamed == []
