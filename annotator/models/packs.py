"""Packs: which weights fill which role.

A pack is a YAML file, `configs/packs/NAME.yaml` or a user's own; `configs/packs/paper.yaml` explains its form.
A role's files have slots, which `--weights SLOT=FILE` names: `clip` is the weights of the role clip,
`found.backbone` those of a part of it, `lm/config.json` a file that goes with them, which is expected beside FILE
where only `lm` is given. `--weights ROLE=NAME` takes one of the pack's alternatives for a role.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urljoin

from annotator.config import parameters_from, read_yaml
from annotator.errors import ConfigError, WeightsError
from annotator.models.devices import resolve_device, resolve_precision
from annotator.models.networks import Networks, Role, Used, build, weights_from_files
from annotator.models.sources import MissingWeights, Source, at_hand, given_file, is_file_there, known_hash, locate
from annotator.wording import shown

if TYPE_CHECKING:
    from torch import nn

    from annotator.models.backbone import Precision

__all__ = [
    "AUTO",
    "Networks",
    "Pack",
    "available_packs",
    "describe",
    "open_networks",
    "pull",
    "read_pack",
    "resolve_pack",
]

AUTO = "auto"
ROLES = ("clip", "dino", "found", "heads", "lm", "sentence", "phrases")
PACK_KEYS = ("description", "roles", "alternatives", "labelers")
ROLE_KEYS = ("architecture", "mean", "std", "licence", "weights", "parts", "companions")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pack:
    """labelers: the roles that a labeler fills otherwise. alternatives: role -> name -> what a user may choose."""

    name: str
    description: str = ""
    roles: Mapping[str, Role] = field(default_factory=dict)
    labelers: Mapping[str, Mapping[str, Role]] = field(default_factory=dict)
    alternatives: Mapping[str, Mapping[str, Role]] = field(default_factory=dict)

    def choose(self, weights: Mapping[str, str | Path] | None) -> Pack:
        """This pack with the alternatives that `weights` names in their roles' place, and without the files that a
        given .gguf holds itself."""
        chosen = {}
        for slot, given in (weights or {}).items():
            if str(given) in self.alternatives.get(slot, {}):
                chosen[slot] = self.alternatives[slot][str(given)]
            elif slot == "lm" and str(given).endswith(".gguf"):
                chosen[slot] = Role(slot, files={slot: (Source(path=str(given)),)})
        labelers = {
            labeler: {name: role for name, role in roles.items() if name not in chosen}
            for labeler, roles in self.labelers.items()
        }
        return replace(self, roles={**self.roles, **chosen}, labelers=labelers)

    def roles_for(self, labeler: str) -> dict[str, Role]:
        """Every role as this labeler gets it."""
        return {**self.roles, **self.labelers.get(labeler, {})}

    def role(self, name: str, labeler: str) -> Role:
        roles = self.roles_for(labeler)
        if name not in roles:
            raise WeightsError(
                f"{labeler}: expected a pack with {name!r}, but {self.name!r} has only {', '.join(roles)}; "
                "choose another --pack"
            )
        return roles[name]

    def networks(
        self,
        labeler: str,
        device: str = "cpu",
        precision: Precision = "fp32",
        weights: Mapping[str, str | Path] | None = None,
    ) -> Networks:
        """What `labeler` gets; nothing is read yet. weights: slot -> file in place of the pack's."""
        pack = self.choose(weights)
        given = pack.given_files(labeler, weights)
        return Networks(lambda role: pack.load(role, labeler, given), device, precision, self.name)

    def load(self, name: str, labeler: str, given: Mapping[str, Path]) -> tuple[nn.Module, Used]:
        """Finds, checks, reads and builds the network for one role."""
        role, used = self.role(name, labeler), Used()
        return build(role, weights_from_files(role, given, used)), used

    def given_files(self, labeler: str, weights: Mapping[str, str | Path] | None) -> dict[str, Path]:
        """`--weights` as paths, or an error for a slot or a file that there is not. What goes with a given file is
        beside it."""
        slots = [slot for role in self.roles_for(labeler).values() for slot in role.files]
        given = {}
        for slot, path in (weights or {}).items():
            if slot not in slots:
                known = ", ".join(slots) or "none"
                raise ConfigError(f"--weights {slot}=FILE: the pack {self.name!r} has no such file; it has {known}")
            if str(path) not in self.alternatives.get(slot, {}):
                given[slot] = given_file(slot, path)
        companions = {slot: given[slot.split("/")[0]] for slot in slots if "/" in slot and slot.split("/")[0] in given}
        return {slot: path.parent / slot.split("/", 1)[1] for slot, path in companions.items()} | given


