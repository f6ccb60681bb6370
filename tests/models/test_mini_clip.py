"""The embedded pack's CLIP: how often it looks, and its text."""

from __future__ import annotations

import pytest
import torch

from annotator.models.mini_clip import ONE_LOOK, PATCH, SECOND_LOOK, second_look
from annotator.models.packs import read_pack


@pytest.mark.parametrize(
    ("size", "again"),
    [
        ((ONE_LOOK, 480), None),
        ((480, ONE_LOOK), None),
        ((ONE_LOOK + 16, 1000), (SECOND_LOOK, 864)),  # 1000 x 288 / 336 = 857.1, in steps of two patches
        ((640, 448), (416, SECOND_LOOK)),  # 640 x 288 / 448 = 411.4
    ],
)
def test_a_large_photo_is_looked_at_again(size: tuple[int, int], again: tuple[int, int] | None) -> None:
    assert PATCH == 16
    images = torch.rand(1, 3, *size)
    found = second_look(images)
    assert (None if found is None else tuple(found.shape[2:])) == again


def test_text_that_is_first_read_while_photos_are_labelled_serves_others_too() -> None:
    """Gradients of what comes after it can be taken."""
    text = read_pack("embedded").networks("maskclip", "cpu").clip.text
    with torch.inference_mode():
        text.sentences(["a photo of a cat"])
    sentences = text.sentences(["a photo of a cat", "a dog"])
    assert not any(weight.is_inference() for weight in (sentences, *text._bert.parameters()))
    text.projection.requires_grad_(True)
    text.projection(sentences).sum().backward()
    assert text.projection.weight.grad is not None
