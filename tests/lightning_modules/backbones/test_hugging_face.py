"""Models of transformers behind the suite's interface, each held against itself run as transformers documents."""

import json
from importlib.util import find_spec

import pytest
import torch
from torch.utils._pytree import tree_leaves

from length_gen.lightning_modules.backbones import HuggingFace, Mamba
from length_gen.lightning_modules.backbones.base import reset_rows, select_rows
from length_gen.lightning_modules.backbones.low_rank import add_low_rank, trained_text
from length_gen.lightning_modules.backbones.pretrained import export
from length_gen.lightning_modules.backbones.pretrained_files import read_weights
from length_gen.tools import UserError

transformers = pytest.importorskip("transformers")
VOCABULARY = 50
COMMON = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48)
CONFIGS = {
    "llama": COMMON,
    "gpt2": dict(n_embd=32, n_layer=2, n_head=4),
    "mistral": COMMON | dict(sliding_window=7, head_dim=8),
    "gemma2": COMMON | dict(sliding_window=7, head_dim=8),  # every second layer sees all
    "mamba": dict(hidden_size=32, num_hidden_layers=2, state_size=8),  # goes on a token at a time only
    "mamba2": dict(hidden_size=32, num_hidden_layers=2, state_size=8, head_dim=8, num_heads=8, n_groups=1),
    "bamba": COMMON | dict(mamba_n_heads=8, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=8, attn_layer_indices=[1]),
}


def make(kind, **more):
    torch.manual_seed(0)
    net = HuggingFace(VOCABULARY, config={"model_type": kind, **CONFIGS[kind]}, **more).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return net


def some_tokens(*shape):
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(5))


def plain_logits(net, tokens):
    """One row at a time, without a cache."""
    return torch.cat([net.model(row[None], use_cache=False).logits for row in tokens])


@pytest.mark.parametrize("kind", [
    kind if "amba" not in kind else
    pytest.param(kind, marks=pytest.mark.skipif(find_spec("causal_conv1d") is not None,
                                                reason="transformers calls causal-conv1d's CUDA kernel on the CPU"))
    for kind in CONFIGS])
@torch.no_grad()
def test_chunks_and_steps_equal_the_model_without_a_cache(kind):
    net, tokens = make(kind), some_tokens(2, 40)
    whole = plain_logits(net, tokens)
    assert whole.std() > 0.2 and (net(tokens, return_state=False)[0] - whole).abs().max() < 1e-4
    state, parts = None, []
    for chunk in tokens.split([1, 2, 7, 30], 1):
        given = [leaf.clone() for leaf in tree_leaves(state or [])]
        logits, new = net(chunk, state)
        assert all(map(torch.equal, tree_leaves(state or []), given))
        parts.append(logits)
        state = new
    assert (torch.cat(parts, 1) - whole).abs().max() < 1e-4
    stepped, steps = net.initial_state(2), []
    for t in range(40):
        logits, stepped = net.step(tokens[:, t], stepped)
        steps.append(logits)
    assert (torch.stack(steps, 1) - whole).abs().max() < 1e-4
    assert sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(stepped)) == 2 * net.state_size(40)


@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_rows_that_are_reset_or_selected_go_on_as_if_alone(kind):
    net, before, after = make(kind), some_tokens(3, 11), some_tokens(3, 14).flip(1)
    _, state = net(before)
    expected = plain_logits(net, torch.cat([before, after], 1))[:, 11:]
    expected[1] = plain_logits(net, after)[1]
    state = reset_rows(state, torch.tensor([False, True, False]), net.initial_state(3))
    logits, state = net(after[:, :9], state)
    assert (logits - expected[:, :9]).abs().max() < 1e-4
    chosen = torch.tensor([2, 1])
    logits, _ = net(after[chosen, 9:], select_rows(state, chosen))
    assert (logits - expected[chosen, 9:]).abs().max() < 1e-4


@torch.no_grad()
def test_a_decoder_resets_its_rows():
    net, tokens = make("llama"), some_tokens(2, 9)
    decoder = net.decoder(2, 20)
    for t in range(4):
        decoder.step(tokens[:, t])
    decoder.reset(torch.tensor([1]))
    steps = torch.stack([decoder.step(tokens[:, t]) for t in range(4, 9)], 1)
    expected = torch.stack([plain_logits(net, tokens)[0, 4:], plain_logits(net, tokens[:, 4:])[1]])
    assert (steps - expected).abs().max() < 1e-4


def test_windows_bound_the_state():
    assert make("mistral").state_size(100) == make("mistral").state_size(10**6)
    assert make("mamba").state_size(1) == make("mamba").state_size(10**6)
    assert make("gemma2").state_size(10**4) < 0.6 * make("gemma2").state_size(2 * 10**4)


@pytest.mark.parametrize("kind, config, message", [
    ("rwkv", dict(hidden_size=32, num_hidden_layers=2), "transformers' rwkv keeps no cache that can be carried on"),
    ("recurrent_gemma", COMMON | dict(lru_width=32), "recurrent_gemma cannot be run with a cache"),
    ("llama", COMMON | dict(num_attention_heads=3), "cannot make a causal language model"),
    ("no_such_model", {}, "cannot make a causal language model")])
def test_models_that_cannot_be_backbones(kind, config, message):
    with pytest.raises(UserError, match=message) as error:
        HuggingFace(VOCABULARY, config={"model_type": kind, **config}).initial_state(2)
    assert "\n" not in str(error.value)


@torch.no_grad()
def test_a_model_that_ignores_its_cache_is_refused(monkeypatch):
    net = make("llama")
    plain = net.model.forward
    monkeypatch.setattr(net.model, "forward", lambda tokens, **more: plain(
        tokens, **{k: v for k, v in more.items() if k not in ("position_ids", "attention_mask")}))
    with pytest.raises(UserError, match="llama does not go on from its cache where the rows have different lengths"):
        net.initial_state(1)


