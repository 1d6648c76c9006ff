"""Figures and HTML pages: everything that draws, or writes a page."""
