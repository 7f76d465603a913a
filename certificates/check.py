#!/usr/bin/env python3
"""Proves a certificate again: python certificates/check.py CERTIFICATE.npz WEIGHTS.npz

Needs NumPy alone, and shares no code with the suite: what is computed, with what errors, is written here once more.
Exit code 0: every decision of the model is right, at every length, as the certificate claims. 1: refused, and why.

What is proved. Nodes are windows of the last K tokens, edges append a token. For every layer of a Mamba:
  1. its inputs over all trajectories lie in a box an edge, from the layers before it;
  2. the states' boxes of the short windows, which the certificate brings, are inductive: the start, 0, lies in the
     root's, and the image of a node's box under every edge lies in the box of the node that the edge leads to. So every
     state of every trajectory lies in the box of its window, also when boxes are replaced by the hulls of their images;
  3. the layer's outputs over these boxes.
Then at every edge to a window after which a token is predicted: over the box, its logit exceeds every other's.

Arithmetic. Everything is float64; u is the certificate's unit. An operation of the model is (exact)(1 + d) + t with
|d| <= u and |t| <= 1e-30, of an elementary function |d| <= 16 u; one of this program the same with 2^-53. So n
operations in a row are off by gamma(n) = n v / (1 - n v), v = u + 2^-53, of the sum of absolute values at most, in any
order, and every box is widened by that.

What is taken as given: that the windows and edges are those of all trajectories, and that weights and source with the
SHA-256 in the header are those that are used, with the settings there (floors, taps, epsilons), which no weights tell.
"""

import argparse
import hashlib
import json
import sys
import time
import zipfile

import numpy as np

HALF_ULP = 2.0**-53
UNDERFLOW = 1e-30
ELEMENTARY = 16
CELLS = 4_000_000   # of the largest arrays
ROWS = 4096


class Refused(Exception):
    """The certificate is not one of these weights, or does not prove what it says."""


def require(holds, reason):
    """Raises Refused with the reason unless `holds`."""
    if not holds:
        raise Refused(reason)


def sha256(arrays):
    """Of arrays by name: of each one's name, type, shape and bytes, in the names' order."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def read(path):
    """All arrays of an .npz file; no code in it is run."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise Refused(f"{path} cannot be read: {error}") from None


