"""How well a pack finds the salient objects of a folder of photos with binary masks (ECSSD, say).

python tests/bench/bench_saliency.py IMAGES MASKS [--by found,found-bkg,head] [--weights SLOT=FILE ...]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from torch import Tensor

from annotator.models.objectness import SHORT_SIDE, photo_objectness
from annotator.models.packs import resolve_pack
from annotator.training.bilateral import BilateralSolver
from evaluation.saliency import Pixels, Soft, score_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("masks")
    parser.add_argument("--pack", default="embedded")
    parser.add_argument("--by", default="found,found-bkg,head")
    parser.add_argument("--short-side", type=int, default=SHORT_SIDE)
    parser.add_argument("--weights", nargs="*", default=[], metavar="SLOT=FILE")
    arguments = parser.parse_args()
    weights = dict(pair.split("=", 1) for pair in arguments.weights)
    networks = resolve_pack(arguments.pack).networks("dinoiser", weights=weights)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "found": lambda image: networks.found.objectness(image),
        "found-bkg": lambda image: networks.found.seed_objectness(image),
        "head": lambda image: networks.heads.objectness(networks.clip.dense(image).intermediate),
    }
    for way in arguments.by.split(","):
        patch = networks.clip.patch_size if way == "head" else networks.found.dino.patch_size

        def objectness(photo: Pixels, way: str = way, patch: int = patch) -> Soft:
            with networks.inference():
                return photo_objectness(photo, patch, ways[way], arguments.short_side)

        for name, refine in (
            ("", None),
            (" + bilateral solver", lambda photo, soft: BilateralSolver(photo).solve(soft)),
        ):
            began = time.perf_counter()
            found = score_folder(objectness, arguments.images, arguments.masks, refine)
            print(
                f"{way + name:<28} {found.photos} photos: IoU {found.iou:.1%}, mean of both IoUs {found.both_iou:.1%}, "
                f"accuracy {found.accuracy:.1%}, max-F {found.max_f:.1%} ({time.perf_counter() - began:.0f} s)"
            )


if __name__ == "__main__":
    main()
