"""How Sphinx makes the documents: `tox -e docs`.

The pages are Markdown that reads well on a forge, too: what only Sphinx understands is the tables
of contents, and the pages in api/, which are made from docstrings.
"""

from __future__ import annotations

from importlib.metadata import version as version_of

project = "Durus"
author = "The Durus 5 developers"
copyright = author
release = version_of("durus-core")
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "examples"]

html_theme = "furo"
html_title = "Durus 5"
html_copy_source = False

# Links to a heading use the anchor that a forge makes, too.
myst_heading_anchors = 4

# Docstrings are Google's sections around plain text, in which `this` is code.
default_role = "code"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
autoclass_content = "both"  # what its arguments are stands at `__init__`
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
# What a method of the contract or of a container means stands once, where it was first said.
autodoc_inherit_docstrings = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

# With -n every reference must lead somewhere, but for types that are not documented here: those of
# Python (no network is needed to build), type variables, and what is private.
nitpick_ignore_regex = [
    ("py:.*", r"(?!durus\.).*"),
    ("py:.*", r"durus\.(\w+\.)*[A-Z]{1,2}"),
    ("py:.*", r"durus\.(\w+\.)*_\w+(\.\w+)*"),
]
