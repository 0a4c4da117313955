"""Every notebook runs from top to bottom, in a kernel and a folder of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nbclient import NotebookClient
from nbformat import read

FOLDER = Path(__file__).parent.parent / "notebooks"
QUICK = {"publish_and_reuse_a_prior"}  # the others take two minutes each: `make slow`
RUN = [
    pytest.param(path, marks=() if path.stem in QUICK else pytest.mark.slow, id=path.stem)
    for path in sorted(FOLDER.glob("*.ipynb"))
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("path", RUN)
def test_notebooks_run(path, tmp_path):
    notebook = read(path, 4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    errors = [out for cell in notebook.cells for out in cell.get("outputs", []) if out["output_type"] == "error"]
    assert not errors


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path):
    assert not any(cell.get("outputs") for cell in json.loads(path.read_text())["cells"])
