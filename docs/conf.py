"""Configuration of Sphinx; `make docs` builds the site into out/docs."""

from __future__ import annotations

from docutils.nodes import Element, TextElement
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import perception_rt

project = "perception_rt"
copyright = "the authors of perception_rt"
version = release = perception_rt.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
html_theme = "furo"
html_extra_path = ["sample_report.html"]
html_title = f"perception_rt {release}"

default_role = "py:obj"
add_module_names = False
python_use_unqualified_type_names = True
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_use_ivar = True


PUBLIC_NAMES = {
    f"{value.__module__}.{value.__qualname__}": f"perception_rt.{name}"
    for name in perception_rt.__all__
    for value in [getattr(perception_rt, name)]
}


def link_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: TextElement
) -> Element | None:
    """Link the module and name of a definition to the public name under which it is documented."""
    name = PUBLIC_NAMES.get(node.get("reftarget", ""))
    if name is None:
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, content)


def setup(app: Sphinx) -> None:
    """Link annotations too."""
    app.connect("missing-reference", link_public_name)
