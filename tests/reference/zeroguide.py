"""Zero-guidance's vision side: keys of overlapping patches, and the embedding of a masked segment, loop by loop."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from reference.image_ops import Array, Size
from reference.vit import (
    Block,
    Clip,
    Dino,
    attend,
    block_count,
    clip_block,
    clip_project,
    clip_states,
    dino_block,
    feed_forward,
    layer,
    linear,
    query_key_value,
    resized_positions,
    softmax,
)


def overlapping_keys(image: Array, dino: Dino, stride: int) -> tuple[Array, Size]:
    """N x C keys of the last layer for patches `stride` apart, all in one sequence; image: H x W x 3 in [0,1]."""
    normalised = (image - np.array(dino.mean)) / np.array(dino.std)
    kernel, bias = layer(dino.weights, "patch_embed.proj")
    patch = kernel.shape[-1]
    tokens = [np.asarray(dino.weights["cls_token"], np.float64)[0, 0]]
    rows = range(0, image.shape[0] - patch + 1, stride)
    columns = range(0, image.shape[1] - patch + 1, stride)
    for y in rows:
        for x in columns:
            pixels = normalised[y : y + patch, x : x + patch].transpose(2, 0, 1)
            tokens.append(np.array([(pixels * one).sum() for one in kernel]) + bias)
    grid = (len(rows), len(columns))
    states = np.stack(tokens) + resized_positions(
        np.asarray(dino.weights["pos_embed"], np.float64)[0], grid, dino.position_offset
    )
    blocks = [dino_block(dino, index) for index in range(block_count(dino.weights, "blocks."))]
    for block in blocks[:-1]:
        states = feed_forward(attend(states, block), block)
    return query_key_value(states, blocks[-1])[1][1:], grid


@dataclass(eq=False)
class Part:
    """cells: in increasing order. distance: that of the two parts it was made of, by Ward's criterion."""

    cells: list[int]
    parts: tuple[Part, ...] = ()
    distance: float = 0.0


def ward_root(features: Array) -> Part:
    """Always the two parts become one whose union adds least to the sum of squared distances from the parts' means."""
    parts = [Part([cell]) for cell in range(len(features))]
    while len(parts) > 1:
        added = {}
        for index, one in enumerate(parts):
            for other in parts[:index]:
                apart = features[one.cells].mean(axis=0) - features[other.cells].mean(axis=0)
                sizes = len(one.cells), len(other.cells)
                added[one, other] = float(sizes[0] * sizes[1] / sum(sizes) * apart @ apart)
        pair = min(added, key=lambda pair: added[pair])
        both = Part(sorted(pair[0].cells + pair[1].cells), pair, math.sqrt(2 * added[pair]))
        parts = [part for part in parts if part not in pair] + [both]
    return parts[0]


def published_segments(keys: Array, same: float, segments: int) -> tuple[list[Part], list[Part]]:
    """-> the segments, by their first cells, and the parts above them that were split, the whole first.

    Known of the authors' code: keys of length 1, siblings split while the cosine of their means is below `same`, in a
    loop that goes up by two to `segments`. The two that are furthest apart are split first.
    """
    unit = keys / np.sqrt((keys**2).sum(axis=1, keepdims=True))
    whole, split = [ward_root(unit)], []
    for _ in range(0, segments, 2):
        unlike = []
        for part in whole:
            if part.parts:
                one, other = (unit[child.cells].mean(axis=0) for child in part.parts)
                if cosine(one, other) < same:
                    unlike.append(part)
        if not unlike:
            break
        widest = max(unlike, key=lambda part: part.distance)
        whole = [part for part in whole if part is not widest] + list(widest.parts)
        split.append(widest)
    return sorted(whole, key=lambda part: part.cells[0]), split


