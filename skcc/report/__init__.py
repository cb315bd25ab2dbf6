"""Results for people: a page about a clustering, tables, images sorted into folders."""

from skcc.report.page import Clustering, write_page

__all__ = ["Clustering", "write_page"]
