"""The site: it is made without a warning, and no link on any of its pages leads nowhere."""

import ast
import importlib.util
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import mpisign
import mpisign.optim
import mpisign.results
from tests.running import BIN, ROOT, run

MISSING = [name for name in ("sphinx", "myst_parser", "furo") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"make docs installs {', '.join(MISSING)}")


class Page(HTMLParser):
    """Where a page's links lead to, what others can link to in it, and its own addresses of other servers."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.anchors, self.loaded = [], {""}, []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag in ("img", "script", "link") and (source := given.get("src") or given.get("href")):
            self.links.append(source)
            self.loaded += [source] if urlsplit(source).netloc else []


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    strict = ["--fresh-env", "--fail-on-warning", "--keep-going", "--quiet"]
    ended = run(
        BIN / "sphinx-build", *strict, "-c", "docs", "-d", folder / "doctrees", ".", folder / "html", timeout=110
    )
    assert ended.code == 0, ended.err
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html") if "_static" not in path.parts}


def test_every_link_leads_somewhere(site, pages):
    dead = []
    for path, page in pages.items():
        for link in page.links:
            address = urlsplit(link)
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            if address.scheme or address.netloc:
                continue
            if not target.is_file() or (target in pages and unquote(address.fragment) not in pages[target].anchors):
                dead.append(f"{path.relative_to(site)}: {link}")
    assert dead == []


def test_nothing_is_loaded_from_elsewhere(pages):
    assert {source for page in pages.values() for source in page.loaded} == set()


def test_all_texts_are_pages(pages, site):
    texts = [*ROOT.glob("[!.]*/README.md"), *ROOT.glob("mpisign/*/README.md"), *ROOT.glob("mpisign/*/methods/*.md")]
    assert len(texts) > 80
    assert [t for t in texts if site / t.relative_to(ROOT).with_suffix(".html") not in pages] == []
    reachable = {
        (p.parent / unquote(urlsplit(link).path)).resolve() for p, page in pages.items() for link in page.links
    }
    assert [path for path in pages if path not in reachable and path.name not in ("index.html", "search.html")] == []


def test_what_can_be_imported_is_described(pages, site):
    defined = ast.parse((ROOT / "mpisign/__init__.py").read_text()).body
    functions = {f"mpisign.{f.name}" for f in defined if isinstance(f, ast.FunctionDef) and not f.name.startswith("_")}
    lazy = {f"{module}.{name}" for name, module in mpisign.LAZY.items()}
    modules = {mpisign.optim: "mpisign.optim", mpisign.results: "mpisign.results"}
    public = {f"{at}.{name}" for module, at in modules.items() for name in module.__all__}
    elsewhere = {f"mpisign.results.{name}" for name in ("Run", "read_all", "load_parameters")}  # where they are defined
    expected = functions | lazy | (public - elsewhere)
    assert expected <= pages[site / "docs/api.html"].anchors


def test_docstrings_are_shown_as_they_are_written(site):
    """No stars or backticks that were taken for markup, or lost."""
    text = re.sub(r"<[^>]+>", "", (site / "docs/api.html").read_text())
    assert "To be called before they are asked for anything." in text
    assert "**" not in re.sub(r"\*\*\w+", "", text)  # but in signatures
