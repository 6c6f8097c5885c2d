"""Settings of the documentation; ``nox -s docs`` builds it."""

import re
from concurrent.futures import Executor
from inspect import isfunction
from typing import Any, Dict, List, Optional, get_type_hints

from sphinx.domains.python import PyObject
from sphinx.pycode import ModuleAnalyzer

from recall_sdk import RecallClient, RecallError, __version__
from recall_sdk._arguments import ClientTimeout
from recall_sdk.testing import RecallServer
from recall_sdk.testing._scripts import UNSET

project = "recall-sdk"
copyright = "2026, recall-sdk contributors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "sphinx_design"]
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
html_theme_options = {
    "light_logo": "logo-light.svg",
    "dark_logo": "logo-dark.svg",
    "sidebar_hide_name": True,
    "light_css_variables": {"color-brand-primary": "#0f7a55", "color-brand-content": "#0b6b4a"},
    "dark_css_variables": {"color-brand-primary": "#4fd1a1", "color-brand-content": "#6fdcb4"},
}
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


NOT_GIVEN: Dict[Any, Any] = {ClientTimeout.DEFAULT: Optional[float], UNSET: Any}
"""Private defaults that stand for an argument that is not given, and the type of one that is."""


class Dots:
    """What the pages show for such a default."""

    def __repr__(self) -> str:
        return "..."


def show_no_private_names(_app: Any) -> None:
    """Show one signature for each method (three that differ in one word say less), and no private name in it."""
    analyzer = ModuleAnalyzer.for_module("recall_sdk.client")
    analyzer.analyze()
    analyzer.overloads.clear()
    for function in filter(isfunction, [*vars(RecallClient).values(), *vars(RecallServer).values(), RecallError.__init__]):
        function.__annotations__ = get_type_hints(function, localns={"Executor": Executor})
        defaults = function.__kwdefaults__ or {}
        for name in [name for name, default in defaults.items() if default in NOT_GIVEN]:
            function.__annotations__[name] = NOT_GIVEN[defaults[name]]
            defaults[name] = Dots()


def speak_to_users(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: List[str]) -> None:
    """Name a type by the address that users import it from, and remove references to "the reference page"."""
    kept = [line for line in lines if not line.startswith("See the reference page")]
    lines[:] = [re.sub(r"\brecall_sdk\.\w+\.", "~recall_sdk.", line) if line.startswith(":vartype") else line for line in kept]


def setup(app: Any) -> None:
    """Adjust what the settings above can't."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"  # Sphinx says "Variables"
    app.connect("builder-inited", show_no_private_names)
    app.connect("autodoc-process-docstring", speak_to_users, priority=600)  # after Napoleon
