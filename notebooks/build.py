"""Execute the notebooks and put a picture in the place of every view: python notebooks/build.py [NAME.ipynb ...]

A view is a frame with scripts, which a site that shows notebooks strips. So the committed outputs hold a picture of
each view (taken in a headless Chromium), and whoever runs the notebook sees the view itself.

The first cell of code installs lensdiff where it is missing, as in Colab, so that a notebook opens there without edits.
"""

import base64
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WIDTH, HEIGHT = 1100, 800
INSTALL = """\
# in Colab this installs lensdiff; where it is installed already, nothing happens
import importlib.util

if importlib.util.find_spec("lensdiff") is None:
    %pip install --quiet lensdiff"""
BAR = "application/vnd.jupyter.widget-view+json"
INSTALL_ID = "install"


def picture(page: Page, html: str) -> str:
    """A PNG of an HTML output as base64."""
    with tempfile.NamedTemporaryFile("w", suffix=".html", encoding="utf-8") as file:
        file.write(f"<!doctype html><meta charset=utf-8><body style='margin:0'>{html}</body>")
        file.flush()
        page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
        page.goto(f"file://{file.name}")
        frame = page.frames[1]
        frame.wait_for_selector(".ld-widget[data-ready]")
        page.wait_for_timeout(700)  # circuitsvis draws after the page is ready
        height = frame.evaluate("Math.ceil(document.body.getBoundingClientRect().bottom)")
        page.evaluate("h => document.querySelector('iframe').style.height = h + 'px'", height)
        page.set_viewport_size({"width": WIDTH, "height": max(HEIGHT, height)})  # what is out of sight is not drawn
        page.wait_for_timeout(1500)  # and again in its new size
        return base64.b64encode(page.locator("iframe").screenshot()).decode()


def with_install(notebook: NotebookNode) -> NotebookNode:
    """Return a notebook whose first cell of code, behind its title, is the one that installs."""
    cells = [cell for cell in notebook.cells if cell.get("id") != INSTALL_ID]
    cells.insert(1, nbformat.v4.new_code_cell(INSTALL, id=INSTALL_ID))
    notebook.cells = cells
    return notebook


def without_bars(notebook: NotebookNode) -> None:
    """Take out the bars of this run: they are widgets, which a page would ask the network to draw."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if BAR not in output.get("data", {})]


def build(path: Path, page: Page) -> None:
    """Execute one notebook in place."""
    notebook = with_install(nbformat.read(path, as_version=4))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(HERE)}}).execute()
    without_bars(notebook)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of this run
        for output in cell.get("outputs", []):
            html = output.get("data", {}).get("text/html", "")
            if "<iframe srcdoc" in html:
                output["data"] = {"image/png": picture(page, html), "text/plain": "(a picture of the view)"}
    nbformat.write(notebook, path)


def main() -> None:
    paths = [Path(name) for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb"))
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page()
        for path in paths:
            build(path, page)
        browser.close()


if __name__ == "__main__":
    main()
