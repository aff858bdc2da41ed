"""Every notebook in a real browser, cell by cell, as a user runs it: `make browser-test`.

JupyterLab runs locally with a token, and selenium controls Debian's chromium. Without these the tests are skipped.
Screenshots are written to results/screenshots/.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest
from conftest import ON_DEMO, TRAINED_ON_DEMO

ROOT = Path(__file__).resolve().parent.parent
SCREENSHOTS = ROOT / "results" / "screenshots"
NOTEBOOKS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*(ROOT / "notebooks").glob("[0-9]_*.ipynb"), ROOT / "get_final_result.ipynb"]
)

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]


def shrink(path):
    """A copy of the notebook with parameters for Demo and without outputs."""
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", []):
            values = ON_DEMO.get(path.stem, TRAINED_ON_DEMO)
            lines = cell.source.splitlines()
            for i, line in enumerate(lines):
                name = line.split(" = ")[0]
                if name in values:
                    lines[i] = f"{name} = {values[name]!r}"
            cell.source = "\n".join(lines)
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def lab(project_copy):
    """A running JupyterLab in a copy of the project: its address, as (url, token)."""
    for name in NOTEBOOKS:
        shrink(project_copy / name)
    settings = project_copy / ".lab"
    for name, values in {
        # Render all cells at once, because screenshots of cells that are not rendered fail.
        "notebook-extension/tracker": '{"windowingMode": "none"}',
        "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
    }.items():
        file = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(values)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += [f"--IdentityProvider.token={token}", f"--LabApp.user_settings_dir={settings}"]
    command += ["--ServerApp.port_retries=0", "--LabApp.news_url=", "--allow-root"]
    environment = {key: value for key, value in os.environ.items() if key != "TQDM_DISABLE"}
    with open(project_copy / "lab.log", "w") as log:
        process = subprocess.Popen(command, cwd=project_copy, stdout=log, stderr=log, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            assert process.poll() is None, (project_copy / "lab.log").read_text()
            try:
                urllib.request.urlopen(f"{url}/api/status?token={token}", timeout=5)
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        yield url, token
    finally:
        process.kill()  # a normal exit would ask for confirmation and wait for the kernels
        process.wait(30)


@pytest.fixture(scope="module")
def browser():
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium and chromium-driver are not installed (apt-get install them)")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1000"):
        options.add_argument(argument)
    found = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield found
    found.quit()


def wait_for(condition, seconds, what):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.3)
    raise AssertionError(f"{what} did not happen within {seconds} s")


CELLS = """
return [...document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell')].map(cell => ({
    prompt: cell.querySelector('.jp-InputPrompt').textContent.trim(),
    error: cell.querySelectorAll('[data-mime-type="application/vnd.jupyter.error"], '
                                 + '[data-mime-type="application/vnd.jupyter.stderr"]').length
           ? cell.querySelector('.jp-OutputArea').innerText : '',
    images: [...cell.querySelectorAll('.jp-OutputArea img')]
            .map(image => [image.naturalWidth, image.getBoundingClientRect().width]),
    bars: [...cell.querySelectorAll('.jp-OutputArea progress, .jp-OutputArea .progress-bar')]
          .map(bar => bar.style.width || String(bar.value)),
}))
"""


def run_cell_by_cell(name, lab, browser):
    """Open a notebook and run it by Shift-Enter, as a user does."""
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    url, token = lab
    browser.get(f"{url}/lab/tree/{name}?token={token}&reset")
    idle = '.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook-ExecutionIndicator[data-status="idle"]'
    wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, idle), 120, f"{name} opening with its kernel")
    prompts = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell .jp-InputArea"

    def click_first_cell():
        try:
            browser.find_elements(By.CSS_SELECTOR, prompts)[0].click()
        except (IndexError, WebDriverException):  # not shown yet, or drawn again in this moment
            return False
        return True

    wait_for(click_first_cell, 60, "cells showing")
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    total = len(browser.find_elements(By.CSS_SELECTOR, ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell"))
    for _ in range(total):
        browser.switch_to.active_element.send_keys(Keys.SHIFT, Keys.ENTER)
        wait_for(
            lambda: not any(cell["prompt"] == "[*]:" for cell in browser.execute_script(CELLS)), 600, "a cell ending"
        )


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs_cell_by_cell(name, lab, browser):
    from selenium.webdriver.common.by import By

    folder = SCREENSHOTS / Path(name).stem
    folder.mkdir(parents=True, exist_ok=True)
    run_cell_by_cell(name, lab, browser)
    cells = browser.execute_script(CELLS)
    elements = browser.find_elements(By.CSS_SELECTOR, ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell")
    for i, element in enumerate(elements):
        browser.execute_script("arguments[0].scrollIntoView({block: 'start'})", element)
        if i % 3 == 0:
            browser.save_screenshot(str(folder / f"{i:02}.png"))
    errors = [cell["error"] for cell in cells if cell["error"]]
    assert not errors, errors[0]
    # Empty cells after the last one may have been made by Shift-Enter.
    codes = [cell for cell in nbformat.read(ROOT / name, 4).cells if cell.cell_type == "code"]
    assert sum(cell["prompt"] not in ("", "[ ]:") for cell in cells) == len(codes)
    images = [image for cell in cells for image in cell["images"]]
    assert images
    assert all(natural > 100 and shown > 100 for natural, shown in images), images
    bars = [bar for cell in cells for bar in cell["bars"]]
    assert all(float(bar.rstrip("%")) > 0 for bar in bars), "a progress bar never moved"
    if name[0] == "n" and name[10] in "012348":
        assert bars, "training showed no progress bar"


HOSTILE = r"<img src=x onerror=alert(1)> $x^2$ \alpha_1"
# Text that a reader sees, with no part of it made an element or a formula by the name of a dataset.
OUTPUTS = """
const panel = document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden)');
return {
    text: [...panel.querySelectorAll('.jp-OutputArea table')].map(table => table.innerText),
    images: panel.querySelectorAll('.jp-OutputArea img[src="x"], .jp-OutputArea img[onerror]').length,
    formulas: panel.querySelectorAll('.jp-OutputArea mjx-container, .jp-OutputArea .MathJax').length,
};
"""


def test_a_hostile_name_of_a_dataset_is_shown_as_text(lab, project_copy, browser):
    """The final notebook with a folder whose name is HTML and mathematics: nothing runs, nothing is typeset."""
    from selenium.webdriver.common.by import By

    shutil.copytree(project_copy / "dataset" / "Demo", project_copy / "dataset" / HOSTILE)
    notebook = nbformat.read(project_copy / "get_final_result.ipynb", 4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source += f'\nDATASETS, MODELS, EPOCHS = [{HOSTILE!r}], ["CoOccurrence"], 1'
    markdown = f"Markdown('a: ' + plots.escape_markdown({HOSTILE!r}))"
    notebook.cells.append(nbformat.v4.new_code_cell(f"from IPython.display import Markdown\n{markdown}"))
    nbformat.write(notebook, project_copy / "hostile.ipynb")
    run_cell_by_cell("hostile.ipynb", lab, browser)
    errors = [cell["error"] for cell in browser.execute_script(CELLS) if cell["error"]]
    assert not errors, errors[0]
    time.sleep(3)  # formulas are typeset after the output is shown
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(SCREENSHOTS / "hostile.png"))
    shown = browser.execute_script(OUTPUTS)
    name = HOSTILE.lower()
    assert sum(name in text for text in shown["text"]) >= 3, shown["text"]  # tables by pandas, and a caption of ours
    assert shown["images"] == 0 and shown["formulas"] == 0, shown
    last = browser.find_elements(By.CSS_SELECTOR, ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-RenderedMarkdown")[-1]
    assert last.text == f"a: {HOSTILE}"


EXPLORER = """
import numpy as np
import torch
from models import build_model
from process_data import Sessions, Vocabulary
from sessionrec.checkpoint import Checkpoint
from sessionrec.explorer import Explorable, explore

