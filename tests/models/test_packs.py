"""Packs: networks from weights in the formats in which each source publishes them, and what can go wrong."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import save_file

from annotator.errors import ConfigError, WeightsError
from annotator.models.compat import prepare_torchvision
from annotator.models.dino import Dino
from annotator.models.found import load_found
from annotator.models.packs import (
    Networks,
    available_packs,
    describe,
    open_networks,
    pull,
    read_pack,
    resolve_pack,
)
from annotator.models.sources import at_hand, locate
from annotator.models.weights import read_state
from annotator.vocabulary import Vocabulary
from labelers.base import build

prepare_torchvision()
import open_clip  # noqa: E402
import timm  # noqa: E402

TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
DINO = "vit_tiny_patch16_224"
DINO_WIDTH = 192
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


@dataclass(frozen=True)
class Labeler:
    name: str


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, torch.Tensor]]:
    """Random weights of every role, as open_clip, timm and the authors' modules name them."""
    torch.manual_seed(7)
    width = TINY_CLIP["vision_cfg"]["width"]
    return {
        "clip": open_clip.CLIP(**TINY_CLIP).state_dict(),
        "dino": timm.create_model(DINO, num_classes=0).state_dict(),
        "found": {"weight": torch.randn(1, DINO_WIDTH, 1, 1), "bias": torch.randn(1)},
        "heads": {
            "obj_proj.weight": torch.randn(256, width, 3, 3),
            "obj_proj.bias": torch.randn(256),
            "bkg_decoder.weight": torch.randn(1, width, 1, 1),
            "bkg_decoder.bias": torch.randn(1),
        },
    }


