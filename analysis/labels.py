"""Names beside the points of a picture, where no two of them meet."""

from math import cos, pi, sin

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

# directions from the point, the likeliest first
SIDES = [(cos(k * pi / 8), sin(k * pi / 8)) for k in (0, 8, 4, 12, 2, 6, 14, 10, 1, 15, 7, 9, 3, 13, 5, 11)]
DISTANCES = (5, 9, 14, 19, 24, 30, 36, 44, 52, 61, 70, 80, 95, 110)  # points from the point, tried in this order
FAR = 12  # points from where on a thin line leads to the name
MARKER = 3.5  # points around the middle of a marker, which stay free
APART = 8  # points between a name with a line and all other points


def beside(
    axes: Axes, points: list[tuple[float, float]], names: list[str], spreads: list[float], size: float = 6.5
) -> list[Annotation]:
    """Writes each name next to its point, as near as fits without touching a marker, another name or the frame.

    points: (x, y) in units of the axes, whose scales and limits must be set. spreads: half of the error bar of each, 0
    for none. size: of letters, in points. The crowded points are served first; a name for which there is no room
    within reach stands at the last place tried. Returns the annotations, in the order of names.
    """
    axes.figure.canvas.draw()  # sets the layout, in which places are measured
    pixels = axes.figure.dpi / 72
    at = axes.transData.transform(points)
    taken, frame, placed = _bars(axes, points, spreads, MARKER * pixels), axes.get_window_extent(), {}
    for k in sorted(range(len(names)), key=lambda k: _loneliness(at, k)):
        extent = _extent(axes, names[k], size)
        for offset in ((d * right, d * up) for d in DISTANCES for right, up in SIDES):
            box = _box(at[k] + np.multiply(offset, pixels), extent, offset)
            free = _inside(box, frame) and not any(box.overlaps(other) for other in taken)
            if free and _clear(box, at, k, np.hypot(*offset) > FAR, pixels):
                break
        taken.append(box)
        placed[k] = _annotate(axes, names[k], points[k], offset, size)
    return [placed[k] for k in range(len(names))]


def _bars(axes: Axes, points: list[tuple[float, float]], spreads: list[float], margin: float) -> list[Bbox]:
    """What markers and error bars cover, in pixels."""
    lows, highs = ([(x, y + sign * s) for (x, y), s in zip(points, spreads, strict=True)] for sign in (-1, 1))
    ends = zip(axes.transData.transform(lows), axes.transData.transform(highs), strict=True)
    return [Bbox.from_extents(*(low - margin), *(high + margin)) for low, high in ends]


def _loneliness(at: np.ndarray, k: int) -> float:
    """Mean distance to the three nearest other points."""
    return float(np.sort(np.linalg.norm(at - at[k], axis=1))[1:4].mean()) if len(at) > 1 else 0.0


def _extent(axes: Axes, name: str, size: float) -> np.ndarray:
    """Width and height of a name, in pixels."""
    text = axes.text(0, 0, name, fontsize=size)
    box = text.get_window_extent()
    text.remove()
    return np.array([box.width, box.height])


def _box(corner: np.ndarray, extent: np.ndarray, offset: tuple[float, float]) -> Bbox:
    """Where a name lies whose edge or corner nearest to its point is there."""
    low = corner - extent * (1 - np.array(_sides(offset))) / 2
    return Bbox.from_extents(*low, *(low + extent))


def _sides(offset: tuple[float, float]) -> tuple[int, int]:
    """On which side of its point a name lies: -1 left or below, 0 in the middle, 1 right or above."""
    length = max(map(abs, offset))
    right, up = (0 if abs(part) < 0.3 * length else int(np.sign(part)) for part in offset)
    return right, up


def _inside(box: Bbox, frame: Bbox) -> bool:
    return frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1


def _clear(box: Bbox, at: np.ndarray, k: int, far: bool, pixels: float) -> bool:
    """Whether nobody takes the name for another point's: its own is the nearest, or a line leads there."""
    gaps = np.hypot(*np.maximum(np.maximum(box.min - at, at - box.max), 0).T)
    others = np.delete(gaps, k).min(initial=np.inf)
    return bool(others > APART * pixels if far else others >= gaps[k])


def _annotate(
    axes: Axes, name: str, point: tuple[float, float], offset: tuple[float, float], size: float
) -> Annotation:
    """The name, with a line to its point if it stands far off; it has no say in the layout."""
    right, up = _sides(offset)
    how = {"ha": ("center", "left", "right")[right], "va": ("center", "bottom", "top")[up], "fontsize": size}
    if np.hypot(*offset) > FAR:
        how["arrowprops"] = {"arrowstyle": "-", "linewidth": 0.4, "color": "0.5", "shrinkA": 0, "shrinkB": MARKER}
    text = axes.annotate(name, point, offset, textcoords="offset points", **how)
    text.set_in_layout(False)
    return text