def cell_shares(mask: Array, grid: Size) -> Array:
    """H x W in [0,1] -> its mean over each cell of the grid, a pixel that a cell cuts counted by its part."""
    height, width = mask.shape
    shares = np.zeros(grid)
    for row in range(grid[0]):
        for column in range(grid[1]):
            top, bottom = row * height / grid[0], (row + 1) * height / grid[0]
            left, right = column * width / grid[1], (column + 1) * width / grid[1]
            for y in range(math.floor(top), math.ceil(bottom)):
                for x in range(math.floor(left), math.ceil(right)):
                    part = (min(bottom, y + 1) - max(top, y)) * (min(right, x + 1) - max(left, x))
                    shares[row, column] += mask[y, x] * part
            shares[row, column] /= (bottom - top) * (right - left)
    return shares


def cosine(one: Array, other: Array) -> float:
    return float(one @ other / math.sqrt((one @ one) * (other @ other)))


def head_mixes(tokens: Array, block: Block, mask: Array) -> tuple[Array, Array]:
    """Attention under the mask: mixed values, N x C, and weights, heads x N x N."""
    query, key, value = query_key_value(tokens, block)
    count, depth = len(tokens), tokens.shape[1] // block.heads
    mixed, weights = np.zeros_like(tokens), np.zeros((block.heads, count, count))
    for head in range(block.heads):
        part = slice(head * depth, (head + 1) * depth)
        for token in range(count):
            powers = softmax(key[:, part] @ query[token, part] / math.sqrt(depth)) * mask
            weights[head, token] = powers / powers.sum()
            mixed[token, part] = weights[head, token] @ value[:, part]
    return mixed, weights


def global_subtraction(tokens: Array, block: Block, mask: Array, saliency: str, sigma: float) -> Array:
    """What the attention layer adds to the tokens: masked - w * (the class token's unmasked output)."""
    masked, masked_weights = head_mixes(tokens, block, mask)
    unmasked, weights = head_mixes(tokens, block, np.ones(len(tokens)))
    if saliency == "attention":
        rows = [(head, token) for head in range(block.heads) for token in range(len(tokens))]
        s = sum(cosine(masked_weights[row], weights[row]) for row in rows) / len(rows)
        return linear(masked - math.exp(-((s + 1) ** 2) / (2 * sigma**2)) * unmasked[0], block.out)
    ours, theirs = linear(masked, block.out), linear(unmasked, block.out)
    s = sum(cosine(one, other) for one, other in zip(ours, theirs, strict=True)) / len(tokens)
    return ours - math.exp(-((s + 1) ** 2) / (2 * sigma**2)) * theirs[0]


def segment_embedding(
    image: Array,
    mask: Array,
    clip: Clip,
    first_masked: int,
    *,
    subtract: bool = True,
    saliency: str = "output",
    sigma: float = math.sqrt(2.5),
) -> Array:
    """d, normalised. image: H x W x 3 in [0,1], as the network sees it; mask: over it; first_masked: counted from 1."""
    states = clip_states(image, clip)
    on_tokens = np.concatenate([[1.0], cell_shares(mask, states.grid).ravel()])
    tokens = states.before[first_masked - 1]
    for index in range(first_masked - 1, len(states.before) - 1):
        block = clip_block(clip, index)
        if subtract:
            added = global_subtraction(tokens, block, on_tokens, saliency, sigma)
        else:
            added = linear(head_mixes(tokens, block, on_tokens)[0], block.out)
        tokens = feed_forward(tokens + added, block)
    embedding = clip_project(tokens[:1], clip)[0]
    return embedding / math.sqrt(embedding @ embedding)


def refined(image: Array, masks: Array, iterations: int, dilations: tuple[int, ...]) -> Array:
    """Pixel-adaptive refinement; image: H x W x 3, masks: H x W x S."""
    height, width, _ = image.shape
    offsets = [
        (dy * step, dx * step) for step in dilations for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)
    ]
    for _ in range(iterations):
        result = np.zeros_like(masks)
        for y in range(height):
            for x in range(width):
                places = [(min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)) for dy, dx in offsets]
                colours = np.stack([image[place] for place in places])
                deviation = np.maximum(colours.std(axis=0), 1e-3)
                weights = softmax(-(np.abs(image[y, x] - colours) / deviation).mean(axis=1))
                for weight, place in zip(weights, places, strict=True):
                    result[y, x] += weight * masks[place]
        masks = result
    return masks
