"""Trains the embedded pack's language model: a small GPT-2 that completes "Image of a" with a short noun phrase."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from annotator.errors import ConfigError
from annotator.models.compat import prepare_torchvision
from annotator.models.language import quiet_transformers
from annotator.training.embedded import perplexity
from annotator.training.embedded.captions import PROMPT, phrase_lines, read_captions_by_photo, sentence, split
from annotator.training.loop import Report as Progress
from annotator.training.loop import random_of, train
from annotator.training.phrases import class_names

prepare_torchvision()

from tokenizers import ByteLevelBPETokenizer  # noqa: E402
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast  # noqa: E402

END = "<|endoftext|>"
CHECKPOINT = "checkpoint.pt"
POOLED = 32
"""Batches that are drawn together and sorted by length, so that little of a batch is padding."""
SAMPLES = 20


@dataclass(frozen=True)
class Recipe:
    """held_out: share of the photos whose captions are not trained on. repeats: of every class name in an epoch.
    min_count: a phrase that fewer captions have is left to the whole captions; many are misspelt or verbs.
    """

    vocabulary: int = 4096
    context: int = 32
    width: int = 192
    layers: int = 4
    heads: int = 4
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    warm_up: int = 100
    steps: int = 6000
    held_out: float = 0.05
    repeats: int = 3
    min_count: int = 2
    seed: int = 0


@dataclass(frozen=True)
class Training(Recipe):
    """lines: a hash of them, so that a checkpoint of other lines is refused."""

    lines: str = ""


@dataclass(frozen=True)
class Corpus:
    """Lines of text: noun phrases after the prompt, and whole captions, for training and held out."""

    phrases: list[str]
    captions: list[str]
    held_phrases: list[str]
    held_captions: list[str]


@dataclass(frozen=True)
class Report:
    """perplexity: per token of the held-out phrases and captions, of the model and of the baselines that count tokens
    and pairs of tokens in the training lines. greedy, samples: what the model makes of the prompt."""

    steps: int
    parameters: int
    held_lines: dict[str, int]
    perplexity: dict[str, dict[str, float]]
    greedy: str
    samples: list[str]


def read_corpus(captions: Path, recipe: Recipe, held_out: Collection[int] = ()) -> Corpus:
    """captions: a captions JSON of COCO's form. held_out: photos (`image_id`) that are not trained on in any case."""
    by_photo = read_captions_by_photo(captions)
    random = torch.randperm(len(by_photo), generator=torch.Generator().manual_seed(recipe.seed)).tolist()
    trained, held = split(by_photo, recipe.held_out, random, held_out)
    names = dict.fromkeys(name.lower().split(" (")[0] for name in class_names())  # "kite (bird of prey)"
    return Corpus(
        phrase_lines(trained, names, recipe.repeats, recipe.min_count),
        [sentence(caption) for caption in trained],
        phrase_lines(held),
        [sentence(caption) for caption in held],
    )


