"""Sphinx's settings: pages in Markdown by MyST, the reference from the docstrings (`docstrings.py`)."""

import os
import re
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}  # which every installation has; only docstrings are read

from docstrings import Reference  # noqa: E402

import keras_reg  # noqa: E402

project, author, release = "keras_reg", "the keras_reg authors", keras_reg.__version__
copyright = author
extensions = ["myst_parser"]
exclude_patterns = ["_build", "_static"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"keras_reg {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = html_show_copyright = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"
pygments_style, pygments_dark_style = "friendly", "github-dark"


def links_of_the_site(app, docname: str, source: list[str]) -> None:
    """What is a page of the site as well is linked as one; on a repository's pages the links lead to the files."""
    up = "../" * docname.count("/")
    source[0] = re.sub(r"\]\((?:\.\./)+benchmarks/README\.md", f"]({up}benchmarks.md", source[0])
    source[0] = re.sub(r"\]\((?:\.\./)+keras_reg/CHANGELOG\.md", f"]({up}changelog.md", source[0])


def setup(app) -> dict:
    app.add_directive("reference", Reference)
    app.connect("source-read", links_of_the_site)
    return {"parallel_read_safe": True}
