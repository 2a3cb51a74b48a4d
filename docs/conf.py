"""The documentation site: `sphinx-build -W --keep-going docs build/docs` builds it.

`building` writes the generated pages to docs/generated before Sphinx reads the sources. The tutorials run as notebooks;
`-D nb_execution_mode=off` leaves them out.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fairbench.version import __version__

sys.path.insert(0, str(Path(__file__).parent))
# The notebooks call the command line of this environment, without colours and with one thread per process.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
os.environ |= {"COLUMNS": "100", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}

project = "fairbench"
author = "The fairbench authors"
copyright = "The fairbench authors, Apache-2.0"  # noqa: A001
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "building"]
root_doc = "index"
exclude_patterns = ["building", "findings", "simulations"]
nitpicky = False

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # the generated reference of the command line nests by command, not by level
highlight_language = "none"
smartquotes = False  # they would turn --quick into a dash

nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True  # by building.streams
nb_output_stderr = "remove"  # progress bars

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
maximum_signature_line_length = 88
default_role = "code"

html_theme = "furo"
html_title = f"fairbench {version}"
html_math_renderer = "mathml"
html_static_path = ["style"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