names = ["<img src=x onerror=alert(1)>", "$5 off $6", "red, small", *(f"item-{i}" for i in range(40))]
torch.manual_seed(0)

def made(model, names):
    vocabulary = Vocabulary(np.arange(len(names)), names)
    model = build_model(model, n_items=len(names), width=8).eval()
    return Checkpoint(model, vocabulary, np.arange(len(names) + 1), {"mask_seen": True})

sessions = Sessions.from_lists([[0, 1, 2], [3, 4, 5], [0, 4]])
shop = {"GRU4REC": made("GRU4REC", names), "NARM": made("NARM", names)}
ids = {"SASRec": made("SASRec", [str(i) for i in range(30)])}
explore({"<b>shop</b>": Explorable(shop, sessions, [[0, 1, 2], [3, 4, 5, 6]]),
         "ids": Explorable(ids, sessions, [[7, 8]])}, k=10)
"""


def test_explorer_by_keyboard(lab, browser, project_copy):
    """The explorer can be used with the keyboard only, and answers below the box that was typed in."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(metadata=kernel, cells=[nbformat.v4.new_code_cell(EXPLORER)])
    nbformat.write(notebook, project_copy / "explorer.ipynb")
    run_cell_by_cell("explorer.ipynb", lab, browser)
    folder = SCREENSHOTS / "explorer"
    folder.mkdir(parents=True, exist_ok=True)
    panel = ".jp-NotebookPanel:not(.lm-mod-hidden) "
    inputs = panel + ".widget-text input"
    wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, inputs), 60, "the explorer")
    assert not [cell["error"] for cell in browser.execute_script(CELLS) if cell["error"]]
    dataset, model, session, append = browser.find_elements(By.CSS_SELECTOR, inputs)

    image = panel + ".widget-html img[src^='data:image/png']"

    def picture():
        """What is drawn, read in one step: the element is replaced with every answer."""
        return browser.execute_script("return document.querySelector(arguments[0])?.src", image)

    def press(what, *keys):
        before = picture()
        ActionChains(browser).send_keys(*keys).perform()
        wait_for(lambda: picture() not in (None, before), 60, f"{what}: another picture")

    def wait_taken(box, text):
        wait_for(
            lambda: box.get_attribute("placeholder") == text and not box.get_attribute("value"),
            60,
            "the box offering all its choices again",
        )

    def answer(box):
        """The sentence in the widget below a box, once it stands there."""
        script = "return arguments[0].closest('.widget-text').nextElementSibling.innerText"
        text = wait_for(lambda: browser.execute_script(script, box).strip(), 60, "a sentence below the box")
        top = "return document.querySelector(arguments[0]).getBoundingClientRect().y"
        assert browser.execute_script(top, image) > browser.execute_script(
            "return arguments[0].getBoundingClientRect().y", box
        )
        return text

    def choices(box):
        return browser.execute_script("return [...arguments[0].list.options].map(o => o.value)", box)

    def correct(text, *keys):
        """Delete the text, which stayed in the box, and type."""
        ActionChains(browser).send_keys(*[Keys.BACKSPACE] * len(text), *keys).perform()

    def screenshot(name):
        browser.execute_script("arguments[0].scrollIntoView({block: 'start'})", dataset)
        browser.save_screenshot(str(folder / f"{name}.png"))

    browser.execute_script("arguments[0].scrollIntoView({block: 'start'}); arguments[0].focus()", model)
    first, second = choices(session)
    assert first == '["<img src=x onerror=alert(1)>", "$5 off $6", "red, small"]'
    assert (model.get_attribute("placeholder"), session.get_attribute("placeholder")) == ("NARM", first)
    assert [image.get_attribute("alt")[:17] for image in browser.find_elements(By.CSS_SELECTOR, panel + "img")] == [
        "Recommended items"  # the picture alone: no name became an element
    ]
    ActionChains(browser).send_keys("gru", Keys.ENTER).perform()
    assert answer(model) == "There is no model 'gru': choose GRU4REC."
    assert model.get_attribute("value") == "gru"
    screenshot("half-typed")
    correct("gru")
    press("a model", "GRU4REC", Keys.ENTER)
    wait_taken(model, "GRU4REC")

    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert browser.switch_to.active_element == session
    for text in (second, first):
        press("an example", text, Keys.ENTER)
        wait_taken(session, text)
    ActionChains(browser).send_keys("item-1,,", Keys.ENTER).perform()
    assert answer(session).startswith("Type one or more items with one comma between two of them")
    correct("item-1,,")
    press("popular items", "<b>7</b>", Keys.ENTER)
    assert answer(session) == "GRU4REC knows none of these items ('<b>7</b>'), so the most popular items are shown."
    screenshot("popular")
    correct("<b>7</b>")
    press("good names", '["red, small", "item-2"]', Keys.ENTER)
    wait_taken(session, '["red, small", "item-2"]')

    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert browser.switch_to.active_element == append
    best = choices(append)[0]
    press("a longer session", best, Keys.ENTER)
    wait_taken(session, f'["red, small", "item-2", "{best}"]')
    ActionChains(browser).send_keys("nothing", Keys.ENTER).perform()
    assert answer(append).startswith("GRU4REC knows no item 'nothing'")
    screenshot("append")
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert browser.switch_to.active_element.text == "remove last"
    press("the session as before", Keys.ENTER)
    wait_taken(session, '["red, small", "item-2"]')

    browser.execute_script("arguments[0].focus()", dataset)
    press("another dataset", "ids", Keys.ENTER)
    wait_taken(dataset, "ids")
    wait_taken(session, "7, 8")
    screenshot("dataset")
