"""Small random language models of the real classes with a byte-level BPE, and a CLIP with a text tower."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from annotator.models.clip import DenseClip, OpenClipText
from reference import vit
from reference.networks import randomise

SENTENCES = (
    "Image of a brown dog.", "Image of a small cat on a red sofa.", "Image of an old man with a hat.",
    "Image of a street with 2 cars and 15 trees.", "Image of a <b>white</b> house, a door and a window.",
    "Image of a woman's blue umbrella.", "Image of Paris at night.", "Image of an apple on a plate.",
)  # fmt: skip


class Language(nn.Module):
    """What the role `lm` holds."""

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.weights_id = ""


def tokenizer_of(sentences: tuple[str, ...] = SENTENCES, size: int = 400, start: bool = False) -> Any:
    """start: it puts a start token before every text, as Llama's does; GPT-2's has one and never puts it there."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    bpe.train_from_iterator(sentences, trainer)
    if start:
        bpe.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<|endoftext|>")


def gpt2(seed: int = 0, tokenizer: Any = None, extra_tokens: int = 3, **sizes: int) -> Language:
    """Its vocabulary is a little larger than the tokenizer's, as those of padded models are."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = tokenizer or tokenizer_of()
    shape = {"n_positions": 48, "n_embd": 24, "n_layer": 2, "n_head": 3, **sizes}
    config = GPT2Config(vocab_size=len(tokenizer) + extra_tokens, bos_token_id=0, eos_token_id=0, **shape)
    return Language(_speaking(GPT2LMHeadModel(config), tokenizer, seed), tokenizer)


def llama(seed: int = 0) -> Language:
    """Rotary positions, two query heads per key head, output weights of its own."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tokenizer_of(start=True)
    shape = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 48}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, **shape, **heads)
    return Language(_speaking(LlamaForCausalLM(config), tokenizer, seed), tokenizer)


def _speaking(model: Any, tokenizer: Any, seed: int) -> nn.Module:
    """Random, but for the full stop, which is likely enough to end some completions."""
    randomise(model, seed)
    end = tokenizer.encode(".", add_special_tokens=False)
    with torch.no_grad():
        model.get_output_embeddings().weight[end] *= 2.5
    return model


def clip(seed: int = 4, **text: int) -> DenseClip:
    """The whole of an open_clip model, float64, d = 16."""
    import open_clip

    vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 8}
    language = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2, **text}
    model = randomise(open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=language), seed)
    tower = OpenClipText(model, open_clip.get_tokenizer("ViT-B-32"))
    return DenseClip(model.visual, tower, vit.CLIP_MEAN, vit.CLIP_STD)


def segments(count: int, seed: int = 7, width: int = 16) -> torch.Tensor:
    """S x d, normalised, float64."""
    drawn = torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return nn.functional.normalize(drawn, dim=1)
