"""How Sphinx builds these pages: ``sphinx-build -W --keep-going -n docs docs/_build/html``."""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "trio-tlsbio"
author = "the trio-tlsbio authors"
copyright = author
release = version = importlib.metadata.version(project)

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosectionlabel",
    "changelog",
    "diagrams",
    "docstrings",
    "errors",
    "links",
    "public_names",
    "states",
]
exclude_patterns = ["_build"]
autosectionlabel_prefix_document = True
# Not deeper: each version in the changelog has the same sections.
autosectionlabel_maxdepth = 2
default_role = "literal"
highlight_language = "python"

html_theme = "furo"
html_title = project
html_copy_source = False
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_extra_path = ["images/benchmarks.svg"]  # what a page links but does not show

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True

# Nothing is fetched from the net to build these pages, so what is documented elsewhere is
# not linked.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(_?ssl|os|socket|trio|attrs|collections\.abc|typing|anyio|httpcore|httpx)\..*"),
    (r"py:class", r"(trio_tlsbio(\.\w+)+\.)?(T_Stream|StreamT|_Stream|Certificate)"),
    # Several exceptions in one entry of a docstring's "Raises".
    (r"py:exc", r"\w+, \w+"),
    (
        r"py:class",
        r"trio_tlsbio\._core\.native_session\.AnySession",
    ),  # an ssl.SSLSession or the like
    (r"py:class", r"trio_tlsbio\.testing(\.\w+)?\.T_\w+|datetime\.datetime|ipaddress\.\w+"),
]
