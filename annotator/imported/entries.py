"""COCO to COCO: the file's own images and categories, ids and all, back in place of those that the export wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotator.files import replacing_text
from exporters.files import json_line

Entry = dict[str, Any]


@dataclass(frozen=True)
class Entries:
    """As they stand in a COCO file. categories: in order; images: by file_name as the run has it."""

    categories: tuple[Entry, ...]
    images: dict[str, Entry]

    @property
    def changed(self) -> str:
        """Categories whose id is not their place in the list, for people; "" where there are none."""
        found = [
            f"{category['id']} ({category['name']})"
            for place, category in enumerate(self.categories, start=1)
            if category["id"] != place
        ]
        return ", ".join(found[:3]) + (f" and {len(found) - 3:,} more" if len(found) > 3 else "")


def restore(file: Path, entries: Entries) -> None:
    """In an export of those classes, all of them and in this order: ids of images and categories, and what else stood
    in their entries. Annotations keep their numbers, as they are others."""
    content = json.loads(file.read_bytes())
    own = {place: each["id"] for place, each in enumerate(entries.categories, start=1)}
    images = {each["id"]: entries.images[each["file_name"]] for each in content["images"]}
    content["categories"] = [{**each, **entries.categories[each["id"] - 1]} for each in content["categories"]]
    content["images"] = [{**each, **images[each["id"]]} for each in content["images"]]
    for annotation in content["annotations"]:
        annotation["image_id"] = images[annotation["image_id"]]["id"]
        for labelled in annotation.get("segments_info", [annotation]):
            labelled["category_id"] = own[labelled["category_id"]]
    with replacing_text(file, durable=True) as text:
        text.write(json_line(content) + "\n")
