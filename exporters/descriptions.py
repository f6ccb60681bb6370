"""What each option of the formats means, once for `annotate export --help`, for `--format list` and for readers.

Nothing is imported here that the command line would have to wait for.
"""

from __future__ import annotations

DESCRIPTIONS = {
    "fill_holes": "Unlabelled pixels that a mask encloses join it, and so do small regions; labelled holes stay.",
    "gray": "Write gray PNGs instead of palette PNGs; the values are the same.",
    "instances": "Each connected region of a segment becomes an annotation of its own.",
    "max_side": "Draw photos with a longer side smaller, to this many pixels.",
    "min_area": "Connected regions with fewer pixels become unlabelled.",
    "min_count": "Free-text labels: leave out those in fewer photos.",
    "min_score": "Leave out segments with a lower score.",
    "opacity": "Opacity of the colours, 0 to 1; outlines are always solid.",
    "photos": "How photos come along: link, copy or none.",
    "prefix": "What a photo's URL begins with; its path follows.",
    "preset": "Folder layout: plain, voc, mmseg, ade or hf.",
    "seed": "Random seed of the split.",
    "segmentation": "Write masks as polygon (along pixel edges, exact), rle (compressed) or rle-uncompressed.",
    "shape": "Write each mask as polygon or mask.",
    "simplify": "Polygons may leave the mask by this many pixels, for fewer corners; the export says what that costs.",
    "split": "Shares of train/val or train/val/test, such as 0.9/0.1; a photo's path alone decides where it goes.",
    "strict": "Write only what COCO defines, so no `score`.",
    "top": "Free-text labels: keep only this many, the most frequent.",
    "variant": "instances, panoptic (PNGs beside the JSON) or stuff (one mask per class and photo).",
}


def about(name: str) -> dict[str, str]:
    """`metadata` for the field of a dataclass that is the option of that name."""
    return {"description": DESCRIPTIONS[name]}