@pytest.fixture(scope="session")
def user_environment() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in ("ANNOTATE_CACHE", "ANNOTATE_MODELS")}


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Every place empty, and no network."""
    monkeypatch.setenv("ANNOTATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ANNOTATE_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def pack(tmp_path, states) -> Path:
    """A user's own pack, each file where its source leaves it."""
    snapshots = {}
    for repository in ("org/clip", "org/dino"):
        cached = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        snapshots[repository] = cached / "snapshots" / "0123abcd"
        snapshots[repository].mkdir(parents=True)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("0123abcd")
    save_file(states["clip"], snapshots["org/clip"] / "open_clip_model.safetensors")
    save_file(states["dino"], snapshots["org/dino"] / "model.safetensors")
    (tmp_path / "models").mkdir()
    torch.save({"epoch": 2, "model_state_dict": states["heads"]}, tmp_path / "models" / "last.pt")
    torch.save({"decoder": states["found"]}, tmp_path / "decoder_weights.pt")
    dino = {"hub": "org/dino", "file": "model.safetensors", "format": "timm"}
    clip = {"hub": "org/clip", "file": "open_clip_model.safetensors", "format": "open_clip"}
    content = {
        "roles": {
            "clip": {"architecture": TINY_CLIP, "mean": MEAN, "std": STD, "licence": "MIT", "weights": clip},
            "dino": {"architecture": DINO, "weights": dino},
            "found": {
                "architecture": DINO,
                "parts": {"backbone": dino},
                "weights": {"path": "decoder_weights.pt", "format": "found"},
            },
            "heads": {"weights": {"url": "https://github.com/a/b/raw/main/last.pt", "format": "dinoiser"}},
        }
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def change(pack: Path, role: str, **values: object) -> Path:
    """The pack with other values for a role's weights."""
    content = yaml.safe_load(pack.read_text())
    content["roles"][role]["weights"].update(values)
    pack.write_text(yaml.safe_dump(content))
    return pack


def clip_file(tmp_path: Path) -> Path:
    return next((tmp_path / "hub").rglob("open_clip_model.safetensors"))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def same(module: torch.nn.Module, state: dict[str, torch.Tensor]) -> bool:
    found = module.state_dict()
    return all(torch.equal(found[name], tensor) for name, tensor in state.items() if name in found)


def test_networks_hold_the_weights_of_their_files(tmp_path, pack, states):
    networks = read_pack(str(pack)).networks("dinoiser")
    assert networks.used() == {}
    vision = {name.removeprefix("visual."): t for name, t in states["clip"].items() if name.startswith("visual.")}
    assert same(networks.clip.visual, vision)
    assert networks.clip.mean.flatten().tolist() == pytest.approx(MEAN)
    assert networks.clip.std.flatten().tolist() == pytest.approx(STD)
    assert same(networks.dino.vit, states["dino"])
    assert same(networks.found.dino.vit, states["dino"])
    assert same(networks.found.decoder, states["found"])
    assert same(networks.heads, states["heads"])
    assert networks.clip is networks.clip
    assert set(networks.used()) == {"clip", "dino", "found.backbone", "found", "heads"}
    assert networks.used()["clip"] == {
        "source": "org/clip@main/open_clip_model.safetensors",
        "file": "open_clip_model.safetensors",
        "sha256": sha256(clip_file(tmp_path)),
    }


def test_the_loaded_clip_embeds_as_open_clip_does(pack, states):
    clip = read_pack(str(pack)).networks("maskclip").clip
    reference = open_clip.CLIP(**TINY_CLIP).eval()
    reference.load_state_dict(states["clip"])
    photo = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    expected = reference.encode_image((photo - mean) / std)
    torch.testing.assert_close(clip.embed(photo), expected, rtol=1e-4, atol=1e-5)


def one_line(pack: Path, role: str, weights: dict[str, Path] | None = None) -> str:
    networks = read_pack(str(pack)).networks("dinoiser", weights=weights)
    with pytest.raises(WeightsError) as error:
        getattr(networks, role)
    assert "\n" not in str(error.value)
    assert networks.used() == {}
    return str(error.value)


def test_a_wrong_hash(tmp_path, pack):
    message = one_line(change(pack, "clip", sha256="0" * 64), "clip")
    assert "0" * 64 in message
    assert sha256(clip_file(tmp_path)) in message


def test_a_right_hash(tmp_path, pack):
    change(pack, "clip", sha256=sha256(clip_file(tmp_path)))
    assert read_pack(str(pack)).networks("maskclip").clip.patch_size == 8


def test_a_missing_key(tmp_path, pack, states):
    path = clip_file(tmp_path)
    save_file({name: tensor for name, tensor in states["clip"].items() if name != "visual.proj"}, path)
    message = one_line(pack, "clip")
    for part in (str(path), "'visual.proj'", "32 x 16", "--weights clip=FILE"):
        assert part in message


def test_the_file_of_another_architecture(pack, states, tmp_path):
    path = tmp_path / "found_by_user.pt"
    torch.save({"decoder": {"weight": torch.ones(1, 384, 1, 1), "bias": torch.ones(1)}}, path)
    message = one_line(pack, "found", {"found": path})
    for part in (str(path), "1 x 192 x 1 x 1", "1 x 384 x 1 x 1", "--weights found=FILE"):
        assert part in message


class Evil:
    def __reduce__(self):
        return print, ("this must never run",)


def test_a_pickle_with_code(tmp_path, pack, capfd):
    (tmp_path / "models" / "last.pt").write_bytes(pickle.dumps({"model_state_dict": Evil()}))
    message = one_line(pack, "heads")
    assert "last.pt" in message
    assert "holds code" in message
    assert "never run" not in capfd.readouterr().out


def test_the_hash_of_first_use_is_kept_only_for_files_that_proved_right(tmp_path, pack, states):
    right = clip_file(tmp_path).read_bytes()
    save_file({"visual.proj": torch.ones(1)}, clip_file(tmp_path))
    one_line(pack, "clip")
    clip_file(tmp_path).write_bytes(right)
    assert read_pack(str(pack)).networks("maskclip").clip.patch_size == 8

    other = {name: tensor + 1 for name, tensor in states["clip"].items()}
    save_file(other, clip_file(tmp_path))
    assert "first use" in one_line(pack, "clip")


def test_weights_of_the_users_own(tmp_path, pack, states):
    own = {name: tensor + 1 for name, tensor in states["heads"].items()}
    save_file(own, tmp_path / "own.safetensors")
    networks = read_pack(str(pack)).networks("dinoiser", weights={"heads": tmp_path / "own.safetensors"})
    assert same(networks.heads, own)
    assert networks.used()["heads"] == {
        "source": "--weights",
        "file": "own.safetensors",
        "sha256": sha256(tmp_path / "own.safetensors"),
    }


def test_weights_for_a_slot_that_there_is_not(pack):
    with pytest.raises(ConfigError, match=r"--weights head=FILE.*clip.*found\.backbone.*heads"):
        read_pack(str(pack)).networks("dinoiser", weights={"head": "x.pt"})


def test_a_role_that_the_pack_lacks(pack):
    content = yaml.safe_load(pack.read_text())
    del content["roles"]["heads"]
    pack.write_text(yaml.safe_dump(content))
    assert "dinoiser: expected a pack with 'heads'" in one_line(pack, "heads")


def test_networks_in_memory():
    heads = torch.nn.Conv2d(2, 2, 1)
    networks = Networks.of(heads=heads)
    assert networks.heads is heads
    assert networks.used() == {}
    with pytest.raises(WeightsError, match="'clip'"):
        _ = networks.clip


def test_inference_has_no_gradients():
    heads = torch.nn.Conv2d(2, 2, 1)
    with Networks.of(heads=heads).inference():
        assert not heads(torch.ones(1, 2, 1, 1)).requires_grad


def test_describe_and_pull(tmp_path, pack):
    rows = {row["slot"]: row for row in describe(read_pack(str(pack)))}
    assert list(rows) == ["clip", "dino", "found.backbone", "found", "heads"]
    assert rows["clip"]["path"] == str(clip_file(tmp_path))
    assert rows["clip"]["licence"] == "MIT"
    told: list[str] = []
    pulled = pull(read_pack(str(pack)), "maskclip", ["clip"], told.append)
    assert pulled == [{"slot": "clip", "path": str(clip_file(tmp_path)), "sha256": sha256(clip_file(tmp_path))}]
    assert len(told) == 1


def test_the_embedded_pack_is_whole_and_checked():
    """Every file is at hand, and `pull` holds each to the hash in the YAML."""
    rows = describe(read_pack("embedded"))
    assert {row["slot"] for row in rows} >= {"clip", "clip.stem", "clip.text", "dino", "found", "heads"}
    assert all(row["path"] and len(row["sha256"]) == 64 and row["licence"] for row in rows)
    assert [row["sha256"] for row in pull(read_pack("embedded"))] == [row["sha256"] for row in rows]


def test_pull_without_network_is_one_error():
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        pull(read_pack("paper"), "dinoiser")


def test_pull_for_a_labeler_takes_its_own_networks():
    told: list[str] = []
    with pytest.raises(WeightsError, match="CLIP-ViT-B-32"):
        pull(read_pack("paper"), "diy", ["clip"], told.append)
    assert told == ["diy: clip: laion/CLIP-ViT-B-32-laion2B-s34B-b79K@main/open_clip_model.safetensors 605 MB"]


@pytest.mark.parametrize(
    ("labeler", "architecture", "tag"),
    [
        ("dinoiser", "ViT-B-16", "laion2b_s34b_b88k"),
        ("maskclip", "ViT-B-16", "laion2b_s34b_b88k"),
        ("diy", "ViT-B-32", "laion2b_s34b_b79k"),
        ("zeroguide", "ViT-L-14-336-quickgelu", "openai"),
    ],
)
def test_paper_names_clip_as_open_clip_does(labeler, architecture, tag):
    role = read_pack("paper").role("clip", labeler)
    published = open_clip.get_pretrained_cfg(architecture, tag)
    assert role.architecture == architecture
    assert {f"{source.hub}/" for source in role.files["clip"]} == {published["hf_hub"]}
    assert role.files["clip"][0].file == open_clip.constants.HF_SAFE_WEIGHTS_NAME
    assert (role.mean, role.std) == (published["mean"], published["std"])
    assert published.get("quick_gelu", False) == open_clip.get_model_config(architecture).get("quick_gelu", False)


@pytest.mark.parametrize(
    ("role", "labeler", "architecture"),
    [
        ("dino", "dinoiser", "vit_base_patch16_224.dino"),
        ("dino", "zeroguide", "vit_small_patch8_224.dino"),
        ("found", "diy", "vit_small_patch8_224.dino"),
    ],
)
def test_paper_names_dino_as_timm_does(role, labeler, architecture):
    found = read_pack("paper").role(role, labeler)
    published = timm.models.get_pretrained_cfg(architecture)
    assert found.architecture == architecture
    assert published.num_classes == 0
    if role == "dino":
        assert found.files["dino"][0].hub == published.hf_hub_id


def test_the_published_found_decoder(monkeypatch, user_environment):
    """Runs where the user has the file, in $ANNOTATE_MODELS or from an earlier download."""
    for name, value in user_environment.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    sources = read_pack("paper").role("found", "diy").files["found"]
    if at_hand(sources) is None:
        pytest.skip("FOUND's published decoder_weights.pt is not on this machine")
    located = locate("found", sources)
    backbone = Dino(timm.create_model("vit_small_patch8_224.dino", num_classes=0))
    decoder = load_found(backbone, read_state(located.path, "found")).decoder
    assert decoder.weight.shape == (1, 384, 1, 1)


@pytest.mark.parametrize("name", ["nonsense", "nowhere.yaml"])
def test_an_unknown_pack(name):
    with pytest.raises(ConfigError, match=r"known are embedded, paper, auto"):
        resolve_pack(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a list", "expected `name: value` lines"),
        ("roles: {clip: [}", "YAML"),
        ("rolls: {}", "unknown 'rolls'"),
        ("roles: {eyes: {}}", "unknown 'eyes'"),
        ("roles: {clip: {weight: {}}}", "unknown 'weight'"),
        ("roles: {clip: {weights: {hub: a/b, file: c, sha: d}}}", "no setting 'sha'"),
        ("roles: {clip: {weights: {hub: a/b}}}", "`file`"),
        ("roles: {clip: {weights: []}}", "empty"),
    ],
)
def test_a_broken_pack_is_one_line_with_its_name(tmp_path, text, expected):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_pack(str(path))
    assert str(path) in str(error.value)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_auto_falls_back_to_embedded_with_one_warning(caplog):
    networks = open_networks("auto", Labeler("maskclip"), device="cpu")
    with caplog.at_level(logging.WARNING):
        assert networks.clip.patch_size == 16
    assert networks.pack == "embedded"
    warnings = [record for record in caplog.records if record.name.startswith("annotator")]
    assert len(warnings) == 1
    assert "embedded" in warnings[0].getMessage()
    assert "CLIP-ViT-B-16-laion2B-s34B-b88K" in warnings[0].getMessage()


