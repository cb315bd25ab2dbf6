"""Results for people: a page, tables, sorted folders."""

from skcc.report.page import Clustering, write_page

__all__ = ["Clustering", "write_page"]
