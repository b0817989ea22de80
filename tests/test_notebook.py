"""The tutorial's notebook is run by a real kernel, and shows what it says it shows."""

from __future__ import annotations

from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient", reason="nbclient isn't installed")
pytest.importorskip("ipykernel", reason="ipykernel isn't installed")
NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "tutorial.ipynb"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What each code cell showed: its outputs by MIME type."""
    import nbformat

    folder = tmp_path_factory.mktemp("notebook")
    book = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLSEARCH_LOCAL", "1")  # Ray is no matter here
        patch.setenv("TLSEARCH_CACHE", str(folder / "cache"))
        patch.delenv("TLSEARCH_DB", raising=False)
        client = nbclient.NotebookClient(
            book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        )
        client.execute()
    return [
        [output["data"] for output in cell.outputs if "data" in output]
        for cell in book.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.slow
def test_progress_result_leaderboard_and_figures_are_shown(outputs):
    _, searched, board, history, rate, predicted = outputs
    progress, result = (shown["text/html"] for shown in searched)
    assert "measure the final model" in progress
    assert "linear_probe on efficientnet_lite/lite0" in progress
    assert "efficientnet_lite/lite0" in result
    assert "test accuracy" in result
    assert board[0]["text/html"].count("<tr>") == 6
    for figure in (history, rate):
        assert figure[0]["application/vnd.plotly.v1+json"]["data"]
    assert "'3'" in predicted[0]["text/plain"]
