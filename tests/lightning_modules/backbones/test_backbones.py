"""What every backbone promises, each held against an implementation that is not ours."""

import copy
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from length_gen.lightning_modules.backbones import (
    GRU,
    LSTM,
    XLSTM,
    GatedDeltaNet,
    Hybrid,
    Mamba,
    Mamba2,
    Mamba3,
    Mistral,
    Pythia,
    recurrent,
)
from length_gen.lightning_modules.backbones.base import reset_rows, select_rows
from length_gen.tools import UserError
from tests.lightning_modules.backbones.test_xlstm import open_gates

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
VOCABULARY = 50


def torch_recurrent(net, tokens):
    """torch.nn.LSTM or GRU with copied weights."""
    rnn = {LSTM: nn.LSTM, GRU: nn.GRU}[type(net)](net.d_model, net.d_model, net.n_layer, batch_first=True)
    rnn.load_state_dict(net.rnn.state_dict())
    weights = net.state_dict()
    hidden = rnn(weights["embedding.weight"][tokens])[0]
    return hidden @ weights["lm_head.weight"].T + weights["lm_head.bias"]


def transformers_model(net, name, renamed=None, **config):
    """A causal language model of transformers with copied weights."""
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(vocab_size=VOCABULARY, **config)
    reference = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    names, own = reference.state_dict(), net.state_dict()
    reference.load_state_dict({k if k in names else renamed[k]: v for k, v in own.items()}, strict=True)
    return reference


def neox_logits(net, tokens):
    return transformers_model(net, "GPTNeoX", {"embed_out.weight": "lm_head.weight"}, hidden_size=32,
                              num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)(tokens).logits


def mistral_logits(net, tokens):
    return transformers_model(net, "Mistral", hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                              num_key_value_heads=2, intermediate_size=48, sliding_window=13)(tokens).logits


def mamba2_logits(net, tokens):
    return transformers_model(
        net, "Mamba2", {"backbone.embedding.weight": "backbone.embeddings.weight"}, hidden_size=32,
        num_hidden_layers=2, state_size=24, head_dim=8, num_heads=8, n_groups=2)(tokens).logits


def hybrid_logits(net, tokens):
    """The mixers of transformers' Mamba and Llama, each with copied weights, between norms and residuals."""
    pytest.importorskip("transformers")
    from transformers import LlamaConfig, MambaConfig
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding
    from transformers.models.mamba.modeling_mamba import MambaMixer

    llama = LlamaConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, attn_implementation="eager")
    positions = LlamaRotaryEmbedding(llama)(torch.zeros(1), torch.arange(tokens.shape[1])[None])
    mask = torch.full([tokens.shape[1]] * 2, -torch.inf).triu(1)[None, None]
    weights = {k: v for k, v in net.state_dict().items()}

    def norm(name, x):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weights[f"backbone.{name}.weight"]

    hidden = weights["backbone.embedding.weight"][tokens]
    for i in range(3):
        mixer = (LlamaAttention(llama, i) if i == 1 else
                 MambaMixer(MambaConfig(hidden_size=32, num_hidden_layers=3, state_size=16), i)).eval()
        prefix = f"backbone.layers.{i}.mixer."
        mixer.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
        normed = norm(f"layers.{i}.norm", hidden)
        hidden = hidden + (mixer(normed, position_embeddings=positions, attention_mask=mask)[0] if i == 1 else
                           mixer(normed))
    return norm("norm_f", hidden) @ weights["lm_head.weight"].T


