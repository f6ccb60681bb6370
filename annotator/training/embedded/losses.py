"""What the tower is held to.

All on 100 x cosine with text, so that the tool's softmax over 100 x cosine is calibrated:
leaf, general   the stem's own class posterior at every location, over its 1,000 classes and over general nouns;
stuff           names of the feature-space cells that were named by hand;
self            confident labels of a moving average of the tower, pooled over similar locations; the name that the
                source gives to the whole photo is a candidate, and favoured;
pixels          masks of COCO and VOC train, under vocabularies drawn at random;
photo           the class token: the window's mean posterior, and the photo's name;
object          a linear probe of the features that CLIP-DINOiser's heads read: in one of COCO's objects or not;
crop            the class token: the share of each labelled class in the window;
region          the class token with attention masked to a region: the region's class.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from annotator.models.mini_clip import MiniTower, StemFeatures
from annotator.training.embedded.bank import CLASSES, Bank
from annotator.training.embedded.cache import looks
from annotator.training.embedded.photos import NO_LABEL
from annotator.training.embedded.tower import class_token, dense, trunk

WEIGHTS = {
    "leaf": 0.5, "general": 0.5, "stuff": 0.3, "self": 0.7, "pixels": 1.0, "object": 0.3, "photo": 0.25, "crop": 0.25,
    "region": 0.3,
}  # fmt: skip
SCALE = 100.0
EVERY = 4  # one in so many locations of a window enters the losses over many names
PIXEL_VOCABULARIES = {"coco+": 0.25, "voc+": 0.2, "general": 0.3, "coco": 0.15, "voc": 0.1}
"""How often each is drawn; + is with background."""
DROPPED = 0.1  # of the entries of the tokens that enter the tower
NAMED_BONUS = 3.0  # logits, for the name that the source gives to a photo
SURE = 0.75


def soft_cross_entropy(features: Tensor, texts: Tensor, target: Tensor) -> Tensor:
    return -(target * (SCALE * features @ texts.T).log_softmax(dim=-1)).sum(dim=-1)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=1)


class Losses:
    """class_weights: of background and COCO's classes. average: a moving average of the tower, teacher of `self`."""

    def __init__(self, bank: Bank, class_weights: Tensor, average: MiniTower, seed: int) -> None:
        self.bank, self._average = bank, average
        self._device = next(average.parameters()).device
        self._class_weights = class_weights.to(self._device)
        self.random = torch.Generator().manual_seed(seed)
        self._voc_of = torch.zeros(CLASSES + 1, dtype=torch.long)  # class 0-80 -> VOC class 0-20, 0 where it has none
        self._voc_of[torch.tensor(bank.voc_to_coco) + 1] = torch.arange(1, 21)
        self._voc_of = self._voc_of.to(self._device)
        self.probe = nn.Linear(len(average.class_embedding), 1).to(self._device)

    def __call__(self, tower: MiniTower, batch: dict[str, Tensor], unlabelled: int, teach: bool) -> dict[str, Tensor]:
        """batch: what `Cache.sample` gives, the first `unlabelled` rows without masks. teach: with the `self` loss."""
        n = unlabelled
        with torch.autocast(self._device.type, dtype=torch.bfloat16):
            entering, logits = tower.conv1.tokens(looks(batch))
            x, intermediate = trunk(tower, F.dropout(entering, DROPPED))
            tokens = dense(tower, x)
            (whole,) = class_token(tower, x)
            regions, targets = self._regions(batch, tokens, n)
            masked = class_token(tower, x, regions)
        posterior = logits.float().softmax(dim=1)
        losses = self._from_stem(tokens[:n], posterior[:n], logits[:n].float())
        losses["stuff"] = self._stuff(tokens[:n], batch["stuff"][:n])
        if teach:
            losses["self"] = self._self(looks(batch, slice(n)), tokens[:n], batch["weak"][:n])
        losses["pixels"] = self._pixels(tokens[n:], batch["labels"][n:], batch["voc"][n:])
        losses["object"] = self._object(intermediate[n:], batch["labels"][n:], batch["voc"][n:])
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
        side = 2 * posterior.shape[-1]
        chosen = torch.randint(side**2, (side**2 // EVERY,), generator=self.random)
        rows, columns = chosen // side // 2, chosen % side // 2  # the stride-32 cell around
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

    def _self(self, features: list[StemFeatures], tokens: Tensor, weak: Tensor) -> Tensor:
        n, bank, locations = len(tokens), self.bank, tokens.shape[1] // EVERY
        with torch.no_grad():
            with torch.autocast(self._device.type, dtype=torch.bfloat16):
                x, _ = trunk(self._average, self._average.conv1.tokens(features)[0])
                seen = dense(self._average, x)
            similar = ((seen @ seen.transpose(1, 2) - 0.6) / 0.4).clamp(min=0)
            seen = F.normalize(similar @ seen, dim=-1)
            scores = self._general_and_own(seen, bank.canonical(bank.general), bank.canonical(bank.weak), weak)
            general = torch.where(weak >= 0, bank.weak_to_general[weak.clamp(min=0)], -1)
            own = torch.where(general >= 0, general, len(bank.general))
            scores[torch.arange(n), :, own] += NAMED_BONUS * (weak >= 0)[:, None]
            sure, label = scores.softmax(dim=-1).max(dim=-1)
            few = torch.rand(sure.shape, generator=self.random) < 1 / EVERY
            chosen = (sure > SURE) & few.to(self._device)
        if not chosen.any():
            return tokens.sum() * 0
        logits = self._general_and_own(tokens, bank.draw(bank.general), bank.draw(bank.weak), weak)[chosen]
        return (F.cross_entropy(logits, label[chosen], reduction="none") * sure[chosen]).sum() / (n * locations) * 2

    def _general_and_own(self, tokens: Tensor, general: Tensor, names: Tensor, weak: Tensor) -> Tensor:
        """B x P x d -> B x P x (G + 1) logits: general nouns, and the photo's own name where that is none of them."""
        own = SCALE * torch.einsum("bpd,bd->bp", tokens, names[weak.clamp(min=0)])
        other = (weak >= 0) & (self.bank.weak_to_general[weak.clamp(min=0)] < 0)
        own = own.masked_fill(~other[:, None], -1e4)
        return torch.cat([SCALE * tokens @ general.T, own[:, :, None]], dim=-1)

    def _pixels(self, tokens: Tensor, labels: Tensor, voc: Tensor) -> Tensor:
        """Cross-entropy at label resolution; a VOC photo's background may hold the other COCO classes."""
        bank = self.bank
        drawn = torch.multinomial(torch.tensor([*PIXEL_VOCABULARIES.values()]), 1, generator=self.random)
        kind = [*PIXEL_VOCABULARIES][int(drawn)]
        classes = {
            "coco+": bank.background + bank.coco,
            "voc+": bank.background + bank.voc,
            "general": bank.general,
            "coco": bank.coco,
            "voc": bank.voc,
        }[kind]
        side = math.isqrt(tokens.shape[1])
        grid = tokens.transpose(1, 2).unflatten(2, (side, side))
        scores = SCALE * torch.einsum("bdhw,cd->bchw", grid, bank.draw(classes))
        labels = labels[:, 1::2, 1::2]
        scores = F.interpolate(scores, size=labels.shape[1:], mode="bilinear", align_corners=False)
        log_p = scores.log_softmax(dim=1)
        known, background = labels != NO_LABEL, labels == 0
        labels = labels.clamp(max=CLASSES)
        weight = self._class_weights[labels] * known
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

    def _object(self, intermediate: Tensor, labels: Tensor, voc: Tensor) -> Tensor:
        """At the middle of each token; a VOC photo's background may hold other objects and counts less."""
        scores = self.probe(F.normalize(intermediate.float(), dim=-1))[:, :, 0]
        middle = labels[:, 2::4, 2::4].flatten(1)
        weight = (middle != NO_LABEL).float() * torch.where(voc[:, None] & (middle == 0), 0.3, 1.0)
        inside = ((middle > 0) & (middle != NO_LABEL)).float()
        return weighted_mean(F.binary_cross_entropy_with_logits(scores, inside, reduction="none"), weight)

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
        of_voc = torch.zeros(len(coco), 21, device=self._device).index_add_(1, self._voc_of, coco)
        loss = whole.sum() * 0
        for shares, classes, weight in (
            (of_voc, self.bank.voc, torch.ones(len(coco), device=self._device)),
            (coco, self.bank.coco, (~voc | (coco[:, 0] < coco.sum(dim=1) / 2)).float()),
        ):
            weight = weight * (shares.sum(dim=1) > 0)
            shares = torch.cat([shares[:, :1] * 0.5, shares[:, 1:]], dim=1) ** 1.5
            shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-6)
            texts = self.bank.draw(self.bank.background + classes)
            loss = loss + weighted_mean(soft_cross_entropy(whole, texts, shares), weight)
        return loss

    def _regions(self, batch: dict[str, Tensor], tokens: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """-> B x P region shares (patches like a random one; for labelled windows an object), and its class or -1."""
        places = tokens.shape[1]
        plain = tokens[:n].detach()
        seed = plain[torch.arange(n), torch.randint(places, (n,), generator=self.random)]
        limit = (0.75 + 0.17 * torch.rand((n, 1), generator=self.random)).to(self._device)
        regions = [(torch.einsum("bpd,bd->bp", plain, seed) > limit).float()]
        targets = torch.full((len(tokens),), -1, device=self._device)
        for index in range(n, len(tokens)):
            labels, instances = batch["labels"][index], batch["instances"][index]
            counts = torch.bincount(instances[(labels > 0) & (labels < NO_LABEL)], minlength=256)
            counts[0] = 0
            large = (counts > 12).nonzero()[:, 0]
            if len(large) == 0:
                regions.append(torch.ones(1, places, device=self._device))
                continue
            chosen = large[int(torch.randint(len(large), (1,), generator=self.random))]
            inside = (instances == chosen) & (labels > 0) & (labels < NO_LABEL)
            regions.append(F.adaptive_avg_pool2d(inside[None, None].float(), math.isqrt(places)).flatten(1))
            targets[index] = labels[inside][0] - 1
        return torch.cat(regions), targets

    def _region(self, masked: tuple[Tensor, ...], regions: Tensor, targets: Tensor, posterior: Tensor) -> Tensor:
        side = math.isqrt(regions.shape[1])
        cells = F.avg_pool2d(regions.unflatten(1, (side, side)), 2).flatten(1)
        leaves = torch.einsum("bcp,bp->bc", posterior.flatten(2), cells) / cells.sum(dim=1, keepdim=True).clamp(
            min=1e-6
        )
        general = bool(torch.rand((), generator=self.random) < 0.5)
        classes = self.bank.general if general else self.bank.coco
        texts, leaf_texts, known = self.bank.draw(classes), self.bank.draw(self.bank.leaves), targets >= 0
        loss = masked[0].sum() * 0
        for features in masked:
            loss = loss + 0.5 * soft_cross_entropy(features[: len(regions)], leaf_texts, leaves).mean()
            if known.any():
                loss = loss + F.cross_entropy(SCALE * features[known] @ texts.T, targets[known])
        return loss
