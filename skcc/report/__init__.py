"""Results for people: a page about a clustering, tables, images sorted into folders."""

from skcc.report.page import Clustering, are_few_photos, write_page

__all__ = ["Clustering", "are_few_photos", "write_page"]
