"""MaskCLIP, CLIP-DINOiser and CLIP-DIY; each gives probabilities, H x W x classes, and the class map, H x W.

text: names x d, normalised; class_of_name: the class of each name.
size: (height, width) of the result; the image's own where None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from reference.image_ops import (
    Array,
    Size,
    antialiased,
    class_map,
    fitted_size,
    nearest,
    pad_to_multiple,
    resize,
    to_unit_range,
    window_positions,
)
from reference.vit import (
    Clip,
    Dino,
    Weights,
    clip_embedding,
    clip_keys,
    clip_states,
    dino_features,
    intermediate_features,
    layer,
    maskclip_features,
    softmax,
)

Image = NDArray[np.uint8]
NO_WEIGHTS: Weights = {}
NO_DINO = Dino({}, heads=1)
Result = tuple[Array, NDArray[np.int64]]


def unit(vectors: Array) -> Array:
    return np.stack([vector / max(math.sqrt((vector**2).sum()), 1e-12) for vector in vectors])


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def best_of_names(scores: Array, class_of_name: Sequence[int]) -> Array:
    """Scores per name -> scores per class: that of the best name."""
    best = np.full(max(class_of_name) + 1, -np.inf)
    for score, index in zip(scores, class_of_name, strict=True):
        best[index] = max(best[index], score)
    return best


def class_probabilities(features: Array, text: Array, class_of_name: Sequence[int], scale: float) -> Array:
    """N x d -> N x classes: softmax over the names, then the best name of each class."""
    return np.stack([best_of_names(softmax(scale * (text @ patch)), class_of_name) for patch in unit(features)])


def slide(
    image: Image,
    on_window: Callable[[Array], tuple[Array, Size]],
    patch: int,
    window: int,
    stride: int,
    short_side: int,
    max_long: int,
    size: Size | None,
) -> Result:
    """`on_window` gives a window's probabilities per patch (N x classes) and the grid of patches."""
    height, width = fitted_size((image.shape[0], image.shape[1]), short_side, max_long)
    pixels = resize(to_unit_range(image), (height, width))
    total: Array | None = None
    count = np.zeros((height, width, 1))
    for top in window_positions(height, window, stride):
        for left in window_positions(width, window, stride):
            cut = pixels[top : top + window, left : left + window]
            probabilities, grid = on_window(cut)
            padded = resize(probabilities.reshape(*grid, -1), (grid[0] * patch, grid[1] * patch))
            if total is None:
                total = np.zeros((height, width, probabilities.shape[1]))
            total[top : top + window, left : left + window] += padded[: cut.shape[0], : cut.shape[1]]
            count[top : top + window, left : left + window] += 1
    assert total is not None
    full = resize(total / count, size or (image.shape[0], image.shape[1]))
    return full, class_map(full)


def maskclip(
    image: Image,
    clip: Clip,
    text: Array,
    class_of_name: Sequence[int],
    *,
    window: int = 448,
    stride: int = 224,
    short_side: int = 448,
    max_long: int = 2048,
    scale: float = 100.0,
    size: Size | None = None,
) -> Result:
    def on_window(pixels: Array) -> tuple[Array, Size]:
        states = clip_states(pixels, clip)
        return class_probabilities(maskclip_features(states, clip), text, class_of_name, scale), states.grid

    return slide(image, on_window, clip.patch, window, stride, short_side, max_long, size)


def convolve3x3(features: Array, grid: Size, weight: Array, bias: Array) -> Array:
    """N x C -> N x outputs; neighbours beyond the border repeat it."""
    rows, columns = grid
    result = np.zeros((rows * columns, len(weight)))
    for y in range(rows):
        for x in range(columns):
            total = bias.copy()
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    row, column = min(max(y + dy, 0), rows - 1), min(max(x + dx, 0), columns - 1)
                    total += weight[:, :, dy + 1, dx + 1] @ features[row * columns + column]
            result[y * columns + x] = total
    return result


def affinities(features: Array, gamma: float) -> Array:
    """N x N cosine similarities; those below gamma are 0."""
    directions = unit(features)
    result = np.zeros((len(features), len(features)))
    for p in range(len(features)):
        for q in range(len(features)):
            cosine = float(directions[p] @ directions[q])
            result[p, q] = cosine if cosine >= gamma else 0.0
    return result


