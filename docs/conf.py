"""Sphinx: the pages of this folder, the notebooks, the result pages of the benchmarks, and the docstrings."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from numpyro_flowprior import __version__

HERE = Path(__file__).parent
for name, source in {"notebooks": HERE.parent / "notebooks", "results": HERE.parent / "benchmarks" / "results"}.items():
    shutil.copytree(source, HERE / name, dirs_exist_ok=True)  # Sphinx reads what is below its folder

project = "numpyro-flowprior"
author = "the numpyro-flowprior developers"
version = release = __version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]  # pages of the API reference are titled with the name alone
html_theme = "furo"
html_title = f"{project} {version}"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_timeout = 900
nb_execution_in_temp = True  # pages that write files do not leave them here
nb_execution_raise_on_error = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autosummary_generate = True
napoleon_google_docstring = True
napoleon_use_ivar = True  # attributes that are also members would be described twice
napoleon_custom_sections = [("Source", "notes_style")]
default_role = "code"

_STARS = re.compile(r"([(,] ?)(\*{1,2})(?=\w+[,)\]])")  # shapes (*batch, d) and calls f(x, **options): no emphasis
_DETERMINANT = re.compile(r"\|(det [^|]*)\|")  # no substitution


def _plain(app, what, name, thing, options, lines: list[str]) -> None:
    for j, line in enumerate(lines):
        line = _STARS.sub(lambda found: found[1] + r"\*" * len(found[2]), line)
        lines[j] = _DETERMINANT.sub(r"\\|\1\\|", line)


def setup(app) -> None:
    """Docstrings are written to be read as text."""
    app.connect("autodoc-process-docstring", _plain)
