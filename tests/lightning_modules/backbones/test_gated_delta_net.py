"""The parallel form of the gated delta rule, held against its formula, a token at a time in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from length_gen.lightning_modules.backbones import GatedDeltaNet
from length_gen.lightning_modules.backbones.gated_delta_net import CHUNK, DeltaMixer, chunked_delta_rule


def plain_rule(q, k, v, decay, write, state):
    """S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T and o_t = S_t^T q_t as they stand."""
    outputs, unit = [], torch.eye(k.shape[-1], dtype=k.dtype)
    for t in range(k.shape[1]):
        key, share = k[:, t, :, :, None], write[:, t, :, None, None]
        state = decay[:, t, :, None, None].exp() * (unit - share * key @ key.mT) @ state
        state = state + share * key @ v[:, t, :, None]
        outputs.append((state.mT @ q[:, t, ..., None])[..., 0])
    return torch.stack(outputs, 1), state


def usual(length):
    generator = torch.Generator().manual_seed(length)
    normal, uniform = (lambda *shape, draw=draw: draw(*shape, dtype=torch.float64, generator=generator)
                       for draw in (torch.randn, torch.rand))
    q, k = (F.normalize(normal(2, length, 3, 5), dim=-1) for _ in range(2))
    return [q, k, normal(2, length, 3, 7), -uniform(2, length, 3), uniform(2, length, 3), normal(2, 3, 5, 7)]


def reflecting(length):
    """Writes of up to 2 and hardly any decay."""
    q, k, v, decay, write, state = usual(length)
    return [q, k, v, 1e-3 * decay, 2 * write, state]


def repeated(length):
    """The worst for the triangular system: one key alone, each write twice what it replaces, no decay at all."""
    q, k, v, decay, write, state = usual(length)
    return [q, k[:, :1].expand_as(k).clone(), v, 0 * decay, 0 * write + 2, state]


def vanishing(length):
    """Decays whose product over a chunk is 0 even in float64, beside some of nearly 1."""
    q, k, v, decay, write, state = usual(length)
    return [q, k, v, -1e4 * decay**20, write, state]


def results(rule, inputs, dtype):
    inputs = [part.to(dtype).requires_grad_() for part in inputs]
    o, last = rule(*inputs)
    (o.sin().sum() + (last * last.detach().cos()).sum()).backward()
    return [o.detach(), last.detach(), *(part.grad for part in inputs)]


@pytest.mark.parametrize("inputs", [usual, reflecting, repeated, vanishing])
@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK, 3 * CHUNK + 5])
def test_the_parallel_form_and_its_gradients_equal_the_formula_in_float64(inputs, length):
    exact = results(plain_rule, inputs(length), torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 3e-5 if inputs is not repeated else 1e-3)):
        for ours, expected in zip(results(chunked_delta_rule, inputs(length), dtype), exact, strict=True):
            assert ours.dtype == dtype and (ours - expected).norm() <= tolerance * expected.norm() + 1e-30


@torch.no_grad()
def test_a_long_row_that_forgets_nothing_is_as_exact_as_its_steps():
    inputs = reflecting(4000)
    inputs[3] = 0 * inputs[3]
    exact, (ours, last), (steps, _) = (rule(*(part.to(dtype) for part in inputs)) for rule, dtype in (
        (plain_rule, torch.float64), (chunked_delta_rule, torch.float32), (plain_rule, torch.float32)))
    assert (ours - exact[0]).norm() < 2 * (steps - exact[0]).norm() < 1e-4 * exact[0].norm()
    assert (last - exact[1]).norm() < 1e-4 * exact[1].norm()


@torch.no_grad()
def test_a_write_of_two_reflects_and_one_of_one_replaces():
    """The eigenvalue along the key: 1 - b. A state tracks parity with -1, and cannot with what is not below 0."""
    torch.manual_seed(0)
    found = []
    for negative in (False, True):
        mixer = DeltaMixer(8, 1, 4, 4, 1, negative, 0.01, 0.1, 1e-5)
        mixer.b_proj.weight.fill_(100.0)  # the sigmoid is 1
        mixer.a_proj.weight.fill_(-100.0)  # nothing decays
        mixer.v_proj.weight.zero_()  # and nothing is written
        hidden = torch.rand(1, 6, 8)
        hidden[:] = hidden[:, :1]  # six times the same key
        key = F.normalize(F.silu(mixer.k_conv1d.weight[:, 0, 0] * mixer.k_proj(hidden[0, 0])), dim=-1)
        state = mixer.initial_state(1)[0], torch.eye(4)[None, None].clone()
        along = []
        for t in range(6):
            _, state = mixer.step(hidden[:, t], state)
            along.append(float(key @ state[1][0, 0] @ key))
        found.append(along)
        assert (mixer(hidden, (state[0], torch.eye(4)[None, None]))[1][1] - state[1]).abs().max() < 1e-4
    assert found[0] == pytest.approx([0] * 6, abs=1e-3)
    assert found[1] == pytest.approx([-1, 1] * 3, abs=1e-3)


@torch.no_grad()
def test_it_starts_as_flash_linear_attention_s_layer():
    torch.manual_seed(0)
    mixer = DeltaMixer(64, 4000, 1, 1, 4, False, 0.001, 0.1, 1e-5)
    rates, steps = mixer.A_log.exp(), F.softplus(mixer.dt_bias)
    assert 0 < rates.min() < 0.1 and 15.9 < rates.max() <= 16 and float(rates.mean()) == pytest.approx(8, abs=0.3)
    assert steps.min() == pytest.approx(0.001, rel=0.05) and steps.max() == pytest.approx(0.1, rel=0.05)
    assert float(steps.log().mean()) == pytest.approx(math.log(0.01), abs=0.1)
    assert {name for name, _ in mixer.named_parameters()} == {
        "A_log", "dt_bias", "o_norm.weight", *(f"{name}_proj.weight" for name in "qkvabgo"),
        *(f"{name}_conv1d.weight" for name in "qkv")}
    assert mixer.q_conv1d.weight.shape == (4000, 1, 4)


@pytest.mark.parametrize(("d_model", "heads"), [(64, 3), (768, 36), (8, 1)])
def test_keys_are_three_quarters_of_the_width(d_model, heads):
    net = GatedDeltaNet(9, n_layer=1, d_model=d_model)
    assert net.initial_state(2)[0][1].shape == (2, heads, 16, 32)
    assert net.state_size(1) == 4 * heads * (3 * (2 * 16 + 32) + 16 * 32)


def test_hidden_states_in_16_bits_as_a_fused_norm_leaves_them():
    torch.manual_seed(0)
    mixer, hidden = DeltaMixer(32, 2, 8, 16, 4, True, 0.01, 0.1, 1e-5), torch.randn(2, 70, 32)
    whole, (_, expected) = mixer(hidden, mixer.initial_state(2))
    with torch.autocast("cpu", torch.bfloat16):
        half, (recent, last) = mixer(hidden.bfloat16(), mixer.initial_state(2))
    assert recent.dtype == last.dtype == torch.float32
    assert (half - whole).norm() < 0.03 * whole.norm() and (last - expected).norm() < 0.03 * expected.norm()
    net = GatedDeltaNet(9, d_model=32).bfloat16()  # all weights in 16 bits, as precision bf16-true has it
    logits, state = net(torch.randint(9, (2, 40)))
    logits.float().sum().backward()
    assert logits.isfinite().all() and {leaf.dtype for layer in state for leaf in layer} == {torch.bfloat16}
