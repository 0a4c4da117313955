"""What the house is: rooms, circles of imports, signatures with Any, public names, tests; counted from the code."""

from __future__ import annotations

import argparse
import ast
import sys
from collections import defaultdict
from pathlib import Path

from tables import origin, publish, table

import numpyro_flowprior

TESTS = Path(__file__).parent.parent / "tests"
sys.path.insert(0, str(TESTS))
from test_architecture import ROOMS, circles, imports_of, modules, room_of  # noqa: E402 (beside the package)


def signatures(tree: ast.Module) -> list[str]:
    """Returns the annotations of each function, one string a function."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
            parts = [one.annotation for one in given if one is not None] + [node.returns]
            found.append(" ".join(ast.unparse(part) for part in parts if part is not None))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    files = modules()
    graph = {name: imports_of(name, files) & files.keys() for name in files}
    rooms: dict[str, list[str]] = defaultdict(list)
    for name, path in files.items():
        rooms[room_of(path)].append(name)
    rows, total = [], [0, 0, 0, 0]
    for room in ROOMS:
        texts = [files[name].read_text() for name in rooms[room]]
        found = [one for text in texts for one in signatures(ast.parse(text))]
        untyped = sum("Any" in one.replace("ArrayLike", "") for one in found)
        used = sorted(
            {room_of(files[other]) for name in rooms[room] for other in graph[name]} - {room}, key=ROOMS.index
        )
        counts = [len(texts), sum(text.count("\n") for text in texts), len(found), untyped]
        total = [a + b for a, b in zip(total, counts, strict=True)]
        rows.append([f"`{room}`", *counts, ", ".join(used)])
    rows.append(["all", *total, ""])

    tests = [ast.parse(path.read_text()) for path in sorted(TESTS.glob("*.py"))]
    nodes = [node for tree in tests for node in ast.walk(tree)]
    asserts = sum(isinstance(node, ast.Assert) for node in nodes)
    called = [ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)]
    checks = sum(name.split(".")[-1].startswith("assert_") for name in called)
    refused = sum(name in ("pytest.raises", "pytest.warns") for name in called)
    written = sum(isinstance(node, ast.FunctionDef) and node.name.startswith("test_") for node in nodes)
    publish(
        [
            "# The house\n",
            origin("python benchmarks/structure.py"),
            table("room | modules | lines | functions | of these with Any in the signature | imports from", rows),
            f"Circles of imports, those within functions and for types included: {len(circles(graph))}. "
            f"Public names: {len(numpyro_flowprior.__all__)}.\n",
            f"Tests as written, before their parameters: {written}, with {asserts} assert statements, {checks} calls "
            f"of `assert_*` and {refused} of `pytest.raises` or `pytest.warns`.\n",
        ],
        options.output,
    )


if __name__ == "__main__":
    main()
