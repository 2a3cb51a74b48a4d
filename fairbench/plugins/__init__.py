"""Plug-in files and the names in them: what a file registers, and how a name is written with its arguments."""