def mamba3_logits(net, tokens):
    """The recurrence of mamba-ssm's kernel for one step in float64, a token at a time, rotations as complex numbers."""
    p = {k: v.double() for k, v in net.state_dict().items()}
    size, heads, turned = 24, 8, 6

    def norm(x, weight, eps=1e-5):
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight

    def turn(x, by):
        pairs = torch.view_as_complex(x[..., : 2 * turned].unflatten(-1, (-1, 2)).contiguous())
        return torch.cat([torch.view_as_real(pairs * by).flatten(-2), x[..., 2 * turned :]], -1)

    hidden = p["backbone.embedding.weight"][tokens]
    for i in range(2):
        q = {k.split("mixer.")[-1]: v for k, v in p.items() if f"layers.{i}." in k}
        parts = (norm(hidden, p[f"backbone.layers.{i}.norm.weight"]) @ q["in_proj.weight"].T).split(
            [64, 64, size, size, heads, heads, heads, turned], -1)
        z, x, b, c, dt, a, trap, angles = parts
        z, x, dt = z.unflatten(-1, (heads, 8)), x.unflatten(-1, (heads, 8)), (dt + q["dt_bias"]).exp().log1p()
        a = -(a.exp().log1p()).clamp(min=1e-4)
        b, c = (norm(part, q[f"{n}_norm.weight"])[:, :, None] + q[f"{n}_bias"][:, 0]
                for n, part in (("B", b), ("C", c)))
        state, old, by, outputs = torch.zeros(len(tokens), heads, 8, size, dtype=torch.float64), 0, 1, []
        for t in range(tokens.shape[1]):
            by = by * torch.exp(1j * torch.pi * angles[:, t, None].tanh() * dt[:, t, :, None])
            new = x[:, t, ..., None] * turn(b[:, t], by)[:, :, None]
            alpha, share = torch.exp(a[:, t] * dt[:, t])[..., None, None], trap[:, t].sigmoid()[..., None, None]
            step = dt[:, t, :, None, None]
            state, old = alpha * state + alpha * step * (1 - share) * old + step * share * new, new
            outputs.append((state * turn(c[:, t], by)[:, :, None]).sum(-1))
        y = (torch.stack(outputs, 1) + q["D"][:, None] * x) * z * z.sigmoid()
        hidden = hidden + y.flatten(-2) @ q["out_proj.weight"].T
    return norm(hidden, p["backbone.norm_f.weight"]) @ p["lm_head.weight"].T


