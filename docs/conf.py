"""Settings of the documentation; ``nox -s docs`` builds it."""

from typing import Any

from sphinx.domains.python import PyObject
from sphinx.pycode import ModuleAnalyzer

from recall_sdk import __version__

project = "recall-sdk"
copyright = "2026, recall-sdk contributors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_static", "requirements.txt"]
root_doc = "index"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
add_module_names = False

html_theme = "furo"
html_title = f"recall-sdk {version}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def forget_overloads(_app: Any) -> None:
    """Show one signature for each method of the client: three that differ in one word say less."""
    analyzer = ModuleAnalyzer.for_module("recall_sdk.client")
    analyzer.analyze()
    analyzer.overloads.clear()


def setup(app: Any) -> None:
    """Adjust what the settings above can't."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"  # Sphinx says "Variables"
    app.connect("builder-inited", forget_overloads)
