"""CLIP-DINOiser's two heads."""

from __future__ import annotations

from annotator.models.heads import DinoiserHeads


def test_new_heads_have_the_published_shapes() -> None:
    shapes = {name: tuple(value.shape) for name, value in DinoiserHeads(768).state_dict().items() if value.ndim > 1}
    assert shapes == {"obj_proj.weight": (256, 768, 3, 3), "bkg_decoder.weight": (1, 768, 1, 1)}
