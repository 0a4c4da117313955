"""Runs the notebooks and stores their outputs, with a fingerprint of the code that made them: `make notebooks`."""

from __future__ import annotations

import argparse
import hashlib
import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
RECORD = "numpyro_flowprior"  # in a notebook's metadata
NOT_OURS = re.compile(r"^.*TqdmWarning.*\n.*\n?", re.MULTILINE)  # that bars need a package which is not installed
PLACE = re.compile(r"/\S*ipykernel_\d+/\d+\.py:\d+: |/\S+/(?=\S+\.py)")  # of a file on this machine


def code_of(notebook: nbformat.NotebookNode) -> str:
    """Returns the SHA-256 of a notebook's code cells."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\n\0".join(cells).encode()).hexdigest()


def execute(path: Path) -> None:
    """Runs a notebook in a folder of its own, and stores it with its outputs."""
    notebook = nbformat.read(path, 4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                output["text"] = PLACE.sub("", NOT_OURS.sub("", output["text"]))
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("text", "shown").strip()]
    notebook.metadata[RECORD] = {"code_sha256": code_of(notebook)}
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, help="those to run (default: all)")
    for path in parser.parse_args().notebooks or sorted(FOLDER.glob("*.ipynb")):
        print(path.name, flush=True)
        execute(path)


if __name__ == "__main__":
    main()
