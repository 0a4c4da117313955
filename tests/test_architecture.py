"""The rooms import only from rooms above them, third-party backends live in one place each, imports change nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import numpyro_flowprior

PACKAGE = Path(__file__).parent.parent / "numpyro_flowprior"
ORDER = [
    "_checks",
    "_progress",
    "_batches",
    "_leaves",
    "storage",
    "chains",
    "flows",
    "prior_file",
    "numpy_prior",
    "model_card",
    "resolution",
    "box",
    "moments",
    "conditional",
    "prior",
    "latent",
    "compose",
    "diagnostics",
    "training",
    "emulators",
    "sampling",
    "plots",
    "stages",
    "twin",
    "demo",
    "commands",
    "cli",
]
BELOW = {  # they import when called
    "prior.py": {"training"},  # FlowPrior.marginal refits
    "numpyro.py": {"sampling"},  # this reader and to_arviz ask the model of an MCMC for names and bounds
    "inference_data.py": {"sampling"},
}
BACKENDS = {
    "pocomc": {"sampling/pocomc.py"},
    "torch": {"sampling/pocomc.py"},
    "emcee": {"sampling/emcee.py"},
    "blackjax": {"sampling/blackjax.py"},
    "h5py": {"chains/readers/emcee.py"},
    "pyarrow": {"chains/readers/frames.py"},
    "pandas": set(),
    "dynesty": set(),
    "getdist": set(),
    "bilby": set(),
    "xarray": set(),
    "sklearn": set(),  # its kernels and models are known by their names
    "arviz": {"chains/from_inference_data.py"},
    "matplotlib": {"plots/canvas.py"},
    "safetensors": {"storage.py"},
    "optax": {"training/losses.py", "training/steps.py"},
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported_rooms(path: Path) -> set[str]:
    depth = len(path.relative_to(PACKAGE).parts) - 1
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or node.level != depth + 1:
            continue
        names = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
        rooms.update(name for name in names if name != "__version__")
    return rooms


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_come_from_rooms_above(path):
    room = room_of(path)
    assert room in ORDER, f"{room} has no place in the order of rooms"
    late = {other for other in imported_rooms(path) if ORDER.index(other) >= ORDER.index(room)}
    assert late == BELOW.get(path.name, set()), f"{path.name} imports from {late}"


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_each_backend_is_imported_in_one_place(backend):
    users = {str(p.relative_to(PACKAGE)) for p in modules() if _uses(p, backend)}
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
    users = {room_of(path) for path in modules() if _uses(path, "distrax")}
    assert users == {"flows", "box"}  # the latter only names its types


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
optional = "pocomc torch emcee blackjax sklearn arviz matplotlib h5py pandas pyarrow dynesty getdist bilby xarray"
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
