"""Finished runs as a table, as one self-contained page, as CSV, Markdown and LaTeX. Needs no torch."""
