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


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs_cell_by_cell(name, lab, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    folder = SCREENSHOTS / Path(name).stem
    folder.mkdir(parents=True, exist_ok=True)
    url, token = lab
    browser.get(f"{url}/lab/tree/{name}?token={token}&reset")
    idle = '.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook-ExecutionIndicator[data-status="idle"]'
    wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, idle), 120, f"{name} opening with its kernel")
    prompts = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell .jp-InputArea"
    wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, prompts)[0].is_displayed(), 60, "cells showing")
    browser.find_elements(By.CSS_SELECTOR, prompts)[0].click()
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    total = len(browser.find_elements(By.CSS_SELECTOR, ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell"))
    for _ in range(total):
        browser.switch_to.active_element.send_keys(Keys.SHIFT, Keys.ENTER)
        wait_for(
            lambda: not any(cell["prompt"] == "[*]:" for cell in browser.execute_script(CELLS)), 600, "a cell ending"
        )
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
    if name == "get_final_result.ipynb":
        explore_by_keyboard(browser)
        browser.save_screenshot(str(folder / "explorer.png"))


def explore_by_keyboard(browser):
    """The explorer's boxes can be used with the keyboard only."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    panel = ".jp-NotebookPanel:not(.lm-mod-hidden) "
    model, session = browser.find_elements(By.CSS_SELECTOR, panel + ".widget-text input")

    def shown():
        return browser.find_element(By.CSS_SELECTOR, panel + ".widget-image").get_attribute("src")

    def press(what, *keys):
        before = shown()
        ActionChains(browser).send_keys(*keys).perform()
        wait_for(lambda: shown() != before, 60, f"{what}: another picture")

    def wait_taken(box, text):
        wait_for(
            lambda: box.get_attribute("placeholder") == text and not box.get_attribute("value"),
            60,
            "the box offering all its choices again",
        )

    browser.execute_script("arguments[0].scrollIntoView({block: 'start'}); arguments[0].focus()", model)
    press("a model", "Ensemble", Keys.ENTER)
    wait_taken(model, "Ensemble")
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert browser.switch_to.active_element == session
    choices = browser.execute_script("return [...arguments[0].list.options].map(o => o.value)", session)
    for text in (choices[1], choices[0]):
        press("an example", text, Keys.ENTER)
        wait_taken(session, text)

    def refused():
        message = browser.find_elements(By.CSS_SELECTOR, panel + ".widget-html")[-1]  # after the bars' own
        return "Type item ids" in message.text

    ActionChains(browser).send_keys("seven", Keys.ENTER).perform()
    wait_for(refused, 60, "a sentence on bad ids")
    ActionChains(browser).send_keys(*[Keys.BACKSPACE] * len("seven"), choices[1], Keys.ENTER).perform()
    wait_for(lambda: not refused(), 60, "good ids shown again")