def test_states_and_settings_that_do_not_fit():
    net = make("llama")
    with pytest.raises(UserError, match="state of 3 rows cannot go on with 2 rows"):
        net(some_tokens(2, 5), net.initial_state(3))
    with pytest.raises(UserError, match="not one of this HuggingFace"):
        net(some_tokens(2, 5), Mamba(VOCABULARY).initial_state(2))
    with pytest.raises(UserError, match="needs either a config"):
        HuggingFace(VOCABULARY)


def test_pretrained_weights_are_loaded_tuned_and_exported(tmp_path):
    net = make("llama")
    net.model.save_pretrained(tmp_path / "start")
    with pytest.raises(UserError, match=r"vocabulary of 45 tokens is not that of .*, whose embedding has 50 rows"):
        HuggingFace(45, name=str(tmp_path / "start"))
    tuned = HuggingFace(45, name=str(tmp_path / "start"), resize=True, lora_rank=2).eval()
    tokens = some_tokens(2, 12) % 45
    assert (tuned(tokens)[0] - net(tokens)[0][..., :45]).abs().max() < 1e-4
    tuned.train()(tokens)[0].log_softmax(-1)[..., 3].mean().backward()
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter -= 0.5 * parameter.grad / (parameter.grad.norm() + 1e-9)
        after = tuned.eval()(tokens)[0]
        assert export(tuned, tmp_path / "end", [str(i) for i in range(45)]) == "LlamaForCausalLM"
        loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "end").eval()
        assert (loaded(tokens).logits - after).abs().max() < 1e-4
        assert (after - net(tokens)[0][..., :45]).abs().max() > 0.05
    assert len(json.loads((tmp_path / "end/tokens.json").read_text())) == 45


@torch.no_grad()
def test_low_rank_updates_of_gpt2_equal_peft_s(tmp_path):
    """Its linear maps are transformers' Conv1D, whose weights are [in, out]."""
    peft = pytest.importorskip("peft")
    make("gpt2").model.save_pretrained(tmp_path / "start")
    net = HuggingFace(VOCABULARY, name=str(tmp_path / "start"), lora_rank=3, lora_alpha=6.0).eval()
    plain = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "start")
    reference = peft.get_peft_model(plain, peft.LoraConfig(r=3, lora_alpha=6, fan_in_fan_out=True,
                                                           target_modules=["c_attn", "c_proj", "c_fc"])).eval()
    matrices, tokens = dict(net.model.named_parameters()), some_tokens(2, 12)
    count = 0
    for key, theirs in reference.named_parameters():
        if ".lora_" in key:
            stem, matrix = key.removeprefix("base_model.model.").split(".lora_")
            theirs.copy_(0.3 * torch.randn_like(theirs))
            matrices[f"{stem}.parametrizations.weight.0.{matrix[0]}"].copy_(theirs)
            count += 1
    assert count == sum(p.requires_grad for p in net.parameters()) == 2 * 4 * 2
    assert (net(tokens)[0] - reference(tokens).logits).abs().max() < 1e-4
    assert (net(tokens)[0] - transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "start")(tokens).logits
            ).abs().max() > 0.05
    export(net, tmp_path / "end", [str(i) for i in range(VOCABULARY)])
    loaded = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "end").eval()
    assert (loaded(tokens).logits - net(tokens)[0]).abs().max() < 1e-4


def test_what_is_trained_is_said_and_nothing_is_refused():
    experts = COMMON | dict(model_type="mixtral", num_local_experts=4)
    net = HuggingFace(VOCABULARY, config=experts, lora_rank=2)
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert trained == 2 * 2 * (4 * 32 + 4 * 32 - 2 * 16)  # in 2 layers rank 2 of q, o [32, 32] and k, v [16, 32]
    assert trained_text(net) == (
        f"trained are {trained} of {net.num_parameters:,} weights: low-rank updates of q_proj, k_proj, v_proj, o_proj; "
        "frozen model.embed_tokens, mlp.gate, experts.gate_up_proj, experts.down_proj, model.lm_head")
    assert trained_text(make("llama")) == ""
    with pytest.raises(UserError, match="lora_targets is empty, give null for all linear maps or some of c_attn"):
        make("gpt2", lora_rank=2, lora_targets=[])
    with pytest.raises(UserError, match="no linear maps but its head"):
        add_low_rank(torch.nn.ModuleDict({"lm_head": torch.nn.Linear(3, 3)}), 2, 1.0, None)


class Touch:
    """What pickles to an order to make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_no_code_of_a_fetched_model_is_run(tmp_path, monkeypatch):
    """A class of its own, of a type that transformers knows and of one that it does not; weights that are a program."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # who is asked whether to run it, and says yes
    (tmp_path / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nModel = Config")
    for kind in ("unheard_of", "gpt2"):
        own = {"auto_map": {"AutoConfig": "modeling.Config", "AutoModelForCausalLM": "modeling.Model"}}
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "n_layer": 1, **own}))
        torch.save({"wte": Touch(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
        with pytest.raises(UserError, match="transformers cannot load"):
            HuggingFace(VOCABULARY, name=str(tmp_path))
    settings = {"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 1,
                "auto_map": {"AutoModelForCausalLM": f"{tmp_path}--modeling.Model"}}
    assert type(HuggingFace(VOCABULARY, config=settings).model).__module__.startswith("transformers.")
    with pytest.raises(UserError, match=r"pytorch_model\.bin cannot be read"):
        read_weights(tmp_path)
    assert not (tmp_path / "ran").exists()
