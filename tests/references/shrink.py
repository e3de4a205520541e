"""Keep of the reference notebooks what nbval compares: outputs of checked cells, no pictures."""

from pathlib import Path

import nbformat


def shrink(path: Path) -> None:
    """Drop every output but those of cells tagged nbval-check-output, and run-time metadata."""
    notebook = nbformat.read(path, as_version=4)
    for of_the_run in ("papermill", "widgets"):
        notebook.metadata.pop(of_the_run, None)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        # Execution counts stay: nbval compares no cell that does not seem to have run.
        if cell.cell_type == "code" and "nbval-check-output" not in tags:
            cell.outputs = []
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for reference in sorted(Path(__file__).parent.glob("*.ipynb")):
        shrink(reference)
