"""Docstrings of classes that inherit documented parameters and attributes."""

import inspect
import re

_SECTION = re.compile(r"^(?P<title>[A-Z][A-Za-z ]+)\n-{3,}$", re.MULTILINE)
_MERGED = ("Parameters", "Attributes")


def merge_numpydoc(cls: type, parameters: list[str]) -> str:
    """Join the docstring of a class with the parameters and attributes of its bases."""
    merged: dict[str, dict[str, str]] = {title: {} for title in _MERGED}
    for base in reversed(cls.__mro__):
        sections = _split(base.__dict__.get("__doc__") or "")
        for title in _MERGED:
            merged[title] |= _entries(sections.get(title, ""))
    own = _split(cls.__dict__.get("__doc__") or "")
    order = {name: place for place, name in enumerate(parameters)}
    known = {name: text for name, text in merged["Parameters"].items() if name in order}
    merged["Parameters"] = dict(sorted(known.items(), key=lambda entry: order[entry[0]]))
    joined = {"": own.pop("", "").strip()}
    for title in _MERGED:
        joined[title] = "\n\n".join(merged[title].values())
    return _join({**joined, **{t: text for t, text in own.items() if t not in _MERGED}})


def _split(doc):
    """Sections of a docstring by title, the introduction by an empty one."""
    doc = inspect.cleandoc(doc)
    heads = [*_SECTION.finditer(doc)]
    starts = [0, *(head.end() for head in heads)]
    ends = [*(head.start() for head in heads), len(doc)]
    titles = ["", *(head["title"] for head in heads)]
    return {
        title: doc[start:end].strip("\n")
        for title, start, end in zip(titles, starts, ends, strict=True)
    }


def _entries(section):
    """Entries of a section by name; one begins at each line that is not indented."""
    parts = re.split(r"\n(?=\S)", section.strip("\n"))
    return {part.partition(":")[0].strip(): part.rstrip() for part in parts if part.strip()}


def _join(sections):
    text = [sections.pop("")]
    for title, body in sections.items():
        if body.strip():
            text.append(f"{title}\n{'-' * len(title)}\n{body.strip()}")
    joined = "\n\n".join(filter(None, text))
    return joined and joined + "\n"
