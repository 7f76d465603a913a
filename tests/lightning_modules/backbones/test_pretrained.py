"""Weights that others wrote, and weights that others read."""

import json
import os
import subprocess
import sys

import pytest
import torch

from length_gen.lightning_modules.backbones import LSTM, Mamba, Mamba2, Mistral, Pretrained, Pythia
from length_gen.lightning_modules.backbones.low_rank import add_low_rank
from length_gen.lightning_modules.backbones.pretrained import export
from length_gen.tools import UserError

transformers = pytest.importorskip("transformers")
VOCABULARY = 50
THEIRS = {
    "Mamba": dict(hidden_size=32, num_hidden_layers=2, state_size=8, expand=3, conv_kernel=3,
                  time_step_rank=5),
    "Mamba2": dict(hidden_size=32, num_hidden_layers=2, state_size=24, head_dim=8, num_heads=8, n_groups=2),
    "GPTNeoX": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
                    rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}),
    "Mistral": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                    intermediate_size=48, sliding_window=13, head_dim=8),
}
OWN = {"MambaForCausalLM": lambda: Mamba(VOCABULARY, d_model=32, d_inner=96, d_state=8, d_conv=3, dt_rank=5),
       "Mamba2ForCausalLM": lambda: Mamba2(VOCABULARY, d_model=32, n_groups=2, tie_embeddings=False, norm_eps=1e-4),
       "GPTNeoXForCausalLM": lambda: Pythia(VOCABULARY, d_model=32, d_inner=40, rotary_share=0.5, rope_theta=300.0),
       "MistralForCausalLM": lambda: Mistral(VOCABULARY, d_model=32, n_kv_head=2, window=9, rope_theta=300.0)}


def some_tokens():
    return torch.randint(VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(0))


def shaken(model):
    """With weights that matter: no ones and zeros."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += (0.05 if "A_log" in name or "dt_" in name else 0.2) * torch.randn_like(parameter)
    return model.eval()


def their_model(name, **more):
    config = getattr(transformers, f"{name}Config")(vocab_size=VOCABULARY, **THEIRS[name], **more)
    return shaken(getattr(transformers, f"{name}ForCausalLM")(config))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder and the logits of each of transformers' models."""
    result = {}
    for name in THEIRS:
        folder, model = tmp_path_factory.mktemp(name), their_model(name)
        model.save_pretrained(folder)
        with torch.no_grad():
            result[name] = folder, model(some_tokens()).logits
    return result


def same(net, logits):
    with torch.no_grad():
        return logits.std() > 0.2 and (net.eval()(some_tokens())[0] - logits).abs().max() < 1e-4


