"""Diagrams of lines, side by side, in plain SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Line = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT, _TOP, _LEFT, _STEP = 250, 180, 44, 46, 310
_DASHES = ("", ' stroke-dasharray="5 4"', ' stroke-dasharray="1 3"')


def svg(diagrams: Mapping[str, Mapping[str, Line]]) -> str:
    """Return one picture; each diagram begins at 0 on both axes."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_STEP * len(diagrams)} {_HEIGHT + 70}"'
        ' font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for place, (title, lines) in enumerate(diagrams.items()):
        if any(lines.values()):
            parts += _diagram(title, lines, _LEFT + _STEP * place)
    return "\n".join([*parts, "</svg>\n"])


def _diagram(title: str, lines: Mapping[str, Line], left: int) -> list[str]:
    widest, tallest = (max(p[axis] for line in lines.values() for p in line) for axis in (0, 1))
    bottom = _TOP + _HEIGHT
    parts = [
        f'<text x="{left}" y="18" font-weight="bold">{title}</text>',
        f'<path d="M{left},{_TOP} v{_HEIGHT} h{_WIDTH}" fill="none" stroke="#888"/>',
        f'<text x="{left - 4}" y="{_TOP + 8}" text-anchor="end">{tallest:.3g}</text>',
        f'<text x="{left - 4}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{left + _WIDTH}" y="{bottom + 16}" text-anchor="end">{widest:g}</text>',
    ]
    for number, ((name, line), dash) in enumerate(zip(lines.items(), _DASHES, strict=False)):
        x, y = left + 110 * number, 32
        parts.append(
            f'<path d="M{x},{y} h18" stroke="#2563eb" stroke-width="1.5"{dash}/>'
            f'<text x="{x + 22}" y="{y + 4}">{name}</text>'
        )
        places = [
            (left + _WIDTH * a / widest, bottom - _HEIGHT * b / (tallest or 1)) for a, b in line
        ]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{points}" fill="none" stroke="#2563eb"{dash}/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="#2563eb"/>' for x, y in places]
    return parts