def delta_logits(net, tokens):
    """The layer of transformers' OlmoHybrid with copied weights, its three convolutions as one, between norms."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.olmo_hybrid.modeling_olmo_hybrid import OlmoHybridGatedDeltaNet

    weights, first = net.state_dict(), net.parts[1][0].mixer
    config = transformers.OlmoHybridConfig(
        hidden_size=32, num_hidden_layers=2, linear_num_key_heads=first.n_head, linear_num_value_heads=first.n_head,
        linear_key_head_dim=first.head_dim, linear_value_head_dim=first.head_v_dim, linear_conv_kernel_dim=3,
        linear_allow_neg_eigval=first.largest_write == 2)

    def norm(name, x):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weights[f"backbone.{name}.weight"]

    hidden = weights["backbone.embedding.weight"][tokens]
    for i in range(2):
        layer, prefix = OlmoHybridGatedDeltaNet(config, i).eval(), f"backbone.layers.{i}.mixer."
        given = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        given["conv1d.weight"] = torch.cat([given.pop(f"{name}_conv1d.weight") for name in "qkv"])
        layer.load_state_dict(given, strict=True)
        hidden = hidden + layer(norm(f"layers.{i}.norm", hidden))
    return norm("norm_f", hidden) @ weights["lm_head.weight"].T


def xlstm_logits(net, tokens):
    return transformers_model(net, "xLSTM", hidden_size=32, num_hidden_layers=2, num_heads=4, qk_dim_factor=0.75,
                              chunk_size=16)(tokens, use_cache=False).logits


DELTA = {"n_layer": 2, "d_model": 32, "n_head": 3, "head_dim": 8, "head_v_dim": 12, "d_conv": 3, "dt_min": 0.01,
         "dt_max": 1.0, "initializer_range": 0.3}
REFERENCES = {
    "GatedDeltaNet": (lambda: GatedDeltaNet(VOCABULARY, **DELTA), delta_logits),
    "GatedDeltaNet, negative": (lambda: GatedDeltaNet(VOCABULARY, **DELTA, allow_neg_eigval=True), delta_logits),
    "XLSTM": (lambda: open_gates(XLSTM(VOCABULARY, n_layer=2, d_model=32, qk_dim_factor=0.75)), xlstm_logits),
    "Mamba3": (lambda: Mamba3(VOCABULARY, n_layer=2, d_model=32, d_state=24, head_dim=8, dt_min=0.01, dt_max=1.0,
                              initializer_range=0.3), mamba3_logits),
    "Hybrid": (lambda: Hybrid(VOCABULARY, n_layer=3, d_model=32, n_kv_head=2, initializer_range=0.3), hybrid_logits),
    "Mamba2": (lambda: Mamba2(VOCABULARY, n_layer=2, d_model=32, d_state=24, head_dim=8, n_groups=2, dt_min=0.01,
                              dt_max=1.0, initializer_range=0.3), mamba2_logits),
    "Pythia": (lambda: Pythia(VOCABULARY, n_layer=2, d_model=32, initializer_range=0.3), neox_logits),
    "Mistral": (lambda: Mistral(VOCABULARY, n_layer=2, d_model=32, d_inner=48, n_kv_head=2, window=13,
                                initializer_range=0.3), mistral_logits),
    "LSTM": (lambda: LSTM(VOCABULARY, n_layer=2, d_model=32), torch_recurrent),
    "GRU": (lambda: GRU(VOCABULARY, n_layer=2, d_model=32), torch_recurrent),
}
BUILD = {name: build for name, (build, _) in REFERENCES.items()} | {
    "Mamba": lambda: Mamba(VOCABULARY, n_layer=2, d_model=32, initializer_range=0.3)}
FIXED = ["LSTM", "GRU", "Mamba", "Mamba2", "Mamba3", "GatedDeltaNet", "XLSTM"]


def make(name):
    """The backbone with weights that matter: norms and biases, which start at 1 and 0, included."""
    torch.manual_seed(3)
    net = BUILD[name]().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn_like(parameter)
    return net


def some_tokens(*shape):
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(5))


def stepped(net, tokens, state):
    logits = []
    for t in range(tokens.shape[1]):
        row, state = net.step(tokens[:, t], state)
        logits.append(row)
    return torch.stack(logits, 1), state


@pytest.mark.parametrize("name", REFERENCES)
@torch.no_grad()
def test_equals_its_reference(name):
    if name in ("GatedDeltaNet", "GatedDeltaNet, negative", "Hybrid", "Mamba2") and find_spec("causal_conv1d"):
        pytest.skip("transformers, the reference, then calls causal-conv1d's CUDA kernel on the CPU")
    net, tokens = make(name), some_tokens(3, 45)
    assert net(tokens)[0].std() > 0.2
    assert (net(tokens)[0] - REFERENCES[name][1](net, tokens)).abs().max() < 1e-4


@pytest.mark.parametrize("name", BUILD)
@torch.no_grad()
def test_whole_equals_chunks_equals_steps(name):
    net, tokens = make(name), some_tokens(2, 150)
    whole, _ = net(tokens)
    assert (net(tokens, return_state=False)[0] - whole).abs().max() < 1e-4
    state, parts = None, []
    for chunk in tokens.split([1, 2, 7, 71, 69], dim=1):
        logits, state = net(chunk, state)
        parts.append(logits)
    assert (torch.cat(parts, 1) - whole).abs().max() < 1e-4
    steps, last = stepped(net, tokens, net.initial_state(2))
    assert (steps - whole).abs().max() < 1e-4
    more = some_tokens(2, 9)  # a state is a state, wherever it comes from
    assert (net(more, state)[0] - stepped(net, more, last)[0]).abs().max() < 1e-4


@pytest.mark.parametrize("name", BUILD)
@torch.no_grad()
def test_rows_that_are_reset_or_selected_go_on_as_if_alone(name):
    net, before, after = make(name), some_tokens(3, 40), some_tokens(3, 37).flip(1)
    _, state = net(before)
    whole = net(torch.cat([before, after], 1))[0][:, 40:]
    fresh = net(after)[0]
    state = reset_rows(state, torch.tensor([False, True, False]), net.initial_state(3))
    expected = torch.stack([whole[0], fresh[1], whole[2]])
    logits, middle = net(after[:, :20], state)
    rest, _ = net(after[:, 20:], middle)
    assert (torch.cat([logits, rest], 1) - expected).abs().max() < 1e-4
    chosen = torch.tensor([2, 1])
    rest, _ = stepped(net, after[chosen, 20:], select_rows(middle, chosen))
    assert (rest - expected[chosen, 20:]).abs().max() < 1e-4


@pytest.mark.parametrize("name", BUILD)
@torch.no_grad()
def test_forward_leaves_its_state_alone(name):
    net = make(name)
    _, state = net(some_tokens(2, 30))
    copies = [leaf.clone() for leaf in tree_leaves(state)]
    first, _ = net(some_tokens(2, 20), state)
    assert all(torch.equal(a, b) for a, b in zip(tree_leaves(state), copies, strict=True))
    assert torch.equal(first, net(some_tokens(2, 20), state)[0])


@pytest.mark.parametrize("name", BUILD)
@torch.no_grad()
def test_steps_keep_their_shapes_where_room_is_reserved(name):
    """What a CUDA graph needs."""
    net, tokens = make(name), some_tokens(2, 30)
    if not net.capturable:
        pytest.skip("says that it cannot be captured")
    state = net.reserve(net.initial_state(2), 30)
    shapes = [leaf.shape for leaf in tree_leaves(state)]
    logits, state = stepped(net, tokens, state)
    assert [leaf.shape for leaf in tree_leaves(state)] == shapes
    assert (logits - net(tokens)[0]).abs().max() < 1e-4


@pytest.mark.parametrize("name", BUILD)
def test_gradients_reach_every_parameter_and_agree_with_the_chunked_pass(name):
    net, tokens = make(name).train(), some_tokens(2, 40)
    gradients = []
    for chunks in ([40], [13, 27]):
        net.zero_grad()
        state, parts = None, []
        for chunk in tokens.split(chunks, 1):
            logits, state = net(chunk, state, return_state=len(chunks) > 1)
            parts.append(logits)
        torch.cat(parts, 1).log_softmax(-1)[..., 0].mean().backward()
        gradients.append({k: p.grad.clone() for k, p in net.named_parameters()})
    for key, whole in gradients[0].items():
        assert whole.abs().max() > 0, key
        assert (gradients[1][key] - whole).norm() < 1e-3 * whole.norm() + 1e-6, key


@pytest.mark.parametrize("name", FIXED)
@torch.no_grad()
def test_a_fixed_memory_stays_as_large_as_it_says(name):
    net = make(name)
    assert net.state_size(10) == net.state_size(10**7)
    _, state = net(some_tokens(1, 200))
    assert leaf_bytes(state) == net.state_size(200)


def leaf_bytes(state):
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(state))


@pytest.mark.parametrize("name", ["Pythia", "Hybrid"])
@torch.no_grad()
def test_a_cache_grows_as_it_says(name):
    net = make(name)
    _, state = net(some_tokens(1, 200))
    assert leaf_bytes(state) == net.state_size(200) > 3 * net.state_size(10)


@torch.no_grad()
def test_the_cache_of_a_sliding_window_is_bounded_by_the_window():
    net = make("Mistral")
    state = net.reserve(net.initial_state(1), 10**6)
    assert leaf_bytes(state) == net.state_size(13) == net.state_size(10**6) > net.state_size(12)
    for passed in (net(some_tokens(1, 200), state), stepped(net, some_tokens(1, 200), net.initial_state(1))):
        assert leaf_bytes(passed[1]) == net.state_size(200)


@pytest.mark.parametrize("name", ["Pythia", "Mistral", "Hybrid"])
@torch.no_grad()
def test_long_passes_make_no_quadratic_masks(name, monkeypatch):
    from length_gen.lightning_modules.backbones import attention

    net, tokens, masks = make(name), some_tokens(1, 120), []
    whole, state = net(tokens[:, :100])[0], None
    monkeypatch.setattr(attention, "BLOCK", 8)
    plain = attention._sdpa
    monkeypatch.setattr(attention, "_sdpa", lambda *a, **k: masks.append(a[3]) or plain(*a, **k))
    logits, state = net(tokens[:, :60], state)
    rest, state = net(tokens[:, 60:100], state)
    assert (torch.cat([logits, rest], 1) - whole).abs().max() < 1e-5
    assert masks and all(mask is None or mask.shape[-2] <= 8 for mask in masks)


@torch.no_grad()
def test_a_long_row_of_a_sliding_window_takes_as_few_calls_as_a_short_one(monkeypatch):
    from length_gen.lightning_modules.backbones import attention

    net, tokens, calls = make("Mistral").double(), some_tokens(1, 1000), []
    plain = attention._sdpa
    monkeypatch.setattr(attention, "_sdpa", lambda *a, **k: calls.append(a) or plain(*a, **k))
    whole = net(tokens)[0]
    assert len(calls) <= 3 * 2  # its beginning, all blocks that are alike, its end; two layers
    one_by_one = stepped(net, tokens, net.initial_state(1))[0]
    assert (whole - one_by_one).abs().max() < 1e-12


@pytest.mark.parametrize("build, message", [
    (lambda: Pythia(VOCABULARY, d_model=64, n_head=3), "n_head 3 does not divide d_model 64"),
    (lambda: Mistral(VOCABULARY, d_model=64, n_kv_head=3), "n_kv_head 3 does not divide n_head 4"),
    (lambda: Mamba2(VOCABULARY, d_model=64, head_dim=48), "head_dim 48 does not divide d_inner 128"),
    (lambda: Mamba3(VOCABULARY, d_model=64, head_dim=48), "head_dim 48 does not divide d_inner 128"),
    (lambda: Mamba3(VOCABULARY, d_state=18), "d_state 18, rope_share 0.5 are not allowed"),
    (lambda: Mamba2(VOCABULARY, n_groups=3), "n_groups 3 does not divide its 8 heads"),
    (lambda: Mistral(VOCABULARY, window=0), "window 0 is not allowed"),
    (lambda: Hybrid(VOCABULARY, n_layer=2, attention=[2]), "attention layer 2 is none of its 2 layers"),
    (lambda: Hybrid(VOCABULARY, d_model=64, n_head=3), "n_head 3 does not divide d_model 64")])
def test_heads_that_do_not_divide(build, message):
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.parametrize("name", BUILD)
def test_a_state_that_does_not_fit(name):
    net = make(name)
    with pytest.raises(UserError, match="state of 3 rows cannot go on with 2 rows"):
        net(some_tokens(2, 5), net.initial_state(3))
    other = Mamba(VOCABULARY, n_layer=1, d_model=16) if name != "Mamba" else LSTM(VOCABULARY)
    with pytest.raises(UserError, match=f"not one of this {type(net).__name__}"):
        net(some_tokens(2, 5), other.initial_state(2))


@pytest.mark.parametrize("name", BUILD)
def test_impossible_sizes(name):
    with pytest.raises(UserError, match="n_layer 0 is not allowed"):
        type(make(name))(VOCABULARY, n_layer=0)


@pytest.mark.parametrize("name", ["Mamba", "Mamba2", "Mamba3", "GatedDeltaNet", "Hybrid"])
def test_impossible_step_sizes(name):
    with pytest.raises(UserError, match=f"{name} dt_min 0.5 and dt_max 0.1 are not allowed"):
        type(make(name))(VOCABULARY, dt_min=0.5)


@CUDA
@pytest.mark.parametrize("name", BUILD)
@torch.no_grad()
def test_cuda_equals_cpu_and_steps_are_captured(name):
    net, tokens = make(name), some_tokens(2, 50)
    expected = net(tokens)[0]
    net.cuda()
    tokens = tokens.cuda()
    assert (net(tokens)[0].cpu() - expected).abs().max() < 1e-3
    rest, _ = net(tokens[:, 20:], net(tokens[:, :20], net.initial_state(2))[1])
    assert (rest.cpu() - expected[:, 20:]).abs().max() < 1e-3
    if not net.capturable:
        return
    state, current = net.reserve(net.initial_state(2), 50), tokens[:, 0].clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        net.step(current, net.reserve(net.initial_state(2), 50))
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits, new = net.step(current, state)
        for old, leaf in zip(tree_leaves(state), tree_leaves(new), strict=True):
            old.copy_(leaf)
    for t in range(50):
        current.copy_(tokens[:, t])
        graph.replay()
        assert (logits.cpu() - expected[:, t]).abs().max() < 1e-3


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_recurrent_layers_get_long_rows_in_pieces(monkeypatch, name):
    net = BUILD[name]()
    tokens = torch.randint(VOCABULARY, (3, 100))
    whole, state = net(tokens)
    monkeypatch.setattr(recurrent, "LONGEST", 32)
    lengths: list[int] = []
    net.rnn.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    pieces, after = net(tokens)
    assert lengths == [32, 32, 32, 4]
    torch.testing.assert_close(pieces, whole)
    torch.testing.assert_close(after, state)


@pytest.mark.parametrize(("name", "rounding"), [
    ("Mamba2", 0.01), ("Mamba3", 0.01), ("GatedDeltaNet", 0.01), ("GatedDeltaNet, negative", 0.01),
    ("XLSTM", 0.03)])  # its MLPs round too; from the first tokens on, as Mistral's do
def test_bfloat16_weights_leave_sums_over_a_row_their_digits(name, rounding):
    torch.manual_seed(2)
    net, tokens = BUILD[name]().eval(), torch.randint(VOCABULARY, (2, 600))
    with torch.inference_mode():
        whole = net(tokens)[0]
        stepped, passed = (net.decoder(2, 600, torch.bfloat16, torch.bfloat16) for _ in range(2))
        found = torch.stack([stepped.step(tokens[:, t]).clone() for t in range(600)], 1)
        passed.prefill(torch.arange(2), tokens[:, :500])
        after = torch.stack([passed.step(tokens[:, t]).clone() for t in range(500, 600)], 1)
    for difference in (found[:, -100:] - whole[:, -100:], after - whole[:, -100:]):
        assert difference.float().std() < rounding * whole.std()
    kinds = {leaf.dtype for leaf in tree_leaves(stepped.state)}
    assert kinds == {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    halved = net.to(torch.bfloat16).decoder(2, 600, torch.bfloat16)  # a model that was in bfloat16 before
    assert (halved.step(tokens[:, 0]) - found[:, 0]).float().std() < 2 * rounding * whole.std()


@pytest.mark.parametrize("name", BUILD)
def test_a_decoder_in_float64_computes_in_it_throughout(name):
    net, tokens = make(name), some_tokens(2, 20)
    with torch.inference_mode():
        whole = copy.deepcopy(net).double()(tokens)[0]
        decoder = net.decoder(2, 20, torch.float64, torch.float64)
        stepped = torch.stack([decoder.step(tokens[:, t]).clone() for t in range(20)], 1)
    assert stepped.dtype == torch.float64 and next(net.parameters()).dtype == torch.float32
    torch.testing.assert_close(stepped, whole, rtol=0, atol=1e-11)
