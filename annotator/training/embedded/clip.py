"""Trains mini-clip's tower on cached stem features.

Losses, all on 100 x cosine with text, so that the tool's softmax over 100 x cosine is calibrated:
leaf, general   the stem's own class posterior at every location, over its 1,000 classes and over general nouns;
stuff           names of the feature-space cells that were named by hand;
self            confident labels of a moving average of the tower, pooled over similar locations;
pixels          masks of COCO and VOC train, under vocabularies drawn at random;
photo           the class token: the window's mean posterior, its weak label, the share of its labelled classes;
region          the class token with attention masked to a region: the region's class.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.models.clip import resize_positions
from annotator.models.mini_clip import MiniTower, StemFeatures
from annotator.training.embedded.bank import CLASSES, Bank

TOKENS = 14  # window of a view that one step sees; views have 20
SCALE = 100.0
NO_LABEL = 255
LOCATIONS = 48  # per window, for the losses over many names


@dataclass(frozen=True)
class Recipe:
    """minutes: stop by then, the schedule fitted to it."""

    steps: int = 800
    minutes: float = math.inf
    unlabelled: int = 12
    labelled: int = 10
    learning_rate: float = 1e-3
    warm_up: int = 40
    weight_decay: float = 0.05
    self_from: float = 0.35
    seed: int = 0


WEIGHTS = {
    "leaf": 0.5, "general": 0.5, "stuff": 0.3, "self": 0.7, "pixels": 1.0, "photo": 0.25, "crop": 0.25, "region": 0.3,
}  # fmt: skip


class Cache:
    """All shards of a folder; more may appear while training runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards: dict[Path, dict[str, Tensor]] = {}
        self.refresh()

    def refresh(self) -> None:
        for file in sorted(self._folder.glob("*.pt")):
            if file not in self._shards:
                self._shards[file] = torch.load(file, weights_only=True)
        shards = list(self._shards.values())
        labels = torch.cat([s["labels"] for s in shards]).flatten(1).long()
        self._where = [(s, i) for s in shards for i in range(len(s["voc"]))]
        known = (labels != NO_LABEL).any(dim=1)
        self._unlabelled, self._labelled = (~known).nonzero()[:, 0], known.nonzero()[:, 0]
        present = torch.stack(
            [torch.bincount(row, minlength=256)[1 : CLASSES + 1] > 12 for row in labels[known]]
        ).float()
        frequency = present.sum(dim=0)
        self._odds = (present / frequency.clamp(min=1).sqrt()).amax(dim=1) + 0.05
        self.class_weights = torch.ones(CLASSES + 1)
        self.class_weights[1:] = (frequency.clamp(min=1).median() / frequency.clamp(min=1)).sqrt().clamp(0.4, 2)
        self.class_weights[0] = 0.6

    def __len__(self) -> int:
        return len(self._where)

    def sample(self, unlabelled: int, labelled: int, random: torch.Generator) -> dict[str, Tensor]:
        """Random windows of random views, unlabelled first."""
        plain = self._unlabelled[torch.randint(len(self._unlabelled), (unlabelled,), generator=random)]
        masks = self._labelled[torch.multinomial(self._odds, labelled, replacement=True, generator=random)]
        rows = [_window(self._where[i][0], self._where[i][1], random) for i in torch.cat([plain, masks]).tolist()]
        return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def _window(shard: dict[str, Tensor], row: int, random: torch.Generator) -> dict[str, Tensor]:
    """A TOKENS x TOKENS part of one view, aligned with the stride-32 cells; every map keeps its own resolution."""
    tokens = shard["stuff"].shape[-1]
    y, x = (2 * torch.randint((tokens - TOKENS) // 2 + 1, (2,), generator=random)).tolist()
    out = {"weak": shard["weak"][row].long(), "voc": shard["voc"][row]}
    for key in (*StemFeatures._fields, "labels", "instances", "stuff"):
        values = shard[key][row]
        n = values.shape[-1] / tokens
        ys, xs = (slice(int(o * n), int((o + TOKENS) * n)) for o in (y, x))
        out[key] = values[..., ys, xs].float() if values.is_floating_point() else values[..., ys, xs].long()
    return out


def start(tower: MiniTower, names: Tensor) -> None:
    """Small residual branches, and a path that leads the implied name straight to the output."""
    conv1, blocks = tower.conv1, tower.transformer.resblocks
    for block in blocks:
        nn.init.normal_(block.attn.out_proj.weight, std=0.02 / math.sqrt(2 * len(blocks)))
        nn.init.normal_(block.mlp.c_proj.weight, std=0.02 / math.sqrt(2 * len(blocks)))
        nn.init.normal_(block.mlp.c_fc.weight, std=0.02)
    nn.init.normal_(tower.positional_embedding, std=0.02)
    nn.init.normal_(tower.class_embedding, std=0.02)
    with torch.no_grad():
        conv1.names.copy_(names)
        _, _, directions = torch.linalg.svd(names - names.mean(dim=0), full_matrices=False)
        basis = directions[: conv1.name_projection.out_features]  # width x d
        conv1.name_projection.weight.copy_(6 * basis)
        conv1.name_projection.bias.zero_()
        tower.proj.copy_(basis)


def trunk(tower: MiniTower, tokens: Tensor) -> Tensor:
    """B x D x h x w of `conv1` -> B x (1 + P) x D, what enters the last block."""
    grid = (tokens.shape[2], tokens.shape[3])
    x = tokens.flatten(2).transpose(1, 2)
    x = torch.cat([tower.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
    x = tower.ln_pre(x + resize_positions(tower.positional_embedding, grid).to(x.dtype))
    for block in tower.transformer.resblocks[:-1]:
        x = block(x)
    return x


def dense(tower: MiniTower, x: Tensor) -> Tensor:
    """The value path of the last block: B x (1 + P) x D -> B x P x d, normalised."""
    _, _, values = _attention_inputs(tower, x)
    return _finish(tower, x, values)[:, 1:]


def class_token(tower: MiniTower, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
    """-> B x d, normalised. mask: B x P region shares; then masked, and masked less the photo's own output."""
    q, k, v = (
        t.unflatten(2, (tower.transformer.resblocks[-1].attn.num_heads, -1)).transpose(1, 2)
        for t in _attention_inputs(tower, x)
    )
    if mask is None:
        out = F.scaled_dot_product_attention(q[:, :, :1], k, v).transpose(1, 2).flatten(2)
        return (_finish(tower, x[:, :1], out)[:, 0],)
    logits = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).float()
    weights = (logits - logits.amax(dim=-1, keepdim=True)).exp()
    shares = torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)[:, None, None]
    out_proj = tower.transformer.resblocks[-1].attn.out_proj
    full, masked = (
        out_proj(((w / w.sum(dim=-1, keepdim=True).clamp(min=1e-6)).to(v.dtype) @ v).transpose(1, 2).flatten(2))
        for w in (weights, weights * shares)
    )
    saliency = F.cosine_similarity(full.float(), masked.float(), dim=-1).mean(dim=1)
    less = torch.exp(-((saliency + 1) ** 2) / 5)[:, None, None].to(full.dtype) * full[:, :1]
    block = tower.transformer.resblocks[-1]
    return tuple(_head(tower, block, x[:, :1] + m)[:, 0] for m in (masked[:, :1], masked[:, :1] - less))


def _attention_inputs(tower: MiniTower, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    block = tower.transformer.resblocks[-1]
    q, k, v = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, dim=-1)
    return q, k, v


def _finish(tower: MiniTower, x: Tensor, attended: Tensor) -> Tensor:
    block = tower.transformer.resblocks[-1]
    return _head(tower, block, x + block.attn.out_proj(attended))


def _head(tower: MiniTower, block: nn.Module, x: Tensor) -> Tensor:
    x = x + block.mlp(block.ln_2(x))  # type: ignore[operator]
    return F.normalize((tower.ln_post(x) @ tower.proj).float(), dim=-1)


def soft_cross_entropy(features: Tensor, texts: Tensor, target: Tensor) -> Tensor:
    return -(target * (SCALE * features @ texts.T).log_softmax(dim=-1)).sum(dim=-1)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=1)


class Trainer:
    """One step after the other; `ema` is the tower to keep."""

    def __init__(self, tower: MiniTower, bank: Bank, cache: Cache, recipe: Recipe) -> None:
        self.tower, self.bank, self.cache, self.recipe = tower, bank, cache, recipe
        self.ema = copy.deepcopy(tower)
        self._random = torch.Generator().manual_seed(recipe.seed)
        self._numpy = np.random.default_rng(recipe.seed)
        self._parameters = [p for p in tower.parameters() if p.requires_grad]
        self._averaged = [p for p in self.ema.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in self._parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in self._parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self._optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))
        self._voc_of = torch.zeros(CLASSES + 1, dtype=torch.long)  # class 0-80 -> VOC class 0-20, 0 where it has none
        self._voc_of[torch.tensor(bank.voc_to_coco) + 1] = torch.arange(1, 21)

    def train(self, report: Callable[[int, dict[str, float]], None]) -> None:
        running: dict[str, float] = {}
        step, began, progress = 0, time.monotonic(), 0.0
        while progress < 1:
            if step % 50 == 0:
                self.cache.refresh()
            rate = min(1, (step + 1) / self.recipe.warm_up) * (0.49 * (1 + math.cos(math.pi * progress)) + 0.02)
            for group in self._optimiser.param_groups:
                group["lr"] = self.recipe.learning_rate * rate
            losses = self._losses(progress)
            self._optimiser.zero_grad(set_to_none=True)
            torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum().backward()
            nn.utils.clip_grad_norm_(self._parameters, 1.0)
            self._optimiser.step()
            with torch.no_grad():
                torch._foreach_lerp_(self._averaged, self._parameters, max(0.01, 8 / (step + 10)))
            for name, loss in losses.items():
                running[name] = 0.95 * running.get(name, loss.item()) + 0.05 * loss.item()
            step += 1
            progress = max(step / self.recipe.steps, (time.monotonic() - began) / 60 / self.recipe.minutes)
            report(step, running)

    def _losses(self, progress: float) -> dict[str, Tensor]:
        batch = self.cache.sample(self.recipe.unlabelled, self.recipe.labelled, self._random)
        n = self.recipe.unlabelled
        features = StemFeatures(*(batch[name] for name in StemFeatures._fields))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                logits = self.tower.conv1.stem.classify(features.stride32)
            x = trunk(self.tower, self.tower.conv1.mix(features, logits))
            tokens = dense(self.tower, x)
            (whole,) = class_token(self.tower, x)
            regions, targets = self._regions(batch, tokens)
            masked = class_token(self.tower, x, regions)
        posterior = logits.float().softmax(dim=1)
        losses = self._from_stem(tokens[:n], posterior[:n], logits[:n].float())
        losses["stuff"] = self._stuff(tokens[:n], batch["stuff"][:n])
        if progress >= self.recipe.self_from:
            losses["self"] = self._self(features, logits, tokens[:n], batch["weak"][:n])
        losses["pixels"] = self._pixels(tokens[n:], batch["labels"][n:], batch["voc"][n:])
        losses["photo"] = self._photo(whole[:n], posterior[:n], batch["weak"][:n])
        losses["crop"] = self._crop(whole[n:], batch["labels"][n:], batch["voc"][n:])
        losses["region"] = self._region(masked, regions[:n], targets, posterior[:n])
        return losses

    def _from_stem(self, tokens: Tensor, posterior: Tensor, logits: Tensor) -> dict[str, Tensor]:
        """Where the stem is sure and responds strongly."""
        entropy = -(posterior * posterior.clamp(min=1e-8).log()).sum(dim=1)
        strength = logits.amax(dim=1)
        strength = (strength / strength.amax(dim=(1, 2), keepdim=True)).clamp(0, 1) ** 2
        trust = ((1 - entropy / math.log(1000)).clamp(0, 1) * strength)[:, None]
        chosen = torch.randint(TOKENS**2, (LOCATIONS,), generator=self._random)
        rows, columns = chosen // TOKENS // 2, chosen % TOKENS // 2  # the stride-32 cell around
        tokens, target, weight = tokens[:, chosen], posterior[:, :, rows, columns].mT, trust[:, 0, rows, columns]
        leaf = weighted_mean(soft_cross_entropy(tokens, self.bank.draw(self.bank.leaves), target), weight)
        general, share = self._to_general(target)
        texts = self.bank.draw(self.bank.general)
        return {"leaf": leaf, "general": weighted_mean(soft_cross_entropy(tokens, texts, general), weight * share)}

    def _to_general(self, leaves: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior over leaves -> over general nouns, and the weight it deserves."""
        general = leaves @ self.bank.leaf_to_general
        share = general.sum(dim=-1)
        return general / share.clamp(min=1e-6)[..., None], share * (share > 0.3)

    def _stuff(self, tokens: Tensor, stuff: Tensor) -> Tensor:
        stuff = stuff.flatten(1)
        texts = self.bank.draw(self.bank.general)
        named = stuff < NO_LABEL
        if not named.any():
            return tokens.sum() * 0
        return F.cross_entropy(SCALE * tokens[named] @ texts.T, stuff[named], reduction="none").clamp(max=8).mean()

    def _self(self, features: StemFeatures, logits: Tensor, tokens: Tensor, weak: Tensor) -> Tensor:
        n = len(tokens)
        with torch.no_grad():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                mixed = self.ema.conv1.mix(StemFeatures(*(f[:n] for f in features)), logits[:n])
                seen = dense(self.ema, trunk(self.ema, mixed))
            similar = ((seen @ seen.transpose(1, 2) - 0.6) / 0.4).clamp(min=0)
            seen = F.normalize(similar @ seen, dim=-1)
            scores = SCALE * seen @ self.bank.embeddings[0][[c[0] for c in self.bank.general]].T
            general = torch.where(weak >= 0, self.bank.weak_to_general[weak.clamp(min=0)], -1)
            named = general >= 0
            scores[named, :, general[named]] += 2.5
            sure, label = scores.softmax(dim=-1).max(dim=-1)
            chosen = (sure > 0.8) & (torch.rand(sure.shape, generator=self._random) < LOCATIONS / TOKENS**2)
        if not chosen.any():
            return tokens.sum() * 0
        logits = SCALE * tokens[chosen] @ self.bank.draw(self.bank.general).T
        return (F.cross_entropy(logits, label[chosen], reduction="none") * sure[chosen]).sum() / (n * LOCATIONS) * 2

    def _pixels(self, tokens: Tensor, labels: Tensor, voc: Tensor) -> Tensor:
        """Cross-entropy at label resolution; a VOC photo's background may hold the other COCO classes."""
        bank = self.bank
        kind = str(self._numpy.choice(["coco+", "voc+", "general", "coco", "voc"], p=[0.25, 0.2, 0.3, 0.15, 0.1]))
        classes = {
            "coco+": bank.background + bank.coco,
            "voc+": bank.background + bank.voc,
            "general": bank.general,
            "coco": bank.coco,
            "voc": bank.voc,
        }[kind]
        grid = tokens.transpose(1, 2).unflatten(2, (TOKENS, TOKENS))
        scores = SCALE * torch.einsum("bdhw,cd->bchw", grid, bank.draw(classes))
        labels = labels[:, 1::2, 1::2]
        scores = F.interpolate(scores, size=labels.shape[1:], mode="bilinear", align_corners=False)
        log_p = scores.log_softmax(dim=1)
        known, background = labels != NO_LABEL, labels == 0
        labels = labels.clamp(max=CLASSES)
        weight = self.cache.class_weights[labels] * known
        of_voc = voc[:, None, None]
        if kind == "coco+":
            target, weight = labels, weight * ~(of_voc & background)
        elif kind == "voc+":
            target = self._voc_of[labels]
        elif kind == "voc":
            target = self._voc_of[labels] - 1
            weight = weight * (target >= 0)
        else:
            target = labels - 1
        if kind == "coco":
            weight = weight * ~background
        loss = -log_p.gather(1, target.clamp(min=0)[:, None])[:, 0]
        if kind == "general":  # background: anything but the labelled classes
            p = log_p.exp()
            wrong = torch.where(of_voc, p[:, bank.voc_to_coco].sum(dim=1), p[:, :CLASSES].sum(dim=1))
            loss = torch.where(background & known, -(1 - wrong).clamp(min=1e-4).log(), loss)
        return weighted_mean(loss.clamp(max=12), weight)

    def _photo(self, whole: Tensor, posterior: Tensor, weak: Tensor) -> Tensor:
        leaves = posterior.mean(dim=(2, 3))
        general, share = self._to_general(leaves)
        loss = soft_cross_entropy(whole, self.bank.draw(self.bank.leaves), leaves).mean()
        loss = loss + (soft_cross_entropy(whole, self.bank.draw(self.bank.general), general) * share).mean()
        if (weak >= 0).any():
            texts = self.bank.draw(self.bank.weak)
            loss = loss + 0.5 * F.cross_entropy(SCALE * whole[weak >= 0] @ texts.T, weak[weak >= 0])
        return loss

    def _crop(self, whole: Tensor, labels: Tensor, voc: Tensor) -> Tensor:
        """The mix of labelled classes in the window, large ones favoured, under VOC's and COCO's classes."""
        counts = F.one_hot(torch.where(labels > CLASSES, CLASSES + 1, labels).flatten(1), CLASSES + 2).sum(dim=1)
        coco = counts[:, : CLASSES + 1].float()
        of_voc = torch.zeros(len(coco), 21).index_add_(1, self._voc_of, coco)
        loss = whole.sum() * 0
        for shares, classes, weight in (
            (of_voc, self.bank.voc, torch.ones(len(coco))),
            (coco, self.bank.coco, (~voc | (coco[:, 0] < coco.sum(dim=1) / 2)).float()),
        ):
            weight = weight * (shares.sum(dim=1) > 0)
            shares = torch.cat([shares[:, :1] * 0.5, shares[:, 1:]], dim=1) ** 1.5
            shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-6)
            texts = self.bank.draw(self.bank.background + classes)
            loss = loss + weighted_mean(soft_cross_entropy(whole, texts, shares), weight)
        return loss

    def _regions(self, batch: dict[str, Tensor], tokens: Tensor) -> tuple[Tensor, Tensor]:
        """-> B x P region shares (patches like a random one; for labelled windows an object), and its class or -1."""
        n = self.recipe.unlabelled
        plain = tokens[:n].detach()
        seed = plain[torch.arange(n), torch.randint(TOKENS**2, (n,), generator=self._random)]
        limit = 0.75 + 0.17 * torch.rand((n, 1), generator=self._random)
        regions = [(torch.einsum("bpd,bd->bp", plain, seed) > limit).float()]
        targets = torch.full((len(tokens),), -1)
        for index in range(n, len(tokens)):
            labels, instances = batch["labels"][index], batch["instances"][index]
            counts = torch.bincount(instances[(labels > 0) & (labels < NO_LABEL)], minlength=256)
            counts[0] = 0
            large = (counts > 12).nonzero()[:, 0]
            if len(large) == 0:
                regions.append(torch.ones(1, TOKENS**2))
                continue
            chosen = large[torch.randint(len(large), (1,), generator=self._random)]
            inside = (instances == chosen) & (labels > 0) & (labels < NO_LABEL)
            regions.append(F.adaptive_avg_pool2d(inside[None, None].float(), TOKENS).flatten(1))
            targets[index] = labels[inside][0] - 1
        return torch.cat(regions), targets

    def _region(self, masked: tuple[Tensor, ...], regions: Tensor, targets: Tensor, posterior: Tensor) -> Tensor:
        cells = F.avg_pool2d(regions.unflatten(1, (TOKENS, TOKENS)), 2).flatten(1)
        leaves = torch.einsum("bcp,bp->bc", posterior.flatten(2), cells) / cells.sum(dim=1, keepdim=True).clamp(
            min=1e-6
        )
        classes = self.bank.general if self._numpy.random() < 0.5 else self.bank.coco
        texts, leaf_texts, known = self.bank.draw(classes), self.bank.draw(self.bank.leaves), targets >= 0
        loss = masked[0].sum() * 0
        for features in masked:
            loss = loss + 0.5 * soft_cross_entropy(features[: len(regions)], leaf_texts, leaves).mean()
            if known.any():
                loss = loss + F.cross_entropy(SCALE * features[known] @ texts.T, targets[known])
        return loss


def train_clip(
    cache: Path,
    bank: Bank,
    stem: dict[str, Tensor],
    recipe: Recipe,
    save: Callable[[MiniTower], None],
    resume: dict[str, Tensor] | None = None,
) -> None:
    """save: called with the averaged tower every 100 steps and at the end. resume: a tower to go on from."""
    torch.manual_seed(recipe.seed)
    tower = MiniTower()
    if resume is None:
        start(tower, bank.leaf_embeddings())
    else:
        tower.load_state_dict(resume, strict=False)
    tower.conv1.stem.load(stem)
    trainer = Trainer(tower, bank, Cache(cache), recipe)
    began = time.monotonic()

    def report(step: int, losses: dict[str, float]) -> None:
        if step % 20 == 0 or step == 5:
            text = " ".join(f"{name} {value:.2f}" for name, value in losses.items())
            print(f"{step:5d} {time.monotonic() - began:6.0f} s  {len(trainer.cache)} views  {text}", flush=True)
        if step % 100 == 0:
            save(trainer.ema)

    trainer.train(report)
    save(trainer.ema)
