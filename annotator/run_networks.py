"""The networks that made a run, opened again: to relabel its segments, and to score them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from annotator.errors import ConfigError
from annotator.run import RunReader
from labelers import base as labelers

if TYPE_CHECKING:
    from torch import Tensor

    from annotator.config import PrecisionChoice
    from annotator.models.packs import Networks
    from evaluation.tgq import Caption, Embed

CAPTIONING = "zeroguide"
"""The labeler whose networks caption segments, for runs of labelers that have none."""


def networks_of(
    run: RunReader,
    pack: str | None = None,
    device: str = "auto",
    weights: Mapping[str, str] | None = None,
    precision: PrecisionChoice = "auto",
) -> Networks:
    """As the run's labeler gets them, from its own pack or the one given; nothing is read yet.

    weights: slot -> file in place of the pack's, as the run may have been made with.
    """
    from annotator.models.packs import open_networks

    labeler = CAPTIONING if run.vocabulary is not None else run.manifest.labeler
    chosen = pack or run.manifest.pack.get("name") or "auto"
    return open_networks(chosen, labelers.find(labeler).spec, device, precision, weights)


def describer(run: RunReader, networks: Networks, settings: Mapping[str, Any]) -> tuple[Embed, Caption]:
    """The functions that zeroguide embeds and captions segments with, for masks that it did not make.

    settings: its own, put over those that made the run.
    """
    import torch

    from annotator.models.captions import make_captioner
    from annotator.models.masked_clip import embed_segments
    from annotator.models.windows import to_canvas

    made_with = run.manifest.config.get("settings", {}) if run.manifest.labeler == CAPTIONING else {}
    parameters = labelers.resolve_parameters(CAPTIONING, {**made_with, **settings})
    captioner = make_captioner(networks, parameters)
    if captioner is None:
        raise ConfigError("tgq needs captions, but captioner is 'none'; --set captioner=retrieval or captioner=zerocap")

    def embed(pixels: NDArray[np.uint8], masks: NDArray[np.bool_]) -> Tensor:
        with networks.inference():
            photo = to_canvas(pixels, pixels.shape[:2], networks.device)
            areas = torch.from_numpy(masks).float()
            return embed_segments(networks.clip, photo, areas, parameters.embedding())

    def caption(embeddings: Tensor) -> Sequence[str]:
        return captioner.caption(embeddings.clone())  # outside of inference mode: a captioner may want gradients

    return embed, caption
