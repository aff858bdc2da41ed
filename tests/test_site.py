"""The static site: every page links to what exists, nothing comes from elsewhere, formulas are MathML."""

import re
from html.parser import HTMLParser

import pytest

from make_site import make_site, put_formulas, take_formulas, without_scripts
from process_data import ROOT


class Links(HTMLParser):
    """What a page fetches by itself, and where its links lead."""

    def __init__(self):
        super().__init__()
        self.fetched, self.links, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        if tag == "a":
            self.links.append(values.get("href", ""))
        else:
            self.fetched += [values[key] for key in ("src", "href", "data") if values.get(key)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    return folder, make_site(folder)


def parsed(path):
    links = Links()
    links.feed(path.read_text(encoding="utf-8"))
    return links


def test_every_notebook_has_a_page_and_a_picture(site):
    folder, pages = site
    notebooks = [p.stem for p in [*(ROOT / "notebooks").glob("*.ipynb"), ROOT / "get_final_result.ipynb"]]
    assert {page.stem for page in pages} == {*notebooks, "index", "README", "README.zh-CN"}
    index = parsed(folder / "index.html")
    for name in notebooks:
        assert f"{name}.html" in index.links and f"{name}.png" in index.fetched
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "GRU4REC" in re.search(r"<table>.*?</table>", (folder / "index.html").read_text(), re.DOTALL)[0]


def test_nothing_is_fetched_from_elsewhere(site):
    folder, pages = site
    for page in pages:
        found = parsed(page)
        assert "script" not in found.tags
        assert all(url.startswith("data:") or (folder / url).exists() for url in found.fetched), page
        local = [url for url in found.links if url and not url.startswith(("http", "#", "mailto:"))]
        if page.stem == "index":
            assert local and all((folder / url.split("#")[0]).exists() for url in local)
        assert not re.search(r"@import[^;]*http|url\([\"']?http", page.read_text(encoding="utf-8"))


def test_formulas_are_mathml(site):
    folder, _ = site
    for name in ("0_GRU4REC", "2_NARM"):
        text = (folder / f"{name}.html").read_text(encoding="utf-8")
        assert text.count("<math") >= 3 and "{formula" not in text
        # Whole: a subscript has its two parts inside.
        assert re.search(r"<msub><mi>[^<]+</mi><m[in]>[^<]+</m[in]></msub>", text)
    formulas = []
    assert take_formulas("a $x_t$ b `$x$` $$a = b$$ 3$ or 4$", formulas) == (
        "a {formula 0} b `$x$` {formula 1} 3$ or 4$"
    )
    assert 'display="block"' in formulas[1] and 'display="inline"' in formulas[0]
    assert put_formulas("{formula 1}", formulas) == formulas[1]
    assert without_scripts('<script src="a">x</script><p>') == "<p>"
