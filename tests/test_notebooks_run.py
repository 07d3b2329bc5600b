"""The notebooks of ``examples/`` run, and show what a fresh run shows.

``python tests/test_notebooks_run.py [notebook ...]`` runs them and stores the new outputs.
"""

import base64
import io
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from browser import needs_browser

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
PACK = json.loads((Path(__file__).parent / "data" / "notebooks.json").read_text(encoding="utf-8"))
PHONE = 45                              # characters in a line that a phone can show
SIZE = 300_000
# What differs from run to run, or from machine to machine.
CHANGES = re.compile(r"/(?:home|root|tmp|work)/|[A-Z]:\\|\b0x[0-9a-f]{6,}|\b\d+\.\d+ ?m?s\b")


def run(path):
    """The notebook with the outputs of a fresh kernel that uses this copy of the package."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    notebook = nbformat.read(path, as_version=4)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", record_timing=False,
                                coalesce_streams=True,
                                resources={"metadata": {"path": str(ROOT)}}).execute()
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    return notebook


def text_of(cell):
    """What a cell printed, and its result if that is nothing but text."""
    return "\n".join(out.get("text", out["data"]["text/plain"] if list(out.get("data", ())) == [
        "text/plain"] else "").rstrip("\n") for out in cell["outputs"])


def pictures_of(cell):
    """(kind, contents) of everything that a cell shows besides text."""
    return [(kind, shown) for out in cell["outputs"]
            for kind, shown in sorted(out.get("data", {}).items()) if kind != "text/plain"]


def stored(path):
    """The code cells of a notebook as it lies on the disk, texts in one piece."""
    def joined(value):
        if isinstance(value, dict):
            return {key: joined(one) for key, one in value.items()}
        return "".join(value) if isinstance(value, list) else value
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": joined(cell["source"]),
             "outputs": [joined(out) for out in cell["outputs"]]}
            for cell in cells if cell["cell_type"] == "code"]


def alike(one, other):
    """Whether two PNG pictures show the same; other releases of matplotlib draw other edges."""
    import matplotlib.image
    a, b = (matplotlib.image.imread(io.BytesIO(base64.b64decode(png)))[..., :3]
            for png in (one, other))
    h, w = (min(sizes) for sizes in zip(a.shape[:2], b.shape[:2], strict=True))
    return (np.abs(np.subtract(a.shape, b.shape)).max() <= 4
            and np.abs(a[:h, :w] - b[:h, :w]).mean() < 0.05)


@pytest.mark.filterwarnings("ignore")           # of the packages that run notebooks
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_is_stored(path):
    fresh = run(path)
    code = [cell for cell in fresh.cells if cell["cell_type"] == "code"]
    for number, (new, old) in enumerate(zip(code, stored(path), strict=True), 1):
        for out in old["outputs"]:
            assert out["output_type"] != "error", f"In [{number}]: an error is stored"
            assert out.get("name") != "stderr", f"In [{number}]: a warning is stored"
        if "varies" in new["metadata"].get("tags", ()):     # what training ends with
            made, kept = (re.split(r"(\d+)", text_of(cell)) for cell in (new, old))
            assert made[::2] == kept[::2]
            assert np.allclose(*(list(map(float, found[1::2])) for found in (made, kept)),
                               rtol=0.03)
        else:
            assert text_of(new) == text_of(old), f"In [{number}]: run {__file__} to store it anew"
        for one, other in zip(pictures_of(new), pictures_of(old), strict=True):
            assert one[0] == other[0], f"In [{number}]"
            assert one[0] != "image/png" or alike(one[1], other[1]), f"In [{number}]: other picture"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_stored_notebook_is_small_and_fits_a_phone(path):
    assert path.stat().st_size < SIZE
    cells = stored(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for line in f"{cell['source']}\n{text_of(cell)}".split("\n"):
            assert len(line) <= PHONE, line
        assert not CHANGES.search(text_of(cell)), text_of(cell)


# ---- the page that a reader sees -----------------------------------------------------------------

# Code may be three characters wider than its cell, in which it scrolls.
WIDE = """[...document.querySelectorAll('.jp-Cell pre, .jp-Cell table, .jp-Cell img, .jp-Cell svg')]
    .filter(e => e.clientWidth
                 && e.scrollWidth > e.clientWidth + (e.closest('.jp-InputArea-editor') ? 24 : 1)
                 || e.getBoundingClientRect().right > innerWidth)
    .map(e => e.tagName + ' ' + e.textContent.slice(0, 60))"""


@needs_browser
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_fits_a_phone_and_a_desk(path, browser, tmp_path):
    nbconvert = pytest.importorskip("nbconvert", reason="no page of a notebook without nbconvert")
    page = tmp_path / f"{path.stem}.html"
    page.write_text(nbconvert.HTMLExporter().from_filename(path)[0], encoding="utf-8")
    for width in (390, 1200):
        browser.call("Emulation.setDeviceMetricsOverride", width=width, height=850,
                     deviceScaleFactor=1, mobile=width < 500)
        browser.open(page)
        assert browser.run("Math.max(document.documentElement.scrollWidth, "
                           "document.body.scrollWidth)") <= width
        assert browser.run(WIDE) == []
        assert browser.run("[...document.images].every(i => i.complete && i.naturalWidth)")
        assert not browser.run("document.querySelectorAll('[data-mime-type$=stderr], "
                               "[data-mime-type$=error]').length")
        assert browser.run("(document.body.innerText.match(/epoch .*█/g) || []).length") == (
            path.stem == "first_day")                       # a progress bar leaves one line
    browser.call("Emulation.clearDeviceMetricsOverride")


# ---- the figures of the two teaching notebooks ---------------------------------------------------

@pytest.mark.parametrize("case_id", ["C1", "C2", "C3", "C4", "C7", "C13"])
def test_the_first_notebook_asserts_each_figure_that_public_copies_print(case_id):
    text = "\n".join(cell["source"] for cell in stored(ROOT / "examples/cnn_from_scratch.ipynb"))
    case = next(case for case in PACK["cases"] if case["id"] == case_id)
    asserted = " ".join(re.findall(r"^assert .*(?:\n .*)*", text, re.MULTILINE))
    printed = [check for check in case["checks"]
               if "printed" in check and np.any(check["printed"]) and "X_pad" not in check["what"]]
    assert printed
    for check in printed:
        if check["value"] == "A_prev":              # an input, drawn as everywhere
            continue
        for figure in np.ravel(check["printed"]):
            assert f"{figure:.15g}"[:12] in asserted, f"{check['what']}: {figure}"


def test_the_exercise_prints_the_figures_of_its_cells():
    text = "\n".join(map(text_of, stored(ROOT / "examples" / "exercise_9_3.ipynb")))
    for case_id, what, words in [
            ("S3", "dLdX.mean()", "mean"), ("S4", "Z.mean()", "Mean Z"),
            ("S5", "dA_prev.mean()", "dX mean"), ("S5", "dW.mean()", "dW mean"),
            ("S5", "db.mean()", "db mean")]:
        case = next(case for case in PACK["cases"] if case["id"] == case_id)
        expected = next(check["expected"] for check in case["checks"] if check["what"] == what)
        found = float(re.search(rf"^{words} = (\S+)$", text, re.MULTILINE).group(1))
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-11), what
    for shape in ("(5, 7, 7, 3)", "(5, 4, 2, 2)", "(14, 32, 32, 8)"):
        assert shape in text


if __name__ == "__main__":
    import nbformat
    for name in sys.argv[1:] or NOTEBOOKS:
        nbformat.write(run(Path(name).resolve()), name)
