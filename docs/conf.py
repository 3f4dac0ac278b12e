"""Sphinx's settings: `pip install -e ".[docs]" && sphinx-build -W -n docs docs/_build`."""

import jax_rnnt

project = "jax_rnnt"
release = jax_rnnt.__version__
html_title = f"jax_rnnt {release}"
exclude_patterns = ["_build"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_design",
]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["page.css"]
html_copy_source = False
html_show_copyright = False

# Docstrings say in words what types and shapes are, more than annotations can.
autodoc_typehints = "none"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
# `name` in a docstring is a link where these pages describe the name, and code elsewhere.
default_role = "py:obj"
nitpick_ignore_regex = [("py:obj", ".*"), ("py:class", "jax.Array")]
smartquotes_action = "D"  # dashes, no quotes: "mean" is a string
