"""Sentence embeddings: a transformer's token vectors, averaged (all-MiniLM-L6-v2, all-mpnet-base-v2 and their kind)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.errors import WeightsError
from annotator.models.language import WEIGHTS, as_folder, quiet_transformers, read_model, read_tokenizer

AT_ONCE = 128
POOLING = "1_Pooling/config.json"
LENGTH = "sentence_bert_config.json"
NAMES_OF_MEAN = ("mean", ["mean"])


class SentenceModel(nn.Module):
    """A text encoder of transformers and its tokenizer; frozen, in eval mode.

    longest:    tokens of a text that are read.
    weights_id: names these weights (their SHA-256); "" for models made in memory.
    """

    model: Any

    def __init__(self, model: nn.Module, tokenizer: Any, longest: int, weights_id: str = "") -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.longest = longest
        self.weights_id = weights_id

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """N texts -> N x d, each the mean over its tokens at length 1; float32 on the CPU."""
        rows = [torch.empty(0, self.model.config.hidden_size)]
        for start in range(0, len(texts), AT_ONCE):
            rows.append(self._embed(list(texts[start : start + AT_ONCE])).float().cpu())
        return torch.cat(rows)

    def _embed(self, texts: list[str]) -> Tensor:
        batch = self.tokenizer(texts, padding=True, truncation=True, max_length=self.longest, return_tensors="pt")
        batch = batch.to(self.model.device)
        hidden = self.model(**batch).last_hidden_state  # N x L x d
        seen = batch["attention_mask"][..., None]
        return F.normalize((hidden * seen).sum(dim=1) / seen.sum(dim=1), dim=-1)


def load_sentence_model(weights: Path, beside: Mapping[str, Path], weights_id: str = "") -> SentenceModel:
    """weights: .safetensors. beside: `config.json`, `tokenizer.json`, `1_Pooling/config.json`,
    `sentence_bert_config.json`, in any folders, as sentence-transformers writes them."""
    if weights.suffix != ".safetensors":
        raise WeightsError(f"sentence: expected weights in .safetensors, but found {weights.name!r}; convert them")
    _check_pooling(_settings(beside, POOLING))
    with quiet_transformers(), as_folder({WEIGHTS: weights, **beside}) as folder:
        from transformers import AutoModel

        model = read_model(AutoModel, folder, "sentence", unused="pooler.", use_safetensors=True)
        tokenizer = read_tokenizer(folder, "sentence")
    longest = _settings(beside, LENGTH).get("max_seq_length") or tokenizer.model_max_length
    return SentenceModel(model, tokenizer, min(int(longest), model.config.max_position_embeddings), weights_id)


def _settings(beside: Mapping[str, Path], name: str) -> dict[str, Any]:
    """Of a JSON beside the weights; none where there is no such file."""
    return dict(json.loads(beside[name].read_text(encoding="utf-8"))) if name in beside else {}


def _check_pooling(settings: Mapping[str, Any]) -> None:
    """Old files have a switch per kind of pooling, new ones a name."""
    switches = [name for name, on in settings.items() if name.startswith("pooling_mode_") and on is True]
    named = settings.get("pooling_mode", "mean")
    if switches not in ([], ["pooling_mode_mean_tokens"]) or named not in NAMES_OF_MEAN:
        raise WeightsError(
            f"sentence: expected a model that averages over tokens, but {POOLING} says "
            f"{', '.join(switches) or named!r}; give another model"
        )
