"""Plug-in files and the syntax of names: what a file registers, and how a name is written with arguments."""