class Checker:
    """Holds windows, weights and unit; `run` returns the least margin or raises Refused.

    A box is a pair of arrays (low, high).
    """

    def __init__(self, certificate, weights):
        self.header = header = json.loads(str(certificate["header"]))
        self.weights = {name: value.astype(np.float64) for name, value in weights.items()}
        self.boxes = {name: value for name, value in certificate.items() if name.startswith(("low.", "high."))}
        self.windows, self.source, self.target, self.wanted = (
            certificate[name].astype(np.int64) for name in ("windows", "source", "target", "wanted"))
        require(sha256(weights) == header["weights"], "the weights are not those of the certificate")
        require(sha256(self.boxes) == header["boxes"], "the boxes are not those that the header names")
        digest = hashlib.sha256(f"{self.windows.shape} {self.source.shape}".encode())
        for array, kind in ((self.windows, "<i4"), (self.source, "<i8"), (self.target, "<i8"), (self.wanted, "<i4")):
            digest.update(np.ascontiguousarray(array.astype(kind)).tobytes())
        require(digest.hexdigest() == header["automaton"], "the windows and edges are not those that the header names")
        require(header["family"] == "Mamba", f"no rules for the family {header['family']} are known here")
        self.unit = float(header["unit"]) + HALF_ULP
        require(float(header["unit"]) >= 0 and self.unit < 1e-4, "the unit is out of range")
        self.nodes, self.edges = len(self.windows), len(self.source)
        self._structure()

    def _structure(self):
        """Whether the graph is one of windows, in which no token that the model predicts is missing."""
        windows, source, target, wanted = self.windows, self.source, self.target, self.wanted
        vocabulary = len(self.weights["lm_head.weight"])
        require(self.nodes > 1 and windows.max() < vocabulary and wanted.max() < vocabulary and windows.min() >= -1,
                "windows of tokens that are not in the vocabulary")
        require((windows[0] == -1).all() and wanted[0] == -1 and (windows[1:, -1] >= 0).all(),
                "the first window is not that before the first token")
        require(len(np.unique(windows, axis=0)) == self.nodes, "a window stands twice")
        require((np.diff(target) >= 0).all() and target.min() == 1 and len(np.unique(target)) == self.nodes - 1
                and target.max() == self.nodes - 1 and source.min() >= 0 and source.max() < self.nodes,
                "edges are not sorted, or a window has none to it")
        require((windows[target][:, :-1] == windows[source][:, 1:]).all(), "an edge joins windows that do not overlap")
        require(len(np.unique(source * self.nodes + target)) == self.edges, "an edge stands twice")
        self.token = windows[target, -1]
        leaving = np.bincount(source, minlength=self.nodes)
        require((leaving[wanted >= 0] == 1).all(), "an edge is missing: a predicted token does not follow its window")
        require((wanted[source] < 0).sum() + (wanted[source] == self.token).sum() == self.edges,
                "another token than the wanted one follows a window")
        ends = np.flatnonzero(leaving == 0)
        require(len(np.unique(windows[ends, -1])) == 1,
                "an edge is missing: trajectories end after more than one token")
        self.starts = np.searchsorted(target, np.arange(1, self.nodes))

    # Arithmetic: boxes around boxes.

    def gamma(self, count):
        """The relative error of so many operations, with 12 more for those that bound it."""
        error = (count + 12) * self.unit
        require(error < 0.1, "the unit is so large that nothing is left")
        return error / (1 - error)

    def out(self, low, high, count):
        """The box widened by so many operations on its ends."""
        error = self.gamma(count)
        return low - (error * np.abs(low) + UNDERFLOW), high + (error * np.abs(high) + UNDERFLOW)

    def affine(self, box, matrix, bias=0.0, sizes=None, inner=0):
        """matrix @ x + bias for x in a box [rows, n]; `sizes`: of a matrix that stands for a product of two."""
        low, high = box
        up, down = np.maximum(matrix, 0).T, np.minimum(matrix, 0).T
        sizes = np.abs(matrix) if sizes is None else sizes
        most = np.maximum(np.abs(low), np.abs(high))
        slack = 1.01 * self.gamma(matrix.shape[1] + inner) * (most @ sizes.T + np.abs(bias)) + UNDERFLOW * sizes.size
        return low @ up + high @ down + bias - slack, high @ up + low @ down + bias + slack

    def times(self, first, second, count=1):
        """Products of two boxes."""
        products = [a * b for a in first for b in second]
        return self.out(np.minimum.reduce(products), np.maximum.reduce(products), count)

    def plus(self, first, second):
        """Sums of two boxes."""
        return self.out(first[0] + second[0], first[1] + second[1], 1)

    def silu(self, box):
        """x / (1 + exp(-x)): falling below -1.2784645427610738, rising above."""
        low, high = (x / (1 + np.exp(-x)) for x in np.clip(box, -700, None))
        turn = (box[0] < -1.27846) & (box[1] > -1.27847)
        # Below -700, where the clip is, it lies between -1e-300 and 0.
        return self.out(np.where(turn, -0.27846454276107386, np.minimum(low, high)), np.maximum(low, high), ELEMENTARY)

    def softplus(self, box):
        """log(1 + exp(x)); an implementation may take x for it from 20 on, less by a relative 1.04e-10."""
        low, high = (np.logaddexp(0.0, x) for x in box)
        return self.out(np.where(box[0] > 19, low * (1 - 2e-10), low), high, ELEMENTARY)

    def decay(self, steps, rates):
        """exp(steps rates) for positive steps and negative rates."""
        exponents = steps[1] * rates[0], steps[0] * rates[1]
        low, high = (np.exp(x) for x in exponents)
        error = [3 * self.gamma(4) * np.abs(x) + self.gamma(ELEMENTARY) for x in exponents]
        return np.maximum(low * (1 - error[0]) - UNDERFLOW, 0), high * (1 + error[1]) + UNDERFLOW

    def hull(self, box):
        """Boxes of nodes from those of edges; the root's is 0."""
        return tuple(np.concatenate([np.zeros_like(half[:1]), extreme.reduceat(half, self.starts, axis=0)])
                     for half, extreme in zip(box, (np.minimum, np.maximum), strict=True))

    # The residual stream: centre + sum of matrices times vectors within radii, + errors.

    def begin(self):
        """The stream before the first layer, at every edge."""
        self.centre = self.weights["backbone.embedding.weight"][self.token]
        self.error, self.radius = np.zeros_like(self.centre), np.zeros_like(self.centre)
        self.parts = []

    def extend(self, box, matrix):
        """Add matrix @ g for g in a box."""
        middle = box[0] + (box[1] - box[0]) / 2
        radius = np.maximum(box[1] - middle, middle - box[0]) * (1 + 8 * HALF_ULP)
        error = self.gamma(matrix.shape[1] + 6) * (
            np.abs(self.centre) + self.radius + (np.abs(middle) + radius) @ np.abs(matrix).T)
        self.centre = self.centre + middle @ matrix.T
        self.error = (self.error + error) * (1 + self.gamma(2))
        self.radius = (self.radius + radius @ np.abs(matrix).T + error) * (1 + self.gamma(matrix.shape[1]))
        self.parts.append((matrix, radius))

    def through(self, rows, matrix, composed):
        """matrix @ x of the stream x, whose coordinates a norm and a sum round; `composed`: |matrix @ W_k|."""
        width = max([matrix.shape[1], *(part.shape[1] for part in composed)])
        error = self.gamma(2 * width + ELEMENTARY + 10)
        most = np.abs(self.centre[rows]) + self.radius[rows]
        reach = (self.error[rows] + error * most) @ np.abs(matrix).T
        for part, (_, radius) in zip(composed, self.parts, strict=True):
            reach = reach + radius[rows] @ part.T
        middle, reach = self.centre[rows] @ matrix.T, reach * (1 + error)
        return self.out(middle - reach, middle + reach, 2)

    def compose(self, matrix):
        """|matrix @ W_k| for the layers so far."""
        return [np.abs(matrix @ part) for part, _ in self.parts]

    def coordinates(self, rows):
        """The stream's coordinates."""
        return self.out(self.centre[rows] - self.radius[rows], self.centre[rows] + self.radius[rows], 2)

    def scale(self, rows, epsilon):
        """1 / sqrt(mean of squares + epsilon), a column."""
        low, high = self.coordinates(rows)
        centre, width = self.centre[rows], self.centre.shape[1]
        error = self.gamma(2 * max([width, *(part.shape[1] for part, _ in self.parts)]) + 10)
        squares = np.where((low <= 0) & (high >= 0), 0, np.minimum(low**2, high**2)), np.maximum(low**2, high**2)
        least, most = squares[0].sum(1) * (1 - error), squares[1].sum(1) * (1 + error)
        across = (np.abs(centre) * self.error[rows]).sum(1)
        for part, radius in self.parts:
            across = across + ((np.abs(centre @ part) + error * (np.abs(centre) @ np.abs(part))) * radius[rows]).sum(1)
        across, own = 2 * across * (1 + error), (centre**2).sum(1)
        least = np.maximum(least, own * (1 - error) - across * (1 + error))
        most = np.minimum(most, (own + across + (self.radius[rows]**2).sum(1)) * (1 + error))
        return self.out(1 / np.sqrt(most[:, None] / width + epsilon),
                        1 / np.sqrt(np.maximum(least, 0)[:, None] / width + epsilon), width + ELEMENTARY)

    def normed(self, rows, weight, epsilon):
        """weight x / sqrt(mean of squares + epsilon) of the stream, coordinate by coordinate."""
        low, high = self.coordinates(rows)
        width = low.shape[1]
        squares = np.where((low <= 0) & (high >= 0), 0, np.minimum(low**2, high**2)), np.maximum(low**2, high**2)
        slack = self.gamma(width) * squares[1].sum(1, keepdims=True)
        rest = [np.maximum(part.sum(1, keepdims=True) - part + sign * slack, 0) / width + epsilon
                for part, sign in zip(squares, (-1, 1), strict=True)]
        ends = [[x / np.sqrt(x * x / width + other) for other in rest] for x in (low, high)]
        box = np.minimum(*ends[0]), np.maximum(*ends[1])
        return self.times(box, (weight, weight), width + ELEMENTARY)

    # A layer of a Mamba.

    def layer(self, number):
        """Add the outputs of layer `number` to the stream."""
        def get(name):
            return self.weights[f"backbone.layers.{number}.{name}"]

        settings = self.header["settings"]
        epsilon, floor, kept = settings["epsilons"][number], settings["floors"][number], settings["taps"][number]
        require(floor > 0, "a layer's memory has no floor under its step sizes")
        norm, inwards, skip = get("norm.weight"), get("mixer.in_proj.weight"), get("mixer.D")
        channels, states = get("mixer.A_log").shape
        composed = self.compose(inwards * norm)
        halves = []
        for rows in slices(self.edges, ROWS):
            first = self.affine(self.normed(rows, norm, epsilon), inwards)
            second = self.times(self.scale(rows, epsilon), self.through(rows, inwards * norm, composed))
            halves.append((np.maximum(first[0], second[0]), np.minimum(first[1], second[1])))
        low, high = (np.concatenate([half[i] for half in halves]) for i in (0, 1))
        x, gate = (low[:, :channels], high[:, :channels]), (low[:, channels:], high[:, channels:])

        taps = get("mixer.conv1d.weight")[:, 0]
        require(not taps[:, : taps.shape[1] - kept].any(), "a convolution has more taps than the certificate says")
        box, total, most = x, [0.0, 0.0], np.abs(get("mixer.conv1d.bias"))
        for back in range(kept):
            if back:
                box = tuple(half[self.source] for half in self.hull(box))
            tap = taps[:, taps.shape[1] - 1 - back]
            ends = box[0] * tap, box[1] * tap
            total = [total[0] + np.minimum(*ends), total[1] + np.maximum(*ends)]
            most = most + np.maximum(np.abs(box[0]), np.abs(box[1])) * np.abs(tap)
        slack = self.gamma(2 * taps.shape[1] + 4) * most + UNDERFLOW
        bias = get("mixer.conv1d.bias")
        u = self.silu((total[0] + bias - slack, total[1] + bias + slack))

        project, spread = get("mixer.x_proj.weight"), get("mixer.dt_proj.weight")
        rank = spread.shape[1]
        steps = self.affine(u, spread @ project[:rank], get("mixer.dt_proj.bias"),
                            np.abs(spread) @ np.abs(project[:rank]), rank + 10)
        steps = self.out(*(half + floor for half in self.softplus(steps)), 1)
        both = self.affine(u, project[rank:])
        inputs, outputs = (tuple(half[:, part] for half in both) for part in (slice(states), slice(states, None)))
        y = self.scan(number, u, steps, inputs, outputs, self.out(*(-np.exp(get("mixer.A_log")),) * 2, ELEMENTARY))
        y = self.plus(y, self.times((skip, skip), u))
        self.extend(self.times(y, self.silu(gate)), get("mixer.out_proj.weight"))

    def scan(self, number, u, steps, inputs, outputs, rates):
        """C h after every edge's token, over the states' boxes."""
        short = int(self.header["short"])
        _, group = np.unique(self.windows[:, self.windows.shape[1] - short:], axis=0, return_inverse=True)
        group = group.reshape(-1)
        given = self.boxes[f"low.{number}"], self.boxes[f"high.{number}"]
        channels, states = rates[0].shape
        require(all(half.shape == (group.max() + 1, channels, states) for half in given), "boxes of another shape")
        moved = self.times(steps, u)
        result = [], []
        for part in slices(channels, max(1, CELLS // (self.edges * states))):
            decay = self.decay([half[:, part, None] for half in steps], [half[part] for half in rates])
            drive = self.times([half[:, part, None] for half in moved], [half[:, None] for half in inputs], 4)
            proved = [half[:, part].astype(np.float64) for half in given]
            require(all(np.isfinite(half).all() for half in (*proved, *decay, *drive)), "a box is not finite")
            require(decay[1].max() < 1, f"layer {number}: a state need not fade")
            require((proved[0][group[0]] <= 0).all() and (proved[1][group[0]] >= 0).all(),
                    f"layer {number}: the start is not in its box")
            image = self.step(decay, drive, [half[group] for half in proved])
            require((image[0] >= proved[0][group[self.target]]).all() and
                    (image[1] <= proved[1][group[self.target]]).all(), f"layer {number}: the boxes are not inductive")
            for _ in range(int(self.header["sweeps"])):
                nodes = self.hull(image)
                before, image = image, self.step(decay, drive, nodes)
                change = max(np.abs(a - b).max() for a, b in zip(image, before, strict=True))
                if change <= 1e-4 * max(np.abs(half).max() for half in image):
                    break
            terms = self.times(image, [half[:, None] for half in outputs], 1)
            slack = self.gamma(states) * np.maximum(np.abs(terms[0]), np.abs(terms[1])).sum(-1)
            for half, end in zip(result, self.out(terms[0].sum(-1) - slack, terms[1].sum(-1) + slack, 2), strict=True):
                half.append(end)
        return tuple(np.concatenate(half, 1) for half in result)

    def step(self, decay, drive, nodes):
        """Boxes of decay h + drive at the edges, h in those of the nodes; decay is in [0, 1)."""
        low, high = nodes[0][self.source], nodes[1][self.source]
        slack = self.gamma(4) * sum(np.abs(half).max(0) for box in (nodes, drive) for half in box)
        return (np.minimum(decay[0] * low, decay[1] * low) + drive[0] - slack - UNDERFLOW,
                np.maximum(decay[0] * high, decay[1] * high) + drive[1] + slack + UNDERFLOW)

    # Decisions.

    def margin(self):
        """The least margin in logits over all decisions; raises Refused where it is not positive."""
        head, norm = self.weights["lm_head.weight"], self.weights["backbone.norm_f.weight"]
        epsilon, least = self.header["settings"]["epsilons"][-1], np.inf
        wanted = self.wanted[self.target]
        for token in np.unique(wanted[wanted >= 0]):
            others = np.arange(len(head)) != token
            matrix = (head[token] - head[others]) * norm
            sizes = (np.abs(head[token]) + np.abs(head[others])) * np.abs(norm)
            composed, edges = self.compose(matrix), np.flatnonzero(wanted == token)
            for part in slices(len(edges), ROWS):
                rows = edges[part]
                most = np.abs(self.centre[rows]) + self.radius[rows]
                ahead = self.through(rows, matrix, composed)[0] - self.gamma(4 * norm.size) * (most @ sizes.T)
                if not (ahead > 0).all():
                    wrong = self.windows[self.target[rows[np.argmin(ahead.min(1))]]]
                    raise Refused(f"after the window {wrong.tolist()} token {token} is not proved to be the choice")
                least = min(least, float((ahead * self.scale(rows, epsilon)[0]).min()))
        return least

    def run(self):
        """The least margin that is proved."""
        layers = len(self.header["settings"]["floors"])
        require(f"backbone.layers.{layers}.norm.weight" not in self.weights, "the certificate leaves layers out")
        self.begin()
        for number in range(layers):
            self.layer(number)
        return self.margin()


def slices(count, size):
    """Slices of at most `size` that make up `count`."""
    return [slice(start, min(count, start + size)) for start in range(0, count, size)]


def main():
    """The command."""
    parser = argparse.ArgumentParser(description="Prove a certificate again.")
    parser.add_argument("certificate")
    parser.add_argument("weights")
    given, begun = parser.parse_args(), time.time()
    try:
        checker = Checker(read(given.certificate), read(given.weights))
        margin = checker.run()
    except (Refused, KeyError, IndexError) as error:
        print(f"refused: {error if isinstance(error, Refused) else f'the certificate has no {error}'}")
        return 1
    header = checker.header
    print(f"proved: {header['claim']}; u = {header['unit']:g}\n{int((checker.wanted >= 0).sum()):,} decisions, "
          f"{checker.nodes:,} windows of {header['order']} tokens, {checker.edges:,} edges, least margin {margin:.4g} "
          f"logits, {time.time() - begun:.0f} s\nassuming: " + "\n          ".join(header["assumptions"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
