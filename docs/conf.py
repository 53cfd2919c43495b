"""Settings of the documentation site; `make docs` builds it."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.ext.napoleon.docstring import GoogleDocstring

project = "splatkit-ns"
author = "The splatkit-ns developers"
release = re.findall(r'^version = "(.+)"', (Path(__file__).parents[1] / "pyproject.toml").read_text(), re.MULTILINE)[0]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 100
python_display_short_literal_types = True
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"splatkit-ns {release}"
html_copy_source = False


# An attribute's docstring is text: napoleon takes what stands before its first colon for a type.
GoogleDocstring._consume_inline_attribute = lambda self: ("", self._dedent(self._consume_to_end()))  # type: ignore
