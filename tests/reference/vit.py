"""Vision transformers of open_clip and timm from their state dicts, token by token."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reference.image_ops import Array, Size, pad_to_multiple, resize

Weights = Mapping[str, NDArray]
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Clip:
    """State dict of an open_clip `VisionTransformer`; `heads` is the number of attention heads."""

    weights: Weights
    heads: int
    quick_gelu: bool = False
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    @property
    def patch(self) -> int:
        return self.weights["conv1.weight"].shape[-1]

    @property
    def image_size(self) -> int:
        return math.isqrt(len(self.weights["positional_embedding"]) - 1) * self.patch


@dataclass(frozen=True)
class Dino:
    """State dict of a timm ViT with a class token; `heads` is the number of attention heads.

    position_offset: DINO scales its square of positions as if there were this many patches more along each side.
    """

    weights: Weights
    heads: int
    position_offset: float = 0.1
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @property
    def patch(self) -> int:
        return self.weights["patch_embed.proj.weight"].shape[-1]


@dataclass(frozen=True)
class Block:
    """One pre-norm transformer block; linear layers are (weight, bias)."""

    norm1: tuple[Array, Array]
    qkv: tuple[Array, Array]
    out: tuple[Array, Array]
    norm2: tuple[Array, Array]
    fc1: tuple[Array, Array]
    fc2: tuple[Array, Array]
    heads: int
    eps: float
    activation: Callable[[float], float]


def gelu(x: float) -> float:
    return x * 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))


def quick_gelu(x: float) -> float:
    return x / (1.0 + math.exp(-1.702 * x))


def layer_norm(tokens: Array, affine: tuple[Array, Array], eps: float) -> Array:
    rows = []
    for token in tokens:
        centred = token - token.mean()
        rows.append(centred / math.sqrt((centred**2).mean() + eps) * affine[0] + affine[1])
    return np.stack(rows)


def linear(tokens: Array, layer: tuple[Array, Array]) -> Array:
    return np.stack([layer[0] @ token + layer[1] for token in tokens])


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def query_key_value(tokens: Array, block: Block) -> tuple[Array, Array, Array]:
    """The three projections of the normalised tokens, each N x C with the heads side by side."""
    joined = linear(layer_norm(tokens, block.norm1, block.eps), block.qkv)
    width = tokens.shape[1]
    return joined[:, :width], joined[:, width : 2 * width], joined[:, 2 * width :]


def attention_weights(query: Array, key: Array, heads: int) -> Array:
    """heads x N x N; each row sums to 1."""
    count, depth = len(query), query.shape[1] // heads
    weights = np.zeros((heads, count, count))
    for head in range(heads):
        part = slice(head * depth, (head + 1) * depth)
        for token in range(count):
            weights[head, token] = softmax(key[:, part] @ query[token, part] / math.sqrt(depth))
    return weights


def attend(tokens: Array, block: Block) -> Array:
    """Tokens after the attention half of the block."""
    query, key, value = query_key_value(tokens, block)
    weights = attention_weights(query, key, block.heads)
    depth = tokens.shape[1] // block.heads
    mixed = np.zeros_like(tokens)
    for head in range(block.heads):
        part = slice(head * depth, (head + 1) * depth)
        for token in range(len(tokens)):
            mixed[token, part] = weights[head, token] @ value[:, part]
    return tokens + linear(mixed, block.out)


def feed_forward(tokens: Array, block: Block) -> Array:
    """Tokens after the MLP half of the block."""
    hidden = linear(layer_norm(tokens, block.norm2, block.eps), block.fc1)
    active = np.array([[block.activation(value) for value in token] for token in hidden.tolist()])
    return tokens + linear(active, block.fc2)


def layer(weights: Weights, name: str) -> tuple[Array, Array]:
    return np.asarray(weights[f"{name}.weight"], np.float64), np.asarray(weights[f"{name}.bias"], np.float64)


def clip_block(clip: Clip, index: int) -> Block:
    name = f"transformer.resblocks.{index}"
    in_proj = tuple(np.asarray(clip.weights[f"{name}.attn.in_proj_{part}"], np.float64) for part in ("weight", "bias"))
    norm1, norm2, out = (layer(clip.weights, f"{name}.{part}") for part in ("ln_1", "ln_2", "attn.out_proj"))
    fc1, fc2 = (layer(clip.weights, f"{name}.mlp.{part}") for part in ("c_fc", "c_proj"))
    activation = quick_gelu if clip.quick_gelu else gelu
    return Block(norm1, (in_proj[0], in_proj[1]), out, norm2, fc1, fc2, clip.heads, 1e-5, activation)


def dino_block(dino: Dino, index: int) -> Block:
    parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    norm1, qkv, out, norm2, fc1, fc2 = (layer(dino.weights, f"blocks.{index}.{part}") for part in parts)
    return Block(norm1, qkv, out, norm2, fc1, fc2, dino.heads, 1e-6, gelu)


def resized_positions(positions: Array, grid: Size, offset: float) -> Array:
    """(1 + n*n) x C -> (1 + grid) x C: the class token's row stays, the square of the others is resized bicubically.

    At the size that they were trained for, positions stay as they are.
    """
    side = math.isqrt(len(positions) - 1)
    if grid == (side, side):
        return positions
    square = resize(positions[1:].reshape(side, side, -1), grid, "bicubic", offset)
    return np.concatenate([positions[:1], square.reshape(grid[0] * grid[1], -1)])


def embed(image: Array, kernel: Array, class_token: Array, positions: Array, offset: float = 0.0) -> tuple[Array, Size]:
    """Normalised H x W x 3 -> class token and patches with positions, and the grid of patches."""
    patch = kernel.shape[-1]
    rows, columns = image.shape[0] // patch, image.shape[1] // patch
    tokens = [class_token]
    for y in range(rows):
        for x in range(columns):
            pixels = image[y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
            tokens.append(np.array([(pixels.transpose(2, 0, 1) * filter_).sum() for filter_ in kernel]))
    return np.stack(tokens) + resized_positions(positions, (rows, columns), offset), (rows, columns)


def block_count(weights: Weights, prefix: str) -> int:
    return 1 + max(int(name[len(prefix) :].split(".")[0]) for name in weights if name.startswith(prefix))


@dataclass(frozen=True)
class States:
    """`before[i]` are the tokens that enter block i; `before[-1]` are those that leave the last."""

    before: list[Array]
    grid: Size


def clip_states(image: Array, clip: Clip) -> States:
    """image: H x W x 3 in [0,1]; padded to whole patches, then normalised."""
    weights = {name: np.asarray(value, np.float64) for name, value in clip.weights.items()}
    normalised = (pad_to_multiple(image, clip.patch) - np.array(clip.mean)) / np.array(clip.std)
    tokens, grid = embed(
        normalised, weights["conv1.weight"], weights["class_embedding"], weights["positional_embedding"]
    )
    before = [layer_norm(tokens, layer(weights, "ln_pre"), 1e-5)]
    for index in range(block_count(weights, "transformer.resblocks.")):
        block = clip_block(clip, index)
        before.append(feed_forward(attend(before[-1], block), block))
    return States(before, grid)


def clip_project(tokens: Array, clip: Clip) -> Array:
    projection = np.asarray(clip.weights["proj"], np.float64)
    return np.stack([token @ projection for token in layer_norm(tokens, layer(clip.weights, "ln_post"), 1e-5)])


def clip_embedding(image: Array, clip: Clip) -> Array:
    """The image as a whole: d."""
    return clip_project(clip_states(image, clip).before[-1][:1], clip)[0]


def maskclip_features(states: States, clip: Clip) -> Array:
    """N x d: in the last block each token attends to itself alone."""
    tokens, block = states.before[-2], clip_block(clip, len(states.before) - 2)
    value = query_key_value(tokens, block)[2]
    return clip_project(feed_forward(tokens + linear(value, block.out), block), clip)[1:]


def intermediate_features(states: States, clip: Clip) -> Array:
    """N x C: what the third block from the end feeds to its MLP."""
    index = len(states.before) - 1 - 3
    block = clip_block(clip, index)
    return layer_norm(attend(states.before[index], block), block.norm2, block.eps)[1:]


def clip_keys(states: States, clip: Clip) -> Array:
    """N x C: keys of the last attention layer."""
    return query_key_value(states.before[-2], clip_block(clip, len(states.before) - 2))[1][1:]


@dataclass(frozen=True)
class DinoFeatures:
    """Last attention layer, patches only, N x C each; class_attention: heads x N; tokens: the network's output."""

    query: Array
    key: Array
    value: Array
    class_attention: Array
    tokens: Array
    grid: Size


def dino_features(image: Array, dino: Dino) -> DinoFeatures:
    """image: H x W x 3 in [0,1]; normalised, then padded to whole patches."""
    weights = {name: np.asarray(value, np.float64) for name, value in dino.weights.items()}
    padded = pad_to_multiple((image - np.array(dino.mean)) / np.array(dino.std), dino.patch)
    kernel, bias = layer(weights, "patch_embed.proj")
    positions = weights["pos_embed"][0]
    tokens, grid = embed(padded, kernel, weights["cls_token"][0, 0], positions, dino.position_offset)
    tokens[1:] += bias
    blocks = [dino_block(dino, index) for index in range(block_count(weights, "blocks."))]
    for block in blocks[:-1]:
        tokens = feed_forward(attend(tokens, block), block)
    query, key, value = query_key_value(tokens, blocks[-1])
    class_attention = attention_weights(query, key, dino.heads)[:, 0, 1:]
    output = layer_norm(feed_forward(attend(tokens, blocks[-1]), blocks[-1]), layer(weights, "norm"), 1e-6)
    return DinoFeatures(query[1:], key[1:], value[1:], class_attention, output, grid)
