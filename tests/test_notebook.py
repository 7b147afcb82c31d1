from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


@pytest.mark.slow
def test_the_loop_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.setenv("CONCORD_NOTEBOOK", "tiny")
    monkeypatch.setenv("CONCORD_CACHE", str(tmp_path))
    notebook = nbformat.read(NOTEBOOKS / "01_the_loop.ipynb", as_version=4)
    NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOKS)}}
    ).execute()
    outputs = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    pictures = [out for out in outputs if "image/svg+xml" in out.get("data", {})]
    assert len(pictures) == 4
    assert not [out for out in outputs if out.output_type == "error"]


def test_the_notebook_defines_nothing_and_is_kept_without_outputs():
    notebook = nbformat.read(NOTEBOOKS / "01_the_loop.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert "def " not in cell.source and "class " not in cell.source
