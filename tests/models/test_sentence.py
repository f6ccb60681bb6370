"""Sentence embeddings against sentence-transformers and against their definition."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import save_file

from annotator.errors import WeightsError
from annotator.models.compat import prepare_torchvision
from annotator.models.packs import Networks, read_pack
from annotator.models.sentence import SentenceModel, load_sentence_model
from annotator.models.sources import locate

prepare_torchvision()
from sentence_transformers import SentenceTransformer  # noqa: E402
from transformers import MPNetConfig, MPNetModel, MPNetTokenizer  # noqa: E402

TEXTS = ["a brown dog", "", "Sky.", "the dog is brown, and it barks " * 60]
COMPANIONS = ("config.json", "tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json")
POOLING = "1_Pooling/config.json"


@pytest.fixture(scope="module")
def minilm() -> SentenceModel:
    return read_pack("embedded").networks("zeroguide").sentence


@pytest.fixture(scope="module")
def mpnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model in the files of sentence-transformers/all-mpnet-base-v2."""
    folder = tmp_path_factory.mktemp("mpnet")
    words = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "a", "brown", "dog", "sky", "the", "is", "it", "b", "##arks"]
    words += [",", ".", "and", "<mask>"]
    MPNetTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder)
    torch.manual_seed(0)
    config = MPNetConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=40,
    )  # fmt: skip
    model = MPNetModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    state = {**model.state_dict(), "embeddings.position_ids": torch.arange(40)[None]}  # as the published file has it
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    names = {"0": ("", "Transformer"), "1": ("1_Pooling", "Pooling"), "2": ("2_Normalize", "Normalize")}
    modules = [
        {"idx": int(name), "name": name, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for name, (path, kind) in names.items()
    ]
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling").mkdir()
    for name, content in (
        ("config.json", {**config.to_dict(), "architectures": ["MPNetForMaskedLM"]}),
        ("modules.json", modules),
        ("sentence_bert_config.json", {"max_seq_length": 24, "do_lower_case": False}),
        (POOLING, {**pooling, "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False}),
    ):
        (folder / name).write_text(json.dumps(content))
    return folder


def load(folder: Path) -> SentenceModel:
    beside = {name: folder / name for name in (*COMPANIONS, POOLING)}
    return load_sentence_model(folder / "model.safetensors", beside, "abc")


def test_minilm_embeds_as_sentence_transformers_does(minilm: SentenceModel) -> None:
    folder = locate("sentence", read_pack("embedded").role("sentence", "").files["sentence"]).path.parent
    theirs = SentenceTransformer(str(folder), device="cpu")
    ours = minilm.embed(TEXTS)
    assert ours.shape == (len(TEXTS), 384)
    np.testing.assert_allclose(ours, theirs.encode(TEXTS, normalize_embeddings=True), rtol=0, atol=1e-5)


def test_mpnet_embeds_as_sentence_transformers_does(mpnet: Path) -> None:
    ours, theirs = load(mpnet).embed(TEXTS), SentenceTransformer(str(mpnet), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert (ours[0] - ours[2]).abs().max() > 0.01


def test_the_mean_over_tokens_by_hand(minilm: SentenceModel) -> None:
    """Each text alone and without padding."""
    for text in ("a brown dog", "Sky."):
        ids = torch.tensor([minilm.tokenizer(text)["input_ids"]])
        tokens = minilm.model(ids).last_hidden_state[0].double().tolist()
        mean = [sum(column) / len(tokens) for column in zip(*tokens, strict=True)]
        length = math.sqrt(sum(value**2 for value in mean))
        beside_a_long_one = minilm.embed([TEXTS[3], text])[1]
        np.testing.assert_allclose(beside_a_long_one, [value / length for value in mean], rtol=0, atol=1e-6)


def test_the_near_in_meaning_are_near(minilm: SentenceModel) -> None:
    dog, puppy, sky = minilm.embed(["a photo of a dog", "a picture of a puppy", "the blue sky"])
    assert dog @ puppy > 0.6 > 0.4 > dog @ sky


def test_more_texts_than_fit_one_batch(mpnet: Path) -> None:
    model = load(mpnet)
    texts = ["a dog", "the brown sky", "it barks and barks"] * 50
    embedded = model.embed(texts)
    assert embedded.dtype == torch.float32
    torch.testing.assert_close(embedded[:3].repeat(50, 1), embedded)
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(150))
    assert model.embed([]).shape == (0, 32)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_papers_pack_with_files_in_the_models_folder(
    mpnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any model in the layout of all-mpnet-base-v2; its hash is kept from this first use on."""
    target = tmp_path / "sentence-transformers" / "all-mpnet-base-v2"
    for file in mpnet.rglob("*.*"):
        (target / file.relative_to(mpnet)).parent.mkdir(parents=True, exist_ok=True)
        (target / file.relative_to(mpnet)).write_bytes(file.read_bytes())
    monkeypatch.setenv("ANNOTATE_MODELS", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    networks = read_pack("paper").networks("zeroguide")
    torch.testing.assert_close(networks.sentence.embed(TEXTS), load(mpnet).embed(TEXTS))
    assert networks.sentence.weights_id == networks.used()["sentence"]["sha256"]
    assert "sentence/1_Pooling/config.json" in networks.used()
    (target / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"sentence/config\.json: .*first use"):
        _ = read_pack("paper").networks("zeroguide").sentence


def with_pooling(mpnet: Path, folder: Path, pooling: dict[str, object]) -> SentenceModel:
    (folder / "pooling.json").write_text(json.dumps(pooling))
    beside = {name: mpnet / name for name in COMPANIONS}
    return load_sentence_model(mpnet / "model.safetensors", {**beside, POOLING: folder / "pooling.json"})


@pytest.mark.parametrize(
    ("pooling", "found"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "pooling_mode_cls_token"),
        ({"pooling_mode": "max"}, "'max'"),
        ({"pooling_mode": ["mean", "max"]}, "'mean', 'max'"),
    ],
)
def test_a_model_that_pools_otherwise_is_refused(mpnet: Path, tmp_path: Path, pooling: dict, found: str) -> None:
    with pytest.raises(WeightsError, match="expected a model that averages over tokens") as error:
        with_pooling(mpnet, tmp_path, pooling)
    assert found in str(error.value)


@pytest.mark.parametrize("pooling", [{"pooling_mode": "mean", "embedding_dimension": 32}, {"pooling_mode": ["mean"]}])
def test_the_pooling_as_newer_versions_write_it(mpnet: Path, tmp_path: Path, pooling: dict) -> None:
    torch.testing.assert_close(with_pooling(mpnet, tmp_path, pooling).embed(TEXTS), load(mpnet).embed(TEXTS))


def test_a_file_that_is_no_model(mpnet: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(WeightsError, match=r"^sentence: expected a model of transformers"):
        load_sentence_model(tmp_path / "model.safetensors", {"config.json": mpnet / "config.json"})
    with pytest.raises(WeightsError, match=r"in \.safetensors, but found 'pytorch_model\.bin'"):
        load_sentence_model(tmp_path / "pytorch_model.bin", {})


def test_a_hash_of_a_companion_is_checked(mpnet: Path, tmp_path: Path) -> None:
    role = {
        "weights": {"path": str(mpnet / "model.safetensors")},
        "companions": {"config.json": "0" * 64, "tokenizer.json": ""},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"roles": {"sentence": role}}))
    with pytest.raises(WeightsError, match=r"sentence/config\.json: .*expected SHA-256 0{64}"):
        _ = read_pack(str(tmp_path / "mine.yaml")).networks("zeroguide").sentence


def test_networks_in_memory(minilm: SentenceModel) -> None:
    assert Networks.of(sentence=minilm).sentence is minilm