@pytest.mark.parametrize("name", THEIRS)
def test_transformers_folders_are_loaded(name, folders, tmp_path):
    folder, logits = folders[name]
    assert same(Pretrained(VOCABULARY, str(folder)), logits)
    # The same as a PyTorch file, with the names and buffers of old versions.
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    if name == "GPTNeoX":
        weights["embed_out.weight"] = weights.pop("lm_head.weight") if "lm_head.weight" in weights else (
            weights["embed_out.weight"])
        weights |= {"gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 8, 8),
                    "gpt_neox.layers.1.attention.masked_bias": torch.tensor(-1e9),
                    "gpt_neox.layers.1.attention.rotary_emb.inv_freq": torch.ones(2)}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    if name == "GPTNeoX":
        rope = config.pop("rope_parameters")
        config |= {"rotary_pct": rope["partial_rotary_factor"], "rotary_emb_base": rope["rope_theta"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert same(Pretrained(VOCABULARY, str(tmp_path)), logits)


def test_shards_are_loaded(tmp_path):
    model = their_model("Mamba")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    with torch.no_grad():
        assert same(Pretrained(VOCABULARY, str(tmp_path)), model(some_tokens()).logits)


@pytest.mark.parametrize("name, config", [
    ("Mamba", {"d_model": 32, "n_layer": 2, "vocab_size": 47, "rms_norm": True, "residual_in_fp32": True,
               "ssm_cfg": {"d_state": 8, "d_conv": 3, "expand": 3, "dt_rank": 5}, "pad_vocab_size_multiple": 10}),
    ("Mamba2", {"d_model": 32, "n_layer": 2, "vocab_size": 50, "d_intermediate": 0, "attn_layer_idx": [],
                "ssm_cfg": {"layer": "Mamba2", "d_state": 24, "headdim": 8, "ngroups": 2}, "tie_embeddings": True})])
def test_original_folders_are_loaded(name, config, folders, tmp_path):
    """config.json and names of state-spaces/mamba-130m and mamba2-130m."""
    from safetensors.torch import load_file

    folder, logits = folders[name]
    weights = load_file(folder / "model.safetensors")
    weights["backbone.embedding.weight"] = weights.pop("backbone.embeddings.weight")
    weights.setdefault("lm_head.weight", weights["backbone.embedding.weight"])
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert same(Pretrained(VOCABULARY, str(tmp_path)), logits)


@pytest.mark.parametrize("architecture", OWN)
def test_transformers_loads_what_is_exported(architecture, tmp_path):
    torch.manual_seed(0)
    net = shaken(OWN[architecture]())
    assert export(net, tmp_path / "out", [str(i) for i in range(VOCABULARY)]) == architecture
    loaded, report = getattr(transformers, architecture).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()), report
    with torch.no_grad():
        assert same(net, loaded.eval()(some_tokens()).logits)
    assert json.loads((tmp_path / "out/tokens.json").read_text())[7] == "7"
    assert same(Pretrained(VOCABULARY, str(tmp_path / "out")), net(some_tokens())[0])
    with pytest.raises(UserError, match="holds a model, which stays as it is"):
        export(net, tmp_path / "out", [])


@pytest.mark.parametrize("build", [Mamba, Mamba2])
def test_a_floor_which_transformers_has_not_is_not_exported(build, tmp_path):
    with pytest.raises(UserError, match=rf"a {build.__name__} with dt_floor 0.5 cannot be exported: transformers has"):
        export(build(VOCABULARY, d_model=32, dt_floor=0.5), tmp_path / "out", [])
    assert not (tmp_path / "out").exists()
    tapped = build(VOCABULARY, d_model=32, taps=[2, 1], initializer_range=0.2)  # which its weights tell
    export(tapped, tmp_path / "out", [])
    assert same(Pretrained(VOCABULARY, str(tmp_path / "out")), tapped(some_tokens())[0])


def test_a_vocabulary_is_resized_on_request(folders):
    folder, _ = folders["Mamba"]
    smaller, larger = (Pretrained(size, str(folder), resize=True) for size in (45, 60))
    own = some_tokens() % 45
    with torch.no_grad():
        expected = Pretrained(VOCABULARY, str(folder))(own)[0]
        assert torch.allclose(smaller(own)[0], expected[..., :45], atol=1e-5)
        assert torch.allclose(larger(own)[0][..., :VOCABULARY], expected, atol=1e-5)
    rows = larger.model.lm_head.weight[VOCABULARY:]
    assert rows.std() > 0.1 and larger.model.lm_head.weight is larger.model.backbone["embedding"].weight


@pytest.mark.parametrize("name, targets, names", [
    ("Mamba", ["in_proj", "x_proj"], None), ("GPTNeoX", ["query_key_value", "dense_h_to_4h"], None),
    ("GPTNeoX", None, ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"])])
def test_low_rank_updates_equal_peft(name, targets, names, folders):
    peft = pytest.importorskip("peft")
    folder, _ = folders[name]
    torch.manual_seed(0)
    net = Pretrained(VOCABULARY, str(folder), lora_rank=4, lora_alpha=6.0, lora_targets=targets)
    reference = peft.get_peft_model(
        getattr(transformers, f"{name}ForCausalLM").from_pretrained(folder),
        peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets or names)).eval()
    own = dict(net.named_parameters())
    with torch.no_grad():
        for key, parameter in reference.named_parameters():
            if ".lora_" in key:
                stem, matrix = key.removeprefix("base_model.model.").split(".lora_")
                ours = own[f"model.{stem}.parametrizations.weight.0.{matrix[0]}"]
                ours += 0.1 * torch.randn_like(ours)
                parameter.copy_(ours)
        expected = reference(some_tokens()).logits
    trained = {key for key, parameter in own.items() if parameter.requires_grad}
    assert trained == {key for key in own if ".parametrizations.weight.0." in key} and trained
    assert net.train()(some_tokens())[0].sub(expected).abs().max() < 1e-4  # with gradients
    assert same(net, expected)
    with torch.no_grad():
        state, steps = net.initial_state(2), []
        for t in range(40):
            logits, state = net.step(some_tokens()[:, t], state)
            steps.append(logits)
    assert (torch.stack(steps, 1) - expected).abs().max() < 1e-4


def test_low_rank_updates_are_trained_and_exported(folders, tmp_path):
    folder, before = folders["Mamba"]
    net = Pretrained(VOCABULARY, str(folder), lora_rank=2)
    assert same(net, before)  # which must not be remembered
    net.train()(some_tokens())[0].log_softmax(-1)[..., 3].mean().backward()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter -= 0.5 * parameter.grad / (parameter.grad.norm() + 1e-9)
    after = net.eval()(some_tokens())[0]
    assert (after - before).abs().max() > 0.1
    export(net, tmp_path / "out", [])
    with torch.no_grad():
        loaded = transformers.MambaForCausalLM.from_pretrained(tmp_path / "out").eval()
        assert (loaded(some_tokens()).logits - after).abs().max() < 1e-4
    assert same(net, after.detach())


def test_what_is_new_in_a_vocabulary_is_trained_beside_low_rank_updates(folders):
    net = Pretrained(60, str(folders["GPTNeoX"][0]), resize=True, lora_rank=2)
    assert net.model.embed_out.weight.requires_grad and net.model.gpt_neox["embed_in"].weight.requires_grad
    assert not net.model.gpt_neox["layers"][0].attention["dense"].bias.requires_grad


MISTAKES = {
    "another vocabulary": (dict(vocab_size=45), "vocabulary of 45 tokens is not that of .* embedding has 50 rows"),
    "rank": (dict(lora_rank=0), "lora_rank 0"),
    "targets": (dict(lora_rank=2, lora_targets=["q_proj"]), "'q_proj' is no linear map of this model: expected some of "
                "dt_proj, in_proj"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(case, folders):
    arguments, message = MISTAKES[case]
    with pytest.raises(UserError, match=message):
        Pretrained(**{"vocab_size": VOCABULARY, "name": str(folders["Mamba"][0]), **arguments})


@pytest.mark.parametrize("config, message", [
    (None, "holds no config.json"), ("{", "is not JSON"), ("[]", "is no configuration"),
    ({"model_type": "llama"}, "model of type 'llama'.*HuggingFace"),
    ({"model_type": "mamba"}, "has no num_hidden_layer"),
    ({"model_type": "gpt_neox", "use_parallel_residual": False}, "use_parallel_residual False"),
    ({"d_model": 32, "n_layer": 2, "attn_layer_idx": [1]}, "attention cannot be loaded"),
    ({"d_model": 32, "n_layer": 2, "ssm_cfg": {"layer": "Mamba3"}}, "made of Mamba3 layers"),
    ({"d_model": 32, "n_layer": 2}, "holds no weights: expected model.safetensors or pytorch_model.bin")])
def test_folders_that_hold_something_else(config, message, tmp_path):
    if config is not None:
        (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(UserError, match=message):
        Pretrained(VOCABULARY, str(tmp_path))


def test_weights_that_are_not_those_of_the_config_or_broken(folders, tmp_path):
    folder, _ = folders["Mamba"]
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"not those of its config.json: .* tensors differ"):
        Pretrained(VOCABULARY, str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        Pretrained(VOCABULARY, str(tmp_path))


def test_a_name_that_is_no_folder():
    with pytest.raises(UserError, match=r"there is no folder some/where/else: give one with a config.json"):
        Pretrained(VOCABULARY, "some/where/else")


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_a_hub_name_without_network(environment, tmp_path):
    code = ("from length_gen.lightning_modules.backbones import Pretrained\n"
            "try:\n    Pretrained(50, 'state-spaces/mamba-130m')\n"
            "except Exception as e:\n    print(type(e).__name__, e)")
    result = subprocess.run([sys.executable, "-c", code], env=os.environ | environment | {"HF_HOME": str(tmp_path)},
                            capture_output=True, text=True, timeout=120)
    assert result.stdout.startswith("UserError cannot get state-spaces/mamba-130m from the Hugging Face hub"), result
    assert "give a local folder" in result.stdout and "\n" not in result.stdout.strip()


def test_what_transformers_does_not_have(tmp_path):
    with pytest.raises(UserError, match="d_inner 48 is not a multiple of its d_model 32"):
        export(Mamba(VOCABULARY, d_model=32, d_inner=48), tmp_path / "out", [])
    with pytest.raises(UserError, match=r"a LSTM cannot be exported.*expected Mamba, Mamba2, Pythia, Mistral"):
        export(LSTM(VOCABULARY), tmp_path / "out", [])


def test_low_rank_updates_do_not_need_transformers(monkeypatch):
    monkeypatch.delitem(sys.modules, "transformers.pytorch_utils", raising=False)
    net = Mamba(VOCABULARY, n_layer=1, d_model=16)
    add_low_rank(net, 2, 4.0, None)
    assert sum(parameter.requires_grad for parameter in net.parameters()) == 2 * 4