class NetworkUser(Protocol):
    """What has to be known of a labeler."""

    @property
    def name(self) -> str: ...


def open_networks(
    pack: str,
    labeler: NetworkUser,
    device: str = "auto",
    precision: str = "auto",
    weights: Mapping[str, str | Path] | None = None,
) -> Networks:
    """What a labeler gets from the pack of that name (see `resolve_pack`), each `auto` made concrete.

    pack `auto` is decided when the labeler asks for its first network, which every labeler has to have; only
    what it does ask for is fetched.
    """
    chosen = resolve_device(device)
    fitting = resolve_precision(precision, chosen)
    if pack != AUTO:
        return read_pack(pack).networks(labeler.name, chosen, fitting, weights)
    if weights:  # files that are not there are refused at once, whatever the labeler will open
        read_pack("paper").choose(weights).given_files(labeler.name, weights)
    decided: list[Pack] = []

    def load(role: str) -> tuple[nn.Module, Used]:
        if not decided:
            decided.append(resolve_pack(AUTO, labeler.name, (role,), weights))
            networks.pack = decided[0].name
        try:
            return decided[0].load(role, labeler.name, decided[0].given_files(labeler.name, weights))
        except MissingWeights as missing:
            raise MissingWeights(f"{missing}, or choose --pack embedded") from None

    networks = Networks(load, chosen, fitting, AUTO)
    return networks


def available_packs() -> list[str]:
    return sorted(path.stem for path in _packs_folder().glob("*.yaml"))


def resolve_pack(
    name: str, labeler: str = "", roles: Sequence[str] = (), weights: Mapping[str, str | Path] | None = None
) -> Pack:
    """The pack of that name (`paper`, `embedded`, the path of a YAML); `auto` chooses by what can be had.

    labeler, roles, weights: for `auto`. It fetches what these roles need of `paper` and, where that cannot be,
    falls back to `embedded` with one warning. A file that is there and wrong is an error all the same.
    """
    if name != AUTO:
        return read_pack(name).choose(weights)
    paper = read_pack("paper").choose(weights)
    given = paper.given_files(labeler, weights)
    try:
        for role in roles:
            for slot, sources in paper.role(role, labeler).files.items():
                locate(slot, sources, given.get(slot))
    except MissingWeights as missing:
        _log.warning("USING THE PACK `embedded`, WHOSE LABELS ARE WORSE; the papers' weights are missing: %s", missing)
        return read_pack("embedded").choose(weights)
    return paper


def describe(pack: Pack, alternatives: bool = False) -> list[dict[str, str]]:
    """A row per file, for people: labeler ("" = the others), slot, architecture, source, size, licence, the hash
    that the file is held to, and its path; "" for what is not known or not on this machine.

    alternatives: those of the pack, too, their slots as ROLE=NAME.
    """
    rows = []
    for labeler, role, slot, sources in (*_files(pack), *(_alternative_files(pack) if alternatives else ())):
        source, path = at_hand(sources) or (sources[0], "")
        rows.append(_row(labeler, role, slot, source.origin, source.size, known_hash(source), str(path)))
    return rows


def _row(
    labeler: str, role: Role, slot: str, source: str, size: str = "", sha256: str = "", path: str = ""
) -> dict[str, str]:
    return {
        "labeler": labeler,
        "slot": slot,
        "architecture": role.architecture if isinstance(role.architecture, str) else "",
        "source": source,
        "size": size,
        "licence": role.licence,
        "sha256": sha256,
        "path": path,
    }


def pull(
    pack: Pack, labeler: str | None = None, roles: Sequence[str] = (), progress: Callable[[str], None] | None = None
) -> list[dict[str, str]]:
    """Fetches what is not yet on this machine and checks all: a row of slot, path and sha256 per file.

    labeler, roles: only their files; all where they are not given. progress: told of each file beforehand.
    """
    rows = []
    for owner, role, slot, sources in _files(pack):
        wanted = labeler is None or pack.roles_for(labeler).get(role.name) is role
        if wanted and (not roles or role.name in roles):
            if progress is not None:
                progress(f"{owner or 'all'}: {slot}: {sources[0].origin} {sources[0].size}".rstrip())
            located = locate(slot, sources)
            rows.append({"slot": slot, "path": str(located.path), "sha256": located.sha256})
    return rows


def _files(pack: Pack) -> Iterator[tuple[str, Role, str, tuple[Source, ...]]]:
    for labeler, roles in (("", pack.roles), *pack.labelers.items()):
        for role in roles.values():
            for slot, sources in role.files.items():
                yield labeler, role, slot, sources


