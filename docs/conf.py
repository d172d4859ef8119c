"""Settings of Sphinx for the site: its pages are the READMEs and the methods' pages, where they lie, and api.rst.

What a page links to and is no page itself, a file or a folder, becomes one, so that links lead somewhere on the site as
they do in the repository.
"""

import inspect
import os
import re
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx import addnodes

import mpisign

ROOT = Path(__file__).resolve().parent.parent

project = "mpisign"
version = release = mpisign.__version__
copyright = "the authors of mpisign"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "*/README.md", "mpisign/**.md", "analysis/**.md", "docs/api.rst"]
exclude_patterns = [".*", "build", "runs", "wheelhouse"]
smartquotes = False

html_theme = "furo"
html_title = f"mpisign {release}"
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_copy_source = False
html_use_index = html_domain_indices = False
myst_heading_anchors = 6

autodoc_member_order = "bysource"
maximum_signature_line_length = 100

CONTENTS = {
    "README": """
```{toctree}
:hidden:

jobs/README
mpisign/optim/README
mpisign/figures/README
slurm/README
mpisign/algorithms/README
mpisign/problems/README
analysis/README
docs/api
CHANGELOG
```
""",
    "mpisign/algorithms/README": """
```{toctree}
:hidden:
:glob:

methods/*
```
""",
}


def complete_source(app, docname, source) -> None:
    """Gives a page its part of the table of contents, and a table that is a file by itself a heading."""
    source[0] += CONTENTS.get(docname, "")
    if docname.startswith("analysis/") and not source[0].startswith("#"):
        source[0] = f"---\norphan: true\n---\n\n# {Path(docname).name}\n\n{source[0]}"


def as_restructured_text(app, what, name, obj, options, lines) -> None:
    """Plain sentences with code between backticks, or indented, in reStructuredText."""
    parts = "\n".join(lines).split("`")
    parts[::2] = [re.sub(r"([*|\\]|_\b)", r"\\\1", part) for part in parts[::2]]
    text = "``".join(parts)
    if named := "|".join(parameters(obj)):
        # what tells of a parameter, or of several, gets a paragraph of its own
        text = re.sub(rf"(?:^|(?<=\.)\s+)((?:(?:{named}), )*(?:{named})): ", r"\n\n**\1**: ", text, flags=re.MULTILINE)
    text = re.sub(r"\n\n(?=    )", "\n\n::\n\n", text)
    lines[:] = text.split("\n")


def parameters(obj) -> list[str]:
    """The names of what a function or class is called with."""
    try:
        return list(inspect.signature(obj).parameters)
    except (TypeError, ValueError):
        return []


class Linked:
    """Files and folders that pages link to and that are no pages themselves, by their paths from the root."""

    def __init__(self):
        self.paths: set[str] = set()

    def find(self, app, doctree) -> None:
        """Has links of a page to such files and folders lead to what show() makes of them."""
        docname = app.env.docname
        for node in [*doctree.findall(addnodes.download_reference), *doctree.findall(addnodes.pending_xref)]:
            path = (ROOT / docname).parent / node["reftarget"]
            if node["reftype"] != "myst" or node.get("refdomain") or not (path.is_dir() or is_text(path)):
                continue
            relative = os.path.relpath(path, ROOT)
            self._add(Path(relative))
            uri = app.builder.get_relative_uri(docname, self._page(relative))
            node.replace_self(nodes.reference("", "", *node.children, refuri=uri, internal=True))

    def _add(self, path: Path) -> None:
        self.paths.add(str(path))
        for inner in (ROOT / path).iterdir() if (ROOT / path).is_dir() else ():
            if not inner.name.startswith(("_", ".")) and (inner.is_dir() or is_text(inner)):
                self._add(inner.relative_to(ROOT))

    def _page(self, path: str) -> str:
        return f"{path}/index" if (ROOT / path).is_dir() else path

    def show(self, app):
        """The pages: a folder's list of what is in it, a file's text in colours."""
        for path in sorted(self.paths):
            if path.removesuffix(".md") in app.env.found_docs:
                continue
            body = self._listing(app, path) if (ROOT / path).is_dir() else self._text(app, path)
            context = {"title": path, "body": f"<h1>{escape(path)}</h1>\n{body}", "display_toc": False}
            yield self._page(path), context, "page.html"

    def _listing(self, app, path: str) -> str:
        here, items = self._page(path), []
        for inner in sorted(p for p in self.paths if str(Path(p).parent) == path):
            document = inner.removesuffix(".md")
            page = document if document in app.env.found_docs else self._page(inner)
            name = Path(inner).name + ("/" if (ROOT / inner).is_dir() else "")
            items.append(f'<li><a href="{escape(app.builder.get_relative_uri(here, page))}">{escape(name)}</a></li>')
        return "<ul>\n" + "\n".join(items) + "\n</ul>"

    def _text(self, app, path: str) -> str:
        lexer = {".py": "python", ".toml": "toml", ".sh": "bash", ".sbatch": "bash"}.get(Path(path).suffix, "text")
        return app.builder.highlighter.highlight_block((ROOT / path).read_text(), lexer)


def is_text(path: Path) -> bool:
    """Whether it can be shown as it is."""
    return path.is_file() and path.suffix in {"", ".def", ".md", ".py", ".sbatch", ".sh", ".toml", ".txt"}


def forward_index(app, exception) -> None:
    """The site begins where a browser looks first."""
    if not exception:
        Path(app.outdir, "index.html").write_text('<meta http-equiv="refresh" content="0; url=README.html">\n')


def setup(app) -> None:
    """Called by Sphinx."""
    linked = Linked()
    app.connect("source-read", complete_source)
    app.connect("autodoc-process-docstring", as_restructured_text)
    app.connect("doctree-read", linked.find)
    app.connect("html-collect-pages", linked.show)
    app.connect("build-finished", forward_index)
