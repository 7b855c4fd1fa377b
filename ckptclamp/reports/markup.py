"""HTML and SVG as trees, so that no text can become a tag."""

from __future__ import annotations

from xml.etree import ElementTree as ET

Child = ET.Element | str | None


def element(tag: str, *children: Child, **attributes: str | float) -> ET.Element:
    """Make an element. In the names of `attributes` ``_`` stands for ``-``, at the end for nothing.

    ``None`` among the children is left out.
    """
    made = ET.Element(
        tag, {name.rstrip("_").replace("_", "-"): _value(v) for name, v in attributes.items()}
    )
    for child in children:
        append(made, child)
    return made


def append(parent: ET.Element, child: Child) -> None:
    """Add an element, or text after what is there already."""
    if isinstance(child, ET.Element):
        parent.append(child)
    elif child is not None and len(parent):
        parent[-1].tail = (parent[-1].tail or "") + child
    elif child is not None:
        parent.text = (parent.text or "") + child


def page(root: ET.Element) -> str:
    """Return an HTML document with `root` as its ``html`` element."""
    return f"<!DOCTYPE html>\n{ET.tostring(root, encoding='unicode', method='html')}\n"


def _value(value: str | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
