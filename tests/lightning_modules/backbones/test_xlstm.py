"""The parallel form of the mLSTM, held against its formula, a token at a time in float64; how xLSTM starts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from length_gen.lightning_modules.backbones import XLSTM
from length_gen.lightning_modules.backbones.xlstm import CHUNK, GATE_CAP, LEAST_DIVISOR, LOGIT_CAP, chunked_mlstm
from length_gen.tools import UserError


@torch.no_grad()
def open_gates(net):
    """The same model with gates that tell tokens apart and write, which those at the start do not."""
    for block in net.parts[1]:
        cell = block.mlstm_layer
        for linear in (cell.igate_preact, cell.fgate_preact, cell.ogate_preact, block.ffn["proj_up_gate"]):
            nn.init.normal_(linear.weight, std=2 * linear.in_features**-0.5)
        cell.igate_preact.bias.zero_()
    return net


def plain_rule(q, k, v, forget, write, C, n, m):
    """C, n and h as the paper first writes them, without division by exp(m), which only LEAST_DIVISOR sees."""
    outputs, C, n = [], C * m.exp()[..., None, None], n * m.exp()[..., None]
    for t in range(k.shape[1]):
        f, i = forget[:, t].exp(), write[:, t].exp()
        C = f[..., None, None] * C + i[..., None, None] * k[:, t, :, :, None] @ v[:, t, :, None]
        n = f[..., None] * n + i[..., None] * k[:, t]
        m = torch.maximum(forget[:, t] + m, write[:, t])
        divisor = (n * q[:, t]).sum(-1).abs().clamp(min=1) + LEAST_DIVISOR * m.exp()
        outputs.append((C.mT @ q[:, t, ..., None])[..., 0] / divisor[..., None])
    return torch.stack(outputs, 1), C * (-m).exp()[..., None, None], n * (-m).exp()[..., None], m


def chunked(q, k, v, forget, write, C, n, m):
    h, state = chunked_mlstm(q, k, v, forget, write, (C, n, m))
    return h, *state


def usual(length):
    generator = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return [normal(2, length, 3, 5), normal(2, length, 3, 5), normal(2, length, 3, 7),
            F.logsigmoid(2 + 2 * normal(2, length, 3)), 2 * normal(2, length, 3), normal(2, 3, 5, 7), normal(2, 3, 5),
            normal(2, 3)]


def bounds(length):
    """Gates at their caps: each token keeps or drops all, writes as much as can be or as little. Queries and keys are
    of one sign: where n^T q is nearly 0 the formula itself loses its digits."""
    q, k, v, forget, write, *state = usual(length)
    return [q.abs(), k.abs(), v, F.logsigmoid(GATE_CAP * (forget + 1).sign()), GATE_CAP * write.sign(), *state]


def silent(length):
    """Nothing is written at first, as at the start of training, and hardly anything forgotten."""
    q, k, v, forget, write, *state = usual(length)
    return [q, k, v, 1e-3 * forget, write - 10, *(0 * part for part in state)]


def results(rule, inputs, dtype):
    inputs = [part.to(dtype).requires_grad_() for part in inputs]
    parts = rule(*inputs)
    sum((part * part.detach().cos()).sum() for part in parts).backward()
    return [*(part.detach() for part in parts), *(part.grad for part in inputs)]


@pytest.mark.parametrize("inputs", [usual, bounds, silent])
@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK, 3 * CHUNK + 5])
def test_the_parallel_form_and_its_gradients_equal_the_formula_in_float64(inputs, length):
    exact = results(plain_rule, inputs(length), torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 3e-4)):
        for ours, expected in zip(results(chunked, inputs(length), dtype), exact, strict=True):
            assert ours.dtype == dtype and (ours - expected).norm() <= tolerance * expected.norm() + 1e-30


@torch.no_grad()
def test_the_last_of_many_tokens_is_as_exact_as_by_steps():
    """Forget gates of nearly 1: what a float32 of m cannot hold must not be lost to C and n."""
    *inputs, C, n, m = silent(1000)
    inputs[3] = torch.full_like(inputs[3], -3e-7)
    inputs = [*inputs, C + 1, n + 1, m + 12]
    exact = plain_rule(*inputs)
    ours = chunked(*(part.float() for part in inputs))
    net = XLSTM(9, n_layer=1, d_model=15, n_head=3, qk_dim_factor=1.0, v_dim_factor=1.4).parts[1][0].mlstm_layer
    state = [part.float() for part in inputs[5:]]
    for t in range(1000):
        parts = [part[:, t].float() for part in inputs[:5]]
        net._heads, net._gates = lambda _, parts=parts: parts[:3], lambda _, parts=parts: parts[3:]
        _, state = net.step(torch.zeros(2, 15), state)
    for found in (ours[1:], state):
        C, n, m = (part.double() for part in found)
        for part, expected in ((C * m.exp()[..., None, None], exact[1] * exact[3].exp()[..., None, None]),
                               (n * m.exp()[..., None], exact[2] * exact[3].exp()[..., None])):
            assert (part - expected).norm() < 3e-5 * expected.norm()


@pytest.mark.slow
@torch.no_grad()
def test_long_rows_choose_the_same_tokens_by_steps():
    torch.manual_seed(0)
    net, tokens = open_gates(XLSTM(9, n_layer=1, d_model=32)).eval(), torch.randint(9, (1, 4000))
    whole, _ = net(tokens)
    state, steps = net.initial_state(1), []
    for column in tokens.unbind(1):
        logits, state = net.step(column, state)
        steps.append(logits)
    steps = torch.stack(steps, 1)
    best, second = whole.topk(2).values.unbind(-1)
    clear = best - second > 1e-3  # where n q is nearly 0 a token's h has few digits
    assert clear.float().mean() > 0.99 and (steps - whole).abs().mean() < 1e-5
    assert torch.equal(steps.argmax(-1)[clear], whole.argmax(-1)[clear])


def test_gates_and_logits_at_their_bounds_stay_finite():
    torch.manual_seed(0)
    net, tokens = XLSTM(9, d_model=32), torch.randint(9, (2, 300))
    with torch.no_grad():
        for weight in (net.lm_head.weight, *(weight for layer in net.parts[1]
                                             for weight in layer.mlstm_layer.parameters())):
            weight.copy_(1e4 * torch.randn_like(weight))
    logits, state = net(tokens)
    logits.logsumexp(-1).sum().backward()
    assert logits.isfinite().all() and 0.9 * LOGIT_CAP < logits.abs().max() <= LOGIT_CAP
    assert all(weight.grad.isfinite().all() for weight in net.parameters())
    assert all(m.abs().max() <= GATE_CAP and C.isfinite().all() and n.isfinite().all() for C, n, m in state)


@torch.no_grad()
def test_it_starts_as_transformers_model():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    net = XLSTM(500, n_layer=2, d_model=256).state_dict()
    reference = transformers.xLSTMForCausalLM(transformers.xLSTMConfig(
        vocab_size=500, hidden_size=256, num_hidden_layers=2, num_heads=4)).state_dict()
    assert list(net) == list(reference)
    for name, weight in net.items():
        assert weight.shape == reference[name].shape
        if weight.ndim == 1 or not reference[name].any():
            assert torch.equal(weight, reference[name]), name
        else:
            assert float(weight.std()) == pytest.approx(float(reference[name].std()), rel=0.03), name


def test_hidden_states_in_16_bits():
    torch.manual_seed(0)
    block, hidden = open_gates(XLSTM(9, d_model=32)).parts[1][0].mlstm_layer, torch.randn(2, 70, 32)
    whole, expected = block(hidden)
    with torch.autocast("cpu", torch.bfloat16):
        half, last = block(hidden.bfloat16())
    assert (half - whole).norm() < 0.03 * whole.norm()
    assert {part.dtype for part in last} == {torch.float32}
    assert all((part - other).norm() < 0.03 * other.norm() for part, other in zip(last, expected, strict=True))
    net = XLSTM(9, d_model=32).bfloat16()  # all weights in 16 bits, as precision bf16-true has it
    logits, state = net(torch.randint(9, (2, 40)))
    logits.float().logsumexp(-1).sum().backward()
    assert logits.isfinite().all() and {leaf.dtype for layer in state for leaf in layer} == {torch.float32}
    logits, state = net.step(torch.zeros(2, dtype=torch.long), state)
    assert logits.isfinite().all() and {leaf.dtype for layer in state for leaf in layer} == {torch.float32}


def test_sizes():
    net = XLSTM(9, n_layer=3, d_model=64, n_head=4, qk_dim_factor=0.5, v_dim_factor=1.5, ffn_proj_factor=1.02)
    assert [tuple(part.shape) for part in net.initial_state(2)[0]] == [(2, 4, 8, 24), (2, 4, 8), (2, 4)]
    assert net.state_size(1) == 3 * 4 * 4 * (8 * 24 + 8 + 1)
    assert net.parts[1][0].ffn["proj_up"].out_features == 128
    tied = XLSTM(9, tie_embeddings=True)
    assert tied.lm_head.weight is tied.parts[0].weight


@pytest.mark.parametrize(("settings", "message"), [
    ({"n_head": 5}, "n_head 5 does not divide the 32 channels of qk_dim_factor 0.5"),
    ({"v_dim_factor": 0.8}, "n_head 4 does not divide the 51 channels of v_dim_factor 0.8"),
    ({"ffn_proj_factor": float("nan")}, "ffn_proj_factor nan is not allowed"),
    ({"qk_dim_factor": 0.01}, "qk_dim_factor 0.01 is not allowed: expected a width of at least 1")])
def test_impossible_widths(settings, message):
    with pytest.raises(UserError, match=message):
        XLSTM(9, **settings)
