"""Models that are exact at every length, made in a moment: random layers, and a head fitted to what they keep."""

import random
from copy import deepcopy
from functools import cache

import numpy as np
import torch

from length_gen.datamodules.automaton import automaton as windows
from length_gen.datamodules.tasks import Copy
from length_gen.datamodules.tokens import PREDICTED
from length_gen.lightning_modules.backbones import Mamba


def task(**settings):
    return Copy(5, **{"setting": "question_in_tool", **settings})


@cache
def trajectories(count=300, seed=0, longest=9):
    """Of random problems, and of one for each pair of symbols."""
    rng, copy = random.Random(seed), task()
    return [copy.record(copy.sample(rng, rng.randint(1, longest))) for _ in range(count)]


def automaton(order):
    """All windows of so many tokens."""
    return windows(task(), order)


def exact_copy(**settings):
    """A Mamba that copies; its margins are proved with windows of 6 tokens."""
    return deepcopy(_exact_copy(**settings))


def flawed_copy():
    """`exact_copy` with one row of the head changed: after h comes j, and there alone, it says a."""
    return deepcopy(_flawed_copy())


@cache
def _exact_copy(width=64, layers=2, **settings):
    torch.manual_seed(0)
    vocabulary = task().vocabulary()
    model = Mamba(len(vocabulary), layers, width, d_state=4, initializer_range=1.0, tie_embeddings=False,
                  **{"dt_floor": 2.0, **settings}).double()  # without the scan that is compiled first
    features, wanted, _ = kept(model)
    with torch.no_grad():
        model.lm_head.weight.copy_(fitted(features, torch.nn.functional.one_hot(wanted, len(vocabulary)) * 10.0).T)
    return model.float()


@cache
def _flawed_copy():
    model, vocabulary = exact_copy().double(), task().vocabulary()
    features, _, last = kept(model)
    rare = torch.tensor(["".join(token for token in tokens if len(token) == 1)[-3:] == "hhj" for tokens in last])
    with torch.no_grad():
        direction = fitted(features, torch.where(rare, 1.0, 0.0)[:, None], torch.where(rare, 20.0, 1.0)[:, None])
        model.lm_head.weight[vocabulary.id("a")] += 16 * direction[:, 0]
    return model.float()


@torch.no_grad()
def kept(model):
    """What the head takes wherever a token is to be predicted, that token, and the tokens before it."""
    features, wanted, last, vocabulary = [], [], [], task().vocabulary()
    hook = model.parts[2].register_forward_hook(lambda module, inputs, output: features.append(output[0, :-1]))
    for trajectory in trajectories():
        ids = torch.from_numpy(vocabulary.encode(trajectory.tokens).astype(np.int64))
        model(ids[None])
        told = torch.from_numpy(np.isin(np.frombuffer(bytes(trajectory.kinds[1:]), np.uint8), list(PREDICTED)))
        features[-1] = features[-1][told]
        wanted.append(ids[1:][told])
        last += [trajectory.tokens[: i + 1] for i in torch.nonzero(told)[:, 0].tolist()]
    hook.remove()
    return torch.cat(features), torch.cat(wanted), last


def fitted(features, wanted, weights=1.0):
    """Least squares of features [n, d] to wanted [n, m]: [d, m]."""
    square = features.T @ (weights * features) + 1e-3 * torch.eye(features.shape[1])
    return torch.linalg.solve(square, features.T @ (weights * wanted).double())
