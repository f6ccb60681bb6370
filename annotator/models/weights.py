"""Weight files: hashed, read without running anything in them, and fitted into a network.

The tool's cache folder holds what is worth keeping between runs: downloads, hashes of large files, the
hashes that files had at first use, text embeddings.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.errors import WeightsError
from annotator.files import replacing_text

if TYPE_CHECKING:
    from torch import Tensor, nn

State = dict[str, "Tensor"]
PICKLES = (".pt", ".pth", ".bin")
HARMLESS_MODULES = ("torch", "collections")


def cache_folder() -> Path:
    """$ANNOTATE_CACHE, or `annotate` in the user's cache folder. It need not exist."""
    if given := os.environ.get("ANNOTATE_CACHE"):
        return Path(given).expanduser()
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given).expanduser() / "annotate"
    try:
        home = Path.home()
    except RuntimeError:  # a user that a container made up; where the root cannot be written, nothing is cached
        home = Path("/")
    return home / ".cache" / "annotate"


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, so that gigabytes are not hashed at every start.

    `hashes.json` in the cache folder keeps it with the file's real path, size and modification time in
    nanoseconds; a change of any of them hashes anew, and deleting that JSON forgets all.
    """
    real = path.resolve()
    stat = real.stat()
    stamp = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    kept = read_notes("hashes.json").get(str(real), {})
    if {**stamp, "sha256": kept.get("sha256")} == kept:
        return str(kept["sha256"])
    with open(real, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    write_note("hashes.json", str(real), {**stamp, "sha256": digest})
    return digest


def read_notes(name: str) -> dict[str, dict[str, Any]]:
    """A small JSON of the cache folder; empty where there is none or it is damaged."""
    try:
        content = json.loads((cache_folder() / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_note(name: str, key: str, value: Mapping[str, Any]) -> None:
    """Adds to that JSON, whole or not at all; a cache folder that cannot be written costs only time."""
    with contextlib.suppress(OSError):
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**read_notes(name), key: dict(value)}, indent=1, sort_keys=True)
        with replacing_text(folder / name) as file:
            file.write(text)


def read_state(path: Path, format: str) -> State:
    """Tensors by name, on the CPU, out of a .safetensors, .pt, .pth or .bin file of one of `FORMATS`."""
    if not path.is_file():
        raise WeightsError(f"{path}: expected a weight file, but there is none; check the path")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    state = FORMATS[format](content)
    _check_tensors(path, state)
    return state


def load_strict(module: nn.Module, state: State, *, role: str, what: str) -> None:
    """Fills `module` with `state`, or names the first tensor that is missing, of another shape, or too many.

    what: the architecture, for the message.
    """
    expected = module.state_dict()
    mend = f"give the file that belongs to {what} (--weights {role}=FILE)"
    missing = [name for name in expected if name not in state]
    if missing:
        found = f"the file has none of that name ({len(missing)} of {len(expected)} tensors are missing)"
        shape = _shape(expected[missing[0]])
        raise WeightsError(f"{role}: expected tensor {missing[0]!r} {shape} of {what}, but {found}; {mend}")
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            shapes = f"to be {_shape(tensor)} in {what}, but found {_shape(state[name])}"
            raise WeightsError(f"{role}: expected tensor {name!r} {shapes}; {mend}")
    if unexpected := [name for name in state if name not in expected]:
        raise WeightsError(f"{role}: {what} has no tensor {unexpected[0]!r}, but the file does; {mend}")
    module.load_state_dict(state)


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "scalar"


def _check_tensors(path: Path, state: Mapping[str, Any]) -> None:
    from torch import Tensor

    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise WeightsError(
                f"{path}: expected tensors by name, but {name!r} is of type {type(value).__name__}; "
                "give a file that holds a state dict"
            )


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, "a safetensors file", error) from None


def _read_pickle(path: Path) -> Mapping[str, Any]:
    import torch

    if path.suffix not in PICKLES:
        raise WeightsError(f"{path}: expected a .safetensors, .pt, .pth or .bin file, but found {path.suffix!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of the very files that are refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or damaged file can raise anything here
        if code := _code_in(path, error):
            raise WeightsError(
                f"{path}: holds code ({code}), refused; only tensors are read, so give the weights as "
                ".safetensors or as a plain state dict"
            ) from None
        raise _damaged(path, "weights that torch.save wrote", error) from None
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: expected tensors by name, but found {type(content).__name__}; save a state dict")
    return content


def _damaged(path: Path, expected: str, error: Exception) -> WeightsError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return WeightsError(
        f"{path}: expected {expected}, but it is damaged or something else ({path.stat().st_size} bytes; {reason}); "
        "delete it and fetch it again"
    )


def _code_in(path: Path, error: Exception) -> str:
    """What the pickle wants to call that weights do not need; "" when it is merely damaged."""
    if match := re.search(r"GLOBAL (\S+)", str(error)):
        return match[1]
    if "TorchScript" in str(error):
        return "a TorchScript program"
    return _imports_of_new_pickle(path)


def _imports_of_new_pickle(path: Path) -> str:
    """torch reads pickle protocol 2 only and stops at the first sign of a later one, before any import."""
    strings: list[str] = []
    with contextlib.suppress(Exception), contextlib.ExitStack() as stack:  # until the pickle's end or damage
        file: Any = stack.enter_context(open(path, "rb"))
        if zipfile.is_zipfile(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            file = archive.open(next(name for name in archive.namelist() if name.endswith("data.pkl")))
        for opcode, argument, _ in pickletools.genops(file):
            if isinstance(argument, str):
                strings.append(argument)
            elif opcode.name == "STACK_GLOBAL" and strings[-2].split(".")[0] not in HARMLESS_MODULES:
                return ".".join(strings[-2:])
    return ""


def _open_clip(content: Mapping[str, Any]) -> State:
    """A published state dict, or a training checkpoint: under `state_dict`, with `module.` before every name."""
    return {name.removeprefix("module."): tensor for name, tensor in _under("state_dict", content).items()}


def _timm(content: Mapping[str, Any]) -> State:
    """timm and DINO publish the state dict as it is."""
    return dict(content)


def _found(content: Mapping[str, Any]) -> State:
    """FOUND's `decoder_weights.pt` holds `decoder`."""
    return _under("decoder", content)


def _dinoiser(content: Mapping[str, Any]) -> State:
    """CLIP-DINOiser's `last.pt` holds `model_state_dict`, at times with the frozen CLIP beside the two heads."""
    state = _under("model_state_dict", content)
    return {name: tensor for name, tensor in state.items() if name.startswith(("obj_proj.", "bkg_decoder."))}


def _under(key: str, content: Mapping[str, Any]) -> State:
    """What a pickle nests under `key`; safetensors cannot nest, so there the content itself."""
    nested = content.get(key)
    return {str(name): value for name, value in (nested if isinstance(nested, Mapping) else content).items()}


FORMATS: dict[str, Callable[[Mapping[str, Any]], State]] = {
    "plain": dict,
    "open_clip": _open_clip,
    "timm": _timm,
    "found": _found,
    "dinoiser": _dinoiser,
}
