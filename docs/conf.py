"""Sphinx reads the Markdown pages of this folder: make docs."""

project = "Video dataset distillation"
extensions = ["myst_parser"]
html_theme = "alabaster"
html_theme_options = {"description": "Methods side by side under the same budgets", "page_width": "1200px"}
html_sidebars = {"**": ["about.html", "navigation.html", "searchbox.html"]}
html_show_copyright = False