def test_auto_is_paper_where_its_files_are_at_hand(tmp_path, states):
    heads = tmp_path / "own.safetensors"
    save_file(states["heads"], heads)
    networks = open_networks("auto", Labeler("dinoiser"), device="cpu", weights={"heads": str(heads)})
    assert same(networks.heads, states["heads"])
    assert networks.pack == "paper"
    with pytest.raises(WeightsError, match=r"^clip: .*--pack embedded"):  # never half of each pack
        _ = networks.clip


def test_auto_does_not_hide_a_wrong_file(tmp_path):
    wrong = tmp_path / "models" / "laion" / "CLIP-ViT-B-16-laion2B-s34B-b88K" / "open_clip_model.safetensors"
    wrong.parent.mkdir(parents=True)
    wrong.write_bytes(b"cut short")
    with pytest.raises(WeightsError, match="expected SHA-256"):
        resolve_pack("auto", "maskclip", ["clip"])


@pytest.mark.slow
def test_the_embedded_networks_fit_each_other_and_know_a_cat():
    """A real photo: the stem, the tower, the text side and the heads only work together."""
    assert available_packs() == ["embedded", "paper"]
    skimage = pytest.importorskip("skimage.data")
    labeler = build("dinoiser", open_networks("embedded", Labeler("dinoiser"), device="cpu"))
    labeler.prepare(Vocabulary.of(["cat", "bus", "sky"]))
    prediction = labeler.label([skimage.chelsea()])[0]
    assert prediction.size == (300, 451)
    assert (prediction.class_map() == 0).mean() > 0.8

    networks = open_networks("embedded", Labeler("diy"), device="cpu")
    photo = torch.from_numpy(skimage.chelsea()).permute(2, 0, 1)[None] / 255
    assert networks.found.objectness(photo).shape == (1, 19, 29)
    assert networks.dino.last_attention(photo).grid == (19, 29)
    assert set(networks.used()) == {"found", "found.backbone", "found.stem", "dino", "dino.stem"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"device": "cuda:99"}, "--device cuda:99"), ({"device": "tpu"}, "--device tpu.*cpu")],
)
def test_a_device_that_this_machine_lacks(options, expected):
    with pytest.raises(ConfigError, match=expected):
        open_networks("embedded", Labeler("maskclip"), **options)


@pytest.mark.parametrize("pack", ["embedded", "paper", "auto"])
def test_a_weights_file_that_is_not_there_is_refused_whoever_opens_it(pack: str) -> None:
    """Labelers without networks, and those that do not open this one, too."""
    bands = SimpleNamespace(name="bands")
    for labeler in (bands, SimpleNamespace(name="dinoiser")):
        for slot in ("clip", "found"):
            with pytest.raises(WeightsError, match=rf"--weights {slot}=no\.pt: expected a file, but there is none"):
                open_networks(pack, labeler, "cpu", weights={slot: "no.pt"})
    with pytest.raises(ConfigError, match="--weights clap=FILE"):
        open_networks(pack, bands, "cpu", weights={"clap": "no.pt"})
    open_networks(pack, bands, "cpu", weights={"lm": "smollm2"})
