"""The notebooks run from top to bottom; what they show was printed by the code that stands in them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from nbclient import NotebookClient
from nbformat import read
from toys import names_that_are_missing

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
CHANCE = re.compile(r"\b[0-9a-f]{32,}\b|(?<=marginals: ).+?(?=, -?\d)")  # digests; the name that noise has chosen
LARGEST = 600_000  # bytes: small enough for a repository

sys.path.insert(0, str(FOLDER))
from execute import RECORD, code_of  # noqa: E402 (a script, not a package)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def outputs_of(notebook):
    """For each cell: its words without numbers, which differ on another machine, and how many pictures it has."""
    found = []
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        texts = [out.get("text", "") for out in outputs if out.get("name") == "stdout"]
        texts += [
            out["data"].get("text/plain", "") for out in outputs if "data" in out and "image/png" not in out["data"]
        ]
        words = re.findall(r"[A-Za-z_]{3,}", CHANCE.sub("", "\n".join(texts)))
        found.append((words, sum("image/png" in out.get("data", {}) for out in outputs)))
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@each_notebook
def test_notebooks_run_and_show_what_is_stored(path, tmp_path):
    notebook = read(path, 4)
    stored = outputs_of(notebook)
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert outputs_of(notebook) == stored


@each_notebook
def test_notebooks_are_stored_with_the_outputs_of_their_code(path):
    """Run `make notebooks` after a change."""
    notebook = read(path, 4)
    assert notebook.metadata[RECORD]["code_sha256"] == code_of(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(out.output_type == "error" for cell in code for out in cell.outputs)
    assert sum(pictures for _, pictures in outputs_of(notebook)) >= 1
    assert path.stat().st_size < LARGEST
    assert not re.search(r"site-packages|ipykernel_|/home/|/tmp/", path.read_text())  # no place on a machine


@each_notebook
def test_notebooks_ask_for_names_that_exist(path):
    code = "\n".join(cell.source for cell in read(path, 4).cells if cell.cell_type == "code")
    assert "from numpyro_flowprior import" in code
    assert names_that_are_missing(code) == []
