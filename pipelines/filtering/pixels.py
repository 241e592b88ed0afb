"""How alike two pictures are pixel by pixel, wherever one of them shows a part of the other.

A cosine of keys says that two pictures show the same kind of thing; their pixels say whether they are the same picture.
Grey thumbnails are aligned: the whole of one, mirrored or not, is looked for in the other, at sizes down to 5/8 of a
side. First roughly, at half the resolution, by the correlation of grey levels; the best place is then refined to a
quarter of a pixel. What counts in the end is the correlation of details (a pixel less the mean around it), since any
dark thing on a light ground resembles another.

All sums are of whole numbers that a float holds exactly, so a score depends on the two thumbnails alone: not on the
other pairs, the number of threads or the machine.
"""

import functools

import numpy as np

from pipelines.schemas import THUMBNAIL_SIDE as SIDE

_COARSE = SIDE // 2
# Height and width, in coarse pixels, at which the whole of one thumbnail is looked for in the other.
_SIZES = ((16, 16), (16, 14), (14, 16), (14, 14), (14, 12), (12, 14), (12, 12), (12, 10), (10, 12), (10, 10))
# Least correlation of grey levels that is worth refining, at first and at a precision of a pixel: of photographs cut to
# 60 % of the side 1 in 100 has less.
_WORTH, _WORTH_STILL = 0.75, 0.8
# Both directions are refined if their rough correlations are this close.
_CLOSE = 0.05
# A quarter of a pixel is the unit of places.
_UNIT = 4
_FIRST_STEPS, _LAST_STEPS = (8, 4), (2, 1)
_LEAST = SIDE * _UNIT // 2
_GREYS = 16
# Root mean square of details, in grey levels, below which a picture is blank: noise would decide.
_DETAIL = 1.0
# Share of the pixels with one grey level from which they are an empty ground: of photographs 1 in 50 has so many.
_GROUND = 0.2
_BATCH = 256
# Overlaps that are kept, of at most 8 KiB each.
_KNOWN = 2048


def blank(thumbnails: np.ndarray) -> np.ndarray:
    """Tells which thumbnails uint8 `[n, SIDE, SIDE]` have too little detail to be told apart, bool `[n]`."""
    detail = _details(thumbnails.astype(np.int32))
    return np.square(detail).mean((-2, -1)) < (9 * _DETAIL) ** 2


def grounded(thumbnails: np.ndarray) -> np.ndarray:
    """Tells which thumbnails uint8 `[n, SIDE, SIDE]` have an empty ground, as drawings, logos and scans do, bool `[n]`.

    All that two of them may have in common is an outline.
    """
    rows = thumbnails.reshape(len(thumbnails), SIDE**2).astype(np.int64) + 256 * np.arange(len(thumbnails))[:, None]
    counts = np.bincount(rows.ravel(), minlength=256 * len(thumbnails)).reshape(-1, 256)
    return counts.max(1, initial=0) >= _GROUND * SIDE**2