def guided_pooling(features: Array, affinity: Array) -> Array:
    """F+_p = sum_q A_pq F_q / (sum_q A_pq + 1e-6)."""
    return np.stack([(row[:, None] * features).sum(axis=0) / (row.sum() + 1e-6) for row in affinity])


def head_objectness(features: Array, heads: Weights) -> Array:
    """N in [0,1]: h on the L2-normalised intermediate features."""
    weight, bias = layer(heads, "bkg_decoder")
    return np.array([sigmoid(float(weight[0, :, 0, 0] @ feature + bias[0])) for feature in unit(features)])


def on_grid(features: Array, grid: Size, target: Size) -> Array:
    """N x C on one grid of patches -> the same on another."""
    return resize(features.reshape(*grid, -1), target).reshape(target[0] * target[1], -1)


def dino_values(pixels: Array, dino: Dino, grid: Size) -> Array:
    """N x C: DINO's normalised value embeddings on CLIP's grid. A teacher sees pixels that are padded first."""
    seen = dino_features(pad_to_multiple(pixels, dino.patch), dino)
    return on_grid(unit(seen.value), seen.grid, grid)


def dinoiser(
    image: Image,
    clip: Clip,
    text: Array,
    class_of_name: Sequence[int],
    *,
    heads: Weights = NO_WEIGHTS,
    affinity_dino: Dino = NO_DINO,
    found_dino: Dino = NO_DINO,
    decoder: Weights = NO_WEIGHTS,
    affinity: str = "clip",
    objectness: str = "head",
    background: int | None = None,
    gamma: float = 0.2,
    delta: float = 0.99,
    background_patch: str = "shared",
    window: int = 448,
    stride: int = 224,
    short_side: int = 448,
    max_long: int = 2048,
    scale: float = 100.0,
    size: Size | None = None,
) -> Result:
    """affinity: clip | dino | clip-keys; objectness: head | found | none.

    background: the class that patches without an object go to; None where filtering is off.
    background_patch: such a patch gives it probability 1; the other classes keep theirs (shared) or get 0 (alone).
    """

    def on_window(pixels: Array) -> tuple[Array, Size]:
        states = clip_states(pixels, clip)
        inner = intermediate_features(states, clip)
        if affinity == "clip":
            guide = convolve3x3(inner, states.grid, *layer(heads, "obj_proj"))
        elif affinity == "dino":
            guide = dino_values(pixels, affinity_dino, states.grid)
        else:
            guide = clip_keys(states, clip)
        pooled = guided_pooling(maskclip_features(states, clip), affinities(guide, gamma))
        probabilities = class_probabilities(pooled, text, class_of_name, scale)
        if background is None or objectness == "none":
            return probabilities, states.grid

        if objectness == "head":
            theta = head_objectness(inner, heads)
        else:
            soft = found(pad_to_multiple(pixels, found_dino.patch), found_dino, decoder)
            theta = on_grid(soft.reshape(-1, 1), (soft.shape[0], soft.shape[1]), states.grid)[:, 0]
        for patch in range(len(probabilities)):
            if probabilities[patch].max() < delta and not theta[patch] > 0.5:
                if background_patch == "alone":
                    probabilities[patch] = 0.0
                probabilities[patch, background] = 1.0
        return probabilities, states.grid

    return slide(image, on_window, clip.patch, window, stride, short_side, max_long, size)


def found_logits(pixels: Array, dino: Dino, decoder: Weights) -> Array:
    """pixels: H x W x 3 in [0,1] -> the decoder's output on DINO's grid of patches."""
    seen = dino_features(pixels, dino)
    weight, bias = np.asarray(decoder["weight"], np.float64), np.asarray(decoder["bias"], np.float64)
    return np.array([float(weight[0, :, 0, 0] @ key + bias[0]) for key in seen.key]).reshape(seen.grid)


def found(pixels: Array, dino: Dino, decoder: Weights) -> Array:
    """pixels: H x W x 3 in [0,1] -> objectness in [0,1] on DINO's grid of patches."""
    return np.vectorize(sigmoid)(found_logits(pixels, dino, decoder))