def _alternative_files(pack: Pack) -> Iterator[tuple[str, Role, str, tuple[Source, ...]]]:
    for named in pack.alternatives.values():
        for name, role in named.items():
            for slot, sources in role.files.items():
                yield "", role, slot.replace(role.name, f"{role.name}={name}", 1), sources


def read_pack(name: str) -> Pack:
    """A pack by its name or by the path of its YAML."""
    is_file = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_file else _packs_folder() / f"{name}.yaml"
    if not (is_file_there(path) if is_file else name in available_packs()):
        known = ", ".join((*available_packs(), AUTO))
        raise ConfigError(f"no pack {name!r}; known are {known}, or give the path of a pack's YAML")
    pack = _mapping(read_yaml(path), str(path), PACK_KEYS)
    labelers = _mapping(pack.get("labelers"), f"{path}: labelers")
    described = {key: pack[key] for key in ("description",) if key in pack}
    return replace(
        parameters_from(Pack, {"name": path.stem, **described}, str(path)),
        roles=_roles(pack.get("roles"), path, "roles"),
        labelers={str(labeler): _roles(roles, path, f"labelers.{labeler}") for labeler, roles in labelers.items()},
        alternatives={
            role: {
                name: _role(role, value, path, f"{path}: alternatives.{role}.{name}")
                for name, value in _mapping(named, f"{path}: alternatives.{role}").items()
            }
            for role, named in _mapping(pack.get("alternatives"), f"{path}: alternatives", ROLES).items()
        },
    )


def _packs_folder() -> Path:
    return Path(str(resources.files("configs"))) / "packs"


def _mapping(value: Any, where: str, keys: Sequence[str] | None = None) -> dict[str, Any]:
    """`value` as a mapping with no other than these keys; nothing counts as empty."""
    if not isinstance(value, dict | None):
        raise ConfigError(f"{where}: expected names with values, but found {shown(value)}")
    for key in value or {}:
        if keys is not None and key not in keys:
            raise ConfigError(f"{where}: unknown {shown(key)}; known are {', '.join(keys)}")
    return value or {}


def _roles(value: Any, path: Path, where: str) -> dict[str, Role]:
    roles = _mapping(value, f"{path}: {where}", ROLES)
    return {name: _role(name, entry, path, f"{path}: {where}.{name}") for name, entry in roles.items()}


def _role(name: str, value: Any, path: Path, where: str) -> Role:
    role = _mapping(value, where, ROLE_KEYS)
    files = {}
    for part, sources in _mapping(role.get("parts"), f"{where}.parts").items():
        files[f"{name}.{part}"] = _sources(sources, path, f"{where}.parts.{part}")
    if "weights" in role:
        files[name] = _sources(role["weights"], path, f"{where}.weights")
        for companion, sha256 in _companions(role.get("companions"), f"{where}.companions").items():
            try:
                files[f"{name}/{companion}"] = tuple(_companion(source, companion, sha256) for source in files[name])
            except ValueError as error:
                raise ConfigError(f"{where}.companions: {companion}: {error}") from None
    described: dict[str, Any] = {key: role[key] for key in ("architecture", "mean", "std", "licence") if key in role}
    return replace(parameters_from(Role, {"name": name, **described}, where), files=files)


def _sources(value: Any, path: Path, where: str) -> tuple[Source, ...]:
    """One file, or alternatives for it; a `path` is meant from the pack's folder."""
    entries = value if isinstance(value, list) else [value]
    sources = tuple(parameters_from(Source, _mapping(entry, where), where) for entry in entries)
    if not sources:
        raise ConfigError(f"{where}: expected a file, but found an empty list; leave the key out")
    return tuple(replace(source, path=_beside(path, source.path)) if source.path else source for source in sources)


def _beside(path: Path, name: str) -> str:
    return str((path.parent / name).resolve())


@dataclass(frozen=True)
class _Companions:
    names: tuple[str, ...] = ()
    hashes: dict[str, str] = field(default_factory=dict)


def _companions(value: Any, where: str) -> dict[str, str]:
    """A list of names, or names with their SHA-256."""
    if isinstance(value, list):
        return dict.fromkeys(parameters_from(_Companions, {"names": value}, where).names, "")
    return dict(parameters_from(_Companions, {"hashes": _mapping(value, where)}, where).hashes)


def _companion(source: Source, name: str, sha256: str) -> Source:
    """The file of that name beside the source's; names may have folders."""
    beside = {"format": "", "size": "", "sha256": sha256}
    if source.url:
        return replace(source, url=urljoin(source.url, name), **beside)
    if source.path:
        return replace(source, path=str(Path(source.path).parent / name), **beside)
    return replace(source, file=str(PurePosixPath(source.file).parent / name), **beside)