def similarity(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Returns how alike pairs of pictures are: near 1 for copies, crops and mirror images, near 0 for others.

    Args:
        ours: thumbnails uint8 `[n, SIDE, SIDE]`.
        theirs: their partners, the same shape.

    Returns:
        float32 `[n]`, 0 to 1.
    """
    scores = np.empty(len(ours), np.float32)
    for begin in range(0, len(ours), _BATCH):
        pair = ours[begin : begin + _BATCH], theirs[begin : begin + _BATCH]
        small = _halved(pair[0]), _halved(pair[1])
        # The same pair in the other order has the same score.
        found = [_rough(small[i], small[1 - i]) for i in range(2)]
        best = np.maximum(found[0][0], found[1][0])
        for row in range(len(pair[0])):
            places = [
                _refine(pair[i][row], pair[1 - i][row], found[i][1][row])
                for i in range(2)
                if best[row] >= _WORTH and found[i][0][row] >= best[row] - _CLOSE
            ]
            scores[begin + row] = max(places, default=0.0)
    return scores


def _halved(thumbnails: np.ndarray) -> np.ndarray:
    """Returns thumbnails at half the resolution, whole grey levels, float32 `[n, 16, 16]`."""
    sums = thumbnails.astype(np.float32).reshape(-1, _COARSE, 2, _COARSE, 2).sum((2, 4))
    return np.rint(sums / 4)


@functools.lru_cache(_KNOWN)
def _overlaps(low: int, size: int, parts: int, pixels: int, unit: int) -> np.ndarray:
    """Returns how much of each pixel is in each of the equal parts of a line: float64 `[parts, pixels]`, whole numbers.

    Args:
        low: where the line begins, in units.
        size: its length, in units.
        parts: how many it is cut into.
        pixels: how many there are.
        unit: parts of a pixel that one unit is.
    """
    edges = low * parts + size * np.arange(parts + 1)[:, None]
    pixel = unit * parts * np.arange(pixels + 1)
    inside = np.minimum(edges[1:], pixel[1:]) - np.maximum(edges[:-1], pixel[:-1])
    return np.maximum(inside, 0).astype(np.float64)


def _rough(wholes: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the best place of each whole thumbnail in its partner, at half the resolution.

    Args:
        wholes: float32 `[n, 16, 16]`.
        others: the same shape.

    Returns:
        The best correlations float64 `[n]`, and int64 `[n, 5]`: whether it is mirrored, top, left, height and width of
        the place, in coarse pixels.
    """
    rows = np.arange(len(wholes))
    best, place = np.full(len(wholes), -1.0), np.zeros((len(wholes), 5), np.int64)
    sums, squares = _integral(others), _integral(np.square(others, dtype=np.float64))
    for height, width in _SIZES:
        down, across = (_overlaps(0, _COARSE, parts, _COARSE, 1) for parts in (height, width))
        template = np.rint(down @ wholes @ across.T / _COARSE**2).astype(np.float32)
        scores = _correlations(template, others, sums, squares)
        top = scores.argmax(axis=1)
        score, columns = scores[rows, top], _COARSE - width + 1
        mirrored, at = np.divmod(top, (_COARSE - height + 1) * columns)
        here = np.stack([mirrored, at // columns, at % columns, np.full_like(at, height), np.full_like(at, width)], 1)
        better = score > best
        best[better], place[better] = score[better], here[better]
    return best, place


def _integral(values: np.ndarray) -> np.ndarray:
    """Returns sums over all rows above and columns left of each corner, float64 `[n, 17, 17]`."""
    return np.pad(values.astype(np.float64).cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))


def _window(integral: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns the sums over all windows of a size, `[n, places]`."""
    sums = integral[:, height:, width:] - integral[:, :-height, width:]
    sums = sums - integral[:, height:, :-width] + integral[:, :-height, :-width]
    return sums.reshape(len(integral), -1)


def _correlations(template: np.ndarray, others: np.ndarray, sums: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Returns the correlations of templates `[n, h, w]` with all windows of their size, float64 `[n, 2 * places]`.

    The second half is of the mirrored templates. Grey levels are at most 255 and windows have at most 256 pixels, so
    that float32 adds up their products without rounding.
    """
    n, height, width = template.shape
    both = np.stack([template, template[:, :, ::-1]], 1).reshape(n, 2, -1)
    windows = np.lib.stride_tricks.sliding_window_view(others, (height, width), axis=(1, 2)).reshape(
        n, -1, both.shape[2]
    )
    products = (both @ windows.transpose(0, 2, 1)).astype(np.float64)
    size, flat = height * width, template.reshape(n, -1).astype(np.float64)
    ours, theirs = flat.sum(1), _window(sums, height, width)
    spread = size * np.square(flat).sum(1) - ours**2
    spreads = size * _window(squares, height, width) - theirs**2
    covariance = size * products - (ours[:, None] * theirs)[:, None]
    return _ratio(covariance, spread[:, None, None] * spreads[:, None]).reshape(n, -1)


def _ratio(covariance: np.ndarray, spreads: np.ndarray) -> np.ndarray:
    """Returns a covariance over the root of a product of variances; 0 where one of them is 0."""
    return np.where(spreads > 0, covariance / np.sqrt(np.maximum(spreads, 1)), 0.0)


def _correlation(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Returns the correlation of pictures of whole numbers `[.., h, w]`, float64 `[..]`."""
    size = ours.shape[-2] * ours.shape[-1]
    first, second = ours.sum((-2, -1)), theirs.sum((-2, -1))
    spread = size * np.square(ours).sum((-2, -1)) - first**2
    other = size * np.square(theirs).sum((-2, -1)) - second**2
    return _ratio(size * (ours * theirs).sum((-2, -1)) - first * second, spread * other)


def _details(picture: np.ndarray) -> np.ndarray:
    """Returns nine times the difference between each inner pixel and the mean of the 3 x 3 around it."""
    height, width = picture.shape[-2] - 2, picture.shape[-1] - 2
    around = sum(picture[..., y : y + height, x : x + width] for y in range(3) for x in range(3))
    return 9 * picture[..., 1:-1, 1:-1] - around


def _refine(whole: np.ndarray, other: np.ndarray, place: np.ndarray) -> float:
    """Returns the correlation of the details of a whole thumbnail with its place in another, after moving the place.

    Args:
        whole: uint8 `[SIDE, SIDE]`.
        other: likewise.
        place: from `_rough`.
    """
    mirrored, *box = (int(value) for value in place)
    ours, theirs = (picture.astype(np.float64) for picture in (whole[:, ::-1] if mirrored else whole, other))
    scale = SIDE // _COARSE * _UNIT
    spans = [(box[0] * scale, (box[0] + box[2]) * scale), (box[1] * scale, (box[1] + box[3]) * scale)]
    if _move(ours, theirs, spans, _FIRST_STEPS) < _WORTH_STILL:
        return 0.0
    _move(ours, theirs, spans, _LAST_STEPS)
    sizes = [_parts(span) for span in spans]
    return float(_correlation(_details(_resized(ours, sizes)), _details(_cut(theirs, spans, sizes))))


def _move(ours: np.ndarray, theirs: np.ndarray, spans: list[tuple[int, int]], steps: tuple[int, ...]) -> float:
    """Moves the spans to where the grey levels correlate best, by each step once; returns the correlation."""
    score = 0.0
    for step in steps:
        for axis in (0, 1):
            spans[axis], score = _moved(ours, theirs, spans, axis, step)
    return score


def _parts(span: tuple[int, int]) -> int:
    return max(1, round((span[1] - span[0]) / _UNIT))


def _moved(
    ours: np.ndarray, theirs: np.ndarray, spans: list[tuple[int, int]], axis: int, step: int
) -> tuple[tuple[int, int], float]:
    """Returns the best of nine spans along an axis, whose ends stay or move by a step, and its correlation."""
    low, high = spans[axis]
    ends = [(low + a, high + b) for a in (0, -step, step) for b in (0, -step, step)]
    ends = [(a, b) for a, b in ends if a >= 0 and b <= SIDE * _UNIT and b - a >= _LEAST]
    sizes = [_parts(span) for span in spans]
    if axis == 1:
        ours, theirs, sizes, spans = ours.T, theirs.T, sizes[::-1], spans[::-1]
    across = _overlaps(spans[1][0], spans[1][1] - spans[1][0], sizes[1], SIDE, _UNIT)
    strip = theirs @ across.T
    down = np.stack([_overlaps(a, b - a, sizes[0], SIDE, _UNIT) for a, b in ends])
    areas = np.array([(b - a) * (spans[1][1] - spans[1][0]) for a, b in ends])[:, None, None]
    scores = _correlation(_resized(ours, sizes), _grey(down @ strip, areas))
    best = int(scores.argmax())
    return ends[best], float(scores[best])


def _cut(picture: np.ndarray, spans: list[tuple[int, int]], sizes: list[int]) -> np.ndarray:
    """Returns the part of a thumbnail within spans of rows and columns, resized, in sixteenths of a grey level."""
    (top, bottom), (left, right) = spans
    down = _overlaps(top, bottom - top, sizes[0], SIDE, _UNIT)
    across = _overlaps(left, right - left, sizes[1], SIDE, _UNIT)
    return _grey(down @ picture @ across.T, (bottom - top) * (right - left))


def _resized(picture: np.ndarray, sizes: list[int]) -> np.ndarray:
    whole = (0, SIDE * _UNIT)
    return _cut(picture, [whole, whole], sizes)


def _grey(sums: np.ndarray, areas: np.ndarray | int) -> np.ndarray:
    return np.rint(sums * _GREYS / areas)