def found_bkg(pixels: Array, dino: Dino, tau: float = 0.3) -> Array:
    """pixels: H x W x 3 in [0,1] -> 1 for object, 0 for background, on DINO's grid of patches."""
    seen = dino_features(pixels, dino)
    attention = seen.class_attention
    heads, count = attention.shape
    mean = attention.sum() / (heads * count)
    share = [max(1, sum(value > mean for value in attention[head])) / count for head in range(heads)]
    beta = [math.log(sum(share) / share[head]) for head in range(heads)]
    seed = int(np.argmin(sum(beta[head] * attention[head] for head in range(heads))))
    depth = seen.key.shape[1] // heads
    weighted = np.stack([[beta[i // depth] * key[i] for i in range(len(key))] for key in seen.key])
    directions = unit(weighted)
    foreground = [0.0 if float(direction @ directions[seed]) > tau else 1.0 for direction in directions]
    return np.array(foreground).reshape(seen.grid)


def diy_cosines(canvas: Array, patch: int, clip: Clip, text: Array, class_of_name: Sequence[int]) -> Array:
    """n x n x classes: each crop's cosine with each class, the crops half a patch apart."""
    starts = range(0, canvas.shape[0] - patch + 1, patch // 2)
    rho = np.zeros((len(starts), len(starts), max(class_of_name) + 1))
    for row, top in enumerate(starts):
        for column, left in enumerate(starts):
            cut = canvas[top : top + patch, left : left + patch]
            crop = np.clip(antialiased(cut, (clip.image_size, clip.image_size)), 0.0, 1.0)
            embedding = unit(clip_embedding(crop, clip)[None])[0]
            rho[row, column] = best_of_names(text @ embedding, class_of_name)
    return rho


def diy_objectness(
    pixels: Array, objectness: str, dino: Dino, decoder: Weights, side: int | None, max_long: int | None, canvas: int
) -> Array:
    """canvas x canvas: FOUND's map of the image at short side `side` (None: at its own), padding cut off.

    What is upsampled to pixels are FOUND's logits; the training-free form has none.
    """
    own = (pixels.shape[0], pixels.shape[1])
    small = resize(pixels, fitted_size(own, side or min(own), max_long))
    is_found = objectness == "found"
    per_patch = found_logits(small, dino, decoder) if is_found else found_bkg(small, dino)
    padded = resize(per_patch[:, :, None], pad_to_multiple(small, dino.patch).shape[:2])
    theta = padded[: small.shape[0], : small.shape[1]]
    if is_found:
        theta = np.vectorize(sigmoid)(theta)
    return resize(theta, (canvas, canvas))[:, :, 0]


def diy(
    image: Image,
    clip: Clip,
    text: Array,
    class_of_name: Sequence[int],
    *,
    found_dino: Dino = NO_DINO,
    decoder: Weights = NO_WEIGHTS,
    objectness: str = "found",
    background: int = 0,
    canvas: int = 256,
    scales: Sequence[int] = (256, 128, 64),
    objectness_side: int | None = 448,
    upsample: str = "probabilities",
    objectness_max_long: int | None = None,
    scale: float = 100.0,
    size: Size | None = None,
) -> Result:
    """objectness: found | found-bkg | none; scales: sides of the crops on the canvas.

    upsample: what is brought to the photo's size, bilinearly its probabilities, or as they are its labels.
    """
    pixels = to_unit_range(image)
    square = resize(pixels, (canvas, canvas))
    maps = [resize(diy_cosines(square, patch, clip, text, class_of_name), (canvas, canvas)) for patch in scales]
    scores = np.mean(maps, axis=0)
    if objectness != "none":
        theta = diy_objectness(pixels, objectness, found_dino, decoder, objectness_side, objectness_max_long, canvas)
        for index in range(scores.shape[2]):
            scores[:, :, index] *= 1.0 - theta if index == background else theta
    probabilities = np.array([[softmax(scale * pixel) for pixel in row] for row in scores])
    target = size or (image.shape[0], image.shape[1])
    if upsample == "labels":
        return nearest(probabilities, target), nearest(class_map(probabilities), target)
    full = resize(probabilities, target)
    return full, class_map(full)
