"""Names beside the points of a picture, where no two of them meet."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))  # of the point, the likeliest first
DISTANCES = (5, 9, 14, 20, 27, 35, 44, 54, 66, 80, 96)  # points from it, tried one after the other
FAR = 14  # points from where on a thin line leads to the name
MARKER = 3.5  # points around the middle of a marker, which stay free


def beside(axes: Axes, points: list[tuple[float, float]], names: list[str], size: float = 7) -> list:
    """Writes each name next to its point, as near as it fits without touching a marker, another name or the frame.

    points: (x, y) in units of the axes, whose scales and limits must be set before. size: of letters, in points. The
    crowded middle is served first; a name for which there is no room anywhere stands at the last place tried. Returns
    the annotations, in the order of names.
    """
    figure = axes.figure
    figure.canvas.draw()  # sets the layout, which the places are measured in
    at = axes.transData.transform(points)
    pixels = figure.dpi / 72
    taken = [Bbox.from_extents(*(p - MARKER * pixels), *(p + MARKER * pixels)) for p in at]
    frame, placed = axes.get_window_extent(), {}
    for k in sorted(range(len(names)), key=lambda k: _loneliness(at, k)):
        for distance, (right, up) in ((d, side) for d in DISTANCES for side in SIDES):
            text = _annotation(axes, names[k], points[k], (distance * right, distance * up), size)
            box = text.get_window_extent()
            if _inside(box, frame) and not any(box.overlaps(other) for j, other in enumerate(taken) if j != k):
                break
            if (distance, (right, up)) != (DISTANCES[-1], SIDES[-1]):
                text.remove()
        taken.append(box)
        placed[k] = text
    return [placed[k] for k in range(len(names))]


def _annotation(axes: Axes, name: str, point: tuple[float, float], offset: tuple[float, float], size: float):
    """The name so many points from its point; its nearest edge is what is so far."""
    sides = {"ha": ("right", "center", "left"), "va": ("top", "center", "bottom")}
    aligned = {key: words[int(np.sign(o)) + 1] for (key, words), o in zip(sides.items(), offset, strict=True)}
    line = {"arrowprops": {"arrowstyle": "-", "linewidth": 0.4, "color": "0.5"}} if max(map(abs, offset)) >= FAR else {}
    return axes.annotate(name, point, offset, textcoords="offset points", fontsize=size, **aligned, **line)


def _loneliness(at: np.ndarray, k: int) -> float:
    """Mean distance to the three nearest other points."""
    return float(np.sort(np.linalg.norm(at - at[k], axis=1))[1:4].mean()) if len(at) > 1 else 0.0


def _inside(box: Bbox, frame: Bbox) -> bool:
    return frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
