"""The documentation site: `make docs` builds it with Sphinx; a dead link is an error."""

project = "flyweight"
author = "the flyweight authors"
copyright = author
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
highlight_language = "none"
html_theme = "furo"
html_title = "flyweight"
exclude_patterns = ["conf.py"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # a page of results may skip a level