def train_language(
    corpus: Corpus,
    out: Path,
    recipe: Recipe | None = None,
    minutes: float = math.inf,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Report | None:
    """Writes the model (float16) and its tokenizer to `out`, as transformers reads them, and reports; or stops
    after `minutes` with a checkpoint, from which the next call goes on to the same end, and returns None.
    """
    recipe = recipe or Recipe()
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer([*corpus.phrases, *corpus.captions], recipe)
    lines = encode(tokenizer, [*corpus.phrases, *corpus.captions], recipe.context)
    batch_at = batches(lines, recipe)
    torch.manual_seed(recipe.seed)
    model = GPT2LMHeadModel(_configuration(recipe, tokenizer)).to(device).train()

    whole = train(
        model,
        _optimiser(model, recipe),
        loss_at=lambda step: perplexity.loss_of(model, batch_at(step).to(device)),
        rate_at=lambda step: rate(step, recipe),
        recipe=Training(**asdict(recipe), lines=hashlib.sha256(repr(lines).encode()).hexdigest()),
        checkpoint=out / CHECKPOINT,
        minutes=minutes,
        report=progress,
        clip=1.0,
    )
    if not whole:
        return None
    with quiet_transformers():
        model.eval().half().save_pretrained(out)
        tokenizer.save_pretrained(out)
    return measure(model.float(), tokenizer, corpus, lines, recipe)


def train_tokenizer(lines: Sequence[str], recipe: Recipe) -> Any:
    """A byte-level BPE of the lines' own, as GPT-2's. The text END ends a line."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(lines, recipe.vocabulary, min_frequency=2, special_tokens=[END], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        bos_token=END,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=recipe.context,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: Any, lines: Sequence[str], context: int) -> list[list[int]]:
    """Token ids of every line with END after it, cut to the context."""
    encoded = tokenizer(list(lines), truncation=True, max_length=context)["input_ids"]
    return [[*ids, tokenizer.eos_token_id][:context] for ids in encoded]


def batches(lines: Sequence[Sequence[int]], recipe: Recipe) -> Callable[[int], Tensor]:
    """Step -> its batch: whole batches of lines of about one length, in an order that every epoch draws anew."""
    per_epoch = len(lines) // recipe.batch
    if not per_epoch:
        raise ConfigError(
            f"expected at least {recipe.batch} lines for a batch, but got {len(lines)}; give more captions"
        )

    @lru_cache(maxsize=1)
    def epoch(number: int) -> list[list[int]]:
        random = random_of(recipe.seed, number)
        order = torch.randperm(len(lines), generator=random).tolist()[: per_epoch * recipe.batch]
        groups = []
        for begin in range(0, len(order), POOLED * recipe.batch):
            pool = sorted(order[begin : begin + POOLED * recipe.batch], key=lambda index: len(lines[index]))
            groups += [pool[i : i + recipe.batch] for i in range(0, len(pool), recipe.batch)]
        return [groups[i] for i in torch.randperm(len(groups), generator=random).tolist()]

    def batch_at(step: int) -> Tensor:
        number, within = divmod(step, per_epoch)
        return perplexity.padded([lines[index] for index in epoch(number)[within]])

    return batch_at


def rate(step: int, recipe: Recipe) -> float:
    """Share of the learning rate: linear warm-up, then half a cosine down to a twentieth."""
    if step < recipe.warm_up:
        return (step + 1) / recipe.warm_up
    done = (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    return 0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2


def _configuration(recipe: Recipe, tokenizer: Any) -> Any:
    end = tokenizer.eos_token_id
    return GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=recipe.context,
        n_embd=recipe.width,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own, computed at once
        attn_implementation="eager",  # on a CPU the fused one is slow to differentiate
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
        zerocap_start_token=False,  # no line begins with one
    )


def _optimiser(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; no decay of biases and norms."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))


def measure(model: Any, tokenizer: Any, corpus: Corpus, trained: Sequence[Sequence[int]], recipe: Recipe) -> Report:
    """model: in eval mode. trained: the encoded training lines, for the baselines."""
    held = {"phrases": corpus.held_phrases, "captions": corpus.held_captions}
    found: dict[str, dict[str, float]] = {}
    for kind, texts in held.items():
        lines = encode(tokenizer, texts, recipe.context)
        found[kind] = {
            "unigram": perplexity.of_unigrams(trained, lines, len(tokenizer)),
            "bigram": perplexity.of_bigrams(trained, lines, len(tokenizer)),
            "model": perplexity.of_model(model, lines),
        }
    return Report(
        steps=recipe.steps,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        held_lines={kind: len(texts) for kind, texts in held.items()},
        perplexity=found,
        greedy=completions(model, tokenizer, PROMPT, 1)[0],
        samples=completions(model, tokenizer, PROMPT, SAMPLES, recipe.seed),
    )


@torch.inference_mode()
def completions(model: Any, tokenizer: Any, prompt: str, count: int, seed: int | None = None) -> list[str]:
    """What follows the prompt up to the end of the line: the likeliest (seed None), or drawn."""
    device = next(model.parameters()).device
    ids = torch.tensor([tokenizer(prompt)["input_ids"]]).expand(count, -1)
    random = torch.Generator().manual_seed(seed or 0)
    while ids.shape[1] < model.config.n_positions and not (ids == tokenizer.eos_token_id).any(dim=1).all():
        probabilities = model(input_ids=ids.to(device)).logits[:, -1].float().softmax(dim=-1).cpu()
        drawn = torch.multinomial(probabilities, 1, generator=random)
        ids = torch.cat([ids, probabilities.argmax(dim=-1, keepdim=True) if seed is None else drawn], dim=1)
    return [tokenizer.decode(row.tolist()).split(END)[0].removeprefix(prompt).strip() for row in ids]
