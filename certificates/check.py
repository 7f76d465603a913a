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
|d| <= u and |t| <= 1e-30; of a root's inverse |d| <= 16 u, of exp, silu and softplus (16 + 2 a) u at a below 0 (of
exp(A_log), twice its size); one of this program the same with 2^-53. So n operations in a row are off by gamma(n) =
n v / (1 - n v), v = u + 2^-53, of the sum of absolute values at most, in any order, and every box is widened by that.

What is taken as given: that the windows and edges are those of all trajectories, and that weights and source with the
SHA-256 in the header are those that are used, with the settings there (floors, taps, epsilons), which no weights tell.
"""

import argparse
import hashlib
import json
import sys
import time
import zipfile
from functools import partial, reduce
from importlib import import_module

import numpy as np

HALF_ULP = 2.0**-53
UNDERFLOW = 1e-30
ELEMENTARY = 16
CELLS = 4_000_000   # of the largest arrays, unless told otherwise
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

    A box is a pair of arrays (low, high). The graph is looked into with NumPy, whatever `xp` is.

    xp:    what computes: a library with NumPy's names, such as numpy, cupy or torch
    put:   makes one of its float64 or int64 arrays of one of NumPy's
    cells: elements of the largest arrays, about
    """

    def __init__(self, certificate, weights, xp=np, put=np.asarray, cells=CELLS):
        self.xp, self.put, self.cells = xp, put, cells
        self.header = header = json.loads(str(certificate["header"]))
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
        self.weights = {name: put(value.astype(np.float64)) for name, value in weights.items()}
        self._structure()
        # Edges are sorted by their target: `first` is the first of those to each node, and `degrees` how many they are.
        self.degrees = np.bincount(self.target, minlength=self.nodes)
        self.first = np.cumsum(self.degrees) - self.degrees
        self.origin, self.everywhere = put(self.source), self.runs(self.degrees)
        _, group = np.unique(self.windows[self.target][:, -2:], axis=0, return_inverse=True)
        group = group.reshape(-1)
        self.groups = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])

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
        # A window may have forgotten a token, which is -1 then; what it has the one before it had, but for the newest.
        kept = windows[target][:, :-1]
        require(((kept == windows[source][:, 1:]) | (kept == -1)).all(), "an edge joins windows that do not overlap")
        require(len(np.unique(source * self.nodes + target)) == self.edges, "an edge stands twice")
        token = windows[target, -1]
        leaving = np.bincount(source, minlength=self.nodes)
        require((leaving[wanted >= 0] == 1).all(), "an edge is missing: a predicted token does not follow its window")
        require((wanted[source] < 0).sum() + (wanted[source] == token).sum() == self.edges,
                "another token than the wanted one follows a window")
        ends = np.flatnonzero(leaving == 0)
        require(len(np.unique(windows[ends, -1])) == 1,
                "an edge is missing: trajectories end after more than one token")

    # Arithmetic: boxes around boxes.

    def gamma(self, count):
        """The relative error of so many operations, with 12 more for those that bound it."""
        error = (count + 12) * self.unit
        require(error < 0.1, "the unit is so large that nothing is left")
        return error / (1 - error)

    def out(self, low, high, count, exponent=None):
        """The box widened by so many operations on its ends, and by 2 a where they come from exp(-a), an exponent."""
        error, xp = self.gamma(count), self.xp
        if exponent is not None:
            error = error + 2.1 * self.unit * xp.abs(xp.clip(exponent, None, 0))
        return low - (error * xp.abs(low) + UNDERFLOW), high + (error * xp.abs(high) + UNDERFLOW)

    def most(self, box):
        """The largest absolute values."""
        return self.xp.maximum(self.xp.abs(box[0]), self.xp.abs(box[1]))

    def affine(self, box, matrix, bias=0.0, sizes=None, inner=0):
        """matrix @ x + bias for x in a box [rows, n]; `sizes`: of a matrix that stands for a product of two."""
        low, high = box
        up, down = self.xp.clip(matrix, 0, None).T, self.xp.clip(matrix, None, 0).T
        sizes = self.xp.abs(matrix) if sizes is None else sizes
        slack = 1.01 * self.gamma(matrix.shape[1] + inner) * (self.most(box) @ sizes.T + abs(bias))
        slack = slack + UNDERFLOW * sizes.shape[0] * sizes.shape[1]
        return low @ up + high @ down + bias - slack, high @ up + low @ down + bias + slack

    def times(self, first, second, count=1):
        """Products of two boxes."""
        products = [a * b for a in first for b in second]
        return self.out(reduce(self.xp.minimum, products), reduce(self.xp.maximum, products), count)

    def plus(self, first, second):
        """Sums of two boxes."""
        return self.out(first[0] + second[0], first[1] + second[1], 1)

    def silu(self, box):
        """x / (1 + exp(-x)): falling below -1.2784645427610738, rising above."""
        xp = self.xp
        low, high = (xp.clip(x, -700, None) / (1 + xp.exp(-xp.clip(x, -700, None))) for x in box)
        turn = (box[0] < -1.27846) & (box[1] > -1.27847)
        # Below -700, where the clip is, it lies between -1e-300 and 0.
        return self.out(xp.where(turn, -0.27846454276107386, xp.minimum(low, high)), xp.maximum(low, high), ELEMENTARY,
                        box[0])

    def beside(self, box, slope):
        """silu(x) - slope x: in each of four pieces by the tangent in its middle, since silu'' is at most 1/2."""
        xp, half, lows, highs = self.xp, (box[1] - box[0]) / 8, [], []
        for place in (1, 3, 5, 7):
            x = box[0] + place * half
            bell = 1 / (1 + xp.exp(-xp.clip(x, -700, None)))
            reach = xp.abs(bell * (1 + x * (1 - bell)) - slope) * half + half * half / 4
            lows.append(x * (bell - slope) - reach)
            highs.append(x * (bell - slope) + reach)
        size = self.most(box)
        slack = self.gamma(ELEMENTARY + 18) * ((1 + abs(slope)) * size + (1 + size) * half) + UNDERFLOW
        return reduce(xp.minimum, lows) - slack, reduce(xp.maximum, highs) + slack

    def softplus(self, box):
        """log(1 + exp(x)); an implementation may take x for it from 20 on, less by a relative 1.04e-10."""
        xp = self.xp
        low, high = (xp.clip(x, 0, None) + xp.log1p(xp.exp(-xp.abs(x))) for x in box)
        return self.out(xp.where(box[0] > 19, low * (1 - 2e-10), low), high, ELEMENTARY, box[0])

    def decay(self, steps, rates):
        """exp(steps rates) for positive steps and negative rates."""
        exponents = steps[1] * rates[0], steps[0] * rates[1]
        low, high = (self.xp.exp(x) for x in exponents)
        error = [3 * self.gamma(4) * self.xp.abs(x) + self.gamma(ELEMENTARY) for x in exponents]
        return self.xp.clip(low * (1 - error[0]) - UNDERFLOW, 0, None), high * (1 + error[1]) + UNDERFLOW

    # The graph.

    def runs(self, counts):
        """What `hull` needs of so many rows each, end to end: those with the most first, as long as there are more."""
        order = np.argsort(-counts, kind="stable")
        first, longest = (np.cumsum(counts) - counts)[order], counts.max(initial=0)
        return (self.put(np.argsort(order, kind="stable")),
                [self.put(first[: (counts > step).sum()] + step) for step in range(longest)])

    def hull(self, box, runs=None):
        """The least boxes around runs of rows (of edges to each node, if none are given); 0 around none: at the root,
        where no edge leads to, all states are 0."""
        back, rows = self.everywhere if runs is None else runs
        result = []
        for half, extreme in zip(box, (self.xp.minimum, self.xp.maximum), strict=True):
            found = self.put(np.zeros((len(back), *half.shape[1:])))
            for step, chosen in enumerate(rows):
                part = half[chosen]
                found[: len(chosen)] = extreme(found[: len(chosen)], part) if step else part
            result.append(found[back])
        return tuple(result)

    def earlier(self, edges):
        """The edges that lead to where these begin; what `hull` needs of them; where in its result each of these is."""
        nodes, place = np.unique(self.source[edges], return_inverse=True)
        counts = self.degrees[nodes]
        before = np.repeat(self.first[nodes] - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        return before, self.runs(counts), self.put(place.reshape(-1))

    # The residual stream: centre + sum of matrices times vectors within radii, + errors.

    def begin(self):
        """The stream before the first layer, at every edge."""
        self.centre = self.weights["backbone.embedding.weight"][self.put(self.windows[self.target, -1])]
        self.error, self.radius = 0 * self.centre, 0 * self.centre
        self.parts = []

    def extend(self, box, matrix):
        """Add matrix @ g for g in a box."""
        xp = self.xp
        middle = box[0] + (box[1] - box[0]) / 2
        radius = xp.maximum(box[1] - middle, middle - box[0]) * (1 + 8 * HALF_ULP)
        error = self.gamma(matrix.shape[1] + 6) * (
            xp.abs(self.centre) + self.radius + (xp.abs(middle) + radius) @ xp.abs(matrix).T)
        self.centre = self.centre + middle @ matrix.T
        self.error = (self.error + error) * (1 + self.gamma(2))
        self.radius = (self.radius + radius @ xp.abs(matrix).T + error) * (1 + self.gamma(matrix.shape[1]))
        self.parts.append((matrix, radius))

    def through(self, rows, matrix, composed, sizes=None, inner=0):
        """matrix @ x of the stream x, whose coordinates a norm and a sum round; `composed`: |matrix @ W_k|; `sizes`: of
        a matrix that stands for a product, in sums of `inner` terms."""
        width = max([matrix.shape[1], *(part.shape[1] for part in composed)])
        error = self.gamma(2 * width + inner + ELEMENTARY + 10)
        most = self.xp.abs(self.centre[rows]) + self.radius[rows]
        reach = (self.error[rows] + error * most) @ (self.xp.abs(matrix) if sizes is None else sizes).T
        for part, (_, radius) in zip(composed, self.parts, strict=True):
            reach = reach + radius[rows] @ part.T
        middle, reach = self.centre[rows] @ matrix.T, reach * (1 + error)
        return self.out(middle - reach, middle + reach, 2)

    def compose(self, matrix):
        """|matrix @ W_k| for the layers so far."""
        return [self.xp.abs(matrix @ part) for part, _ in self.parts]

    def coordinates(self, rows):
        """The stream's coordinates."""
        return self.out(self.centre[rows] - self.radius[rows], self.centre[rows] + self.radius[rows], 2)

    def squares(self, box):
        """Of what lies in a box."""
        low, high = (half * half for half in box)
        return (self.xp.where((box[0] <= 0) & (box[1] >= 0), 0.0, self.xp.minimum(low, high)),
                self.xp.maximum(low, high))

    def scale(self, rows, epsilon):
        """1 / sqrt(mean of squares + epsilon), a column."""
        xp, centre, width = self.xp, self.centre[rows], self.centre.shape[1]
        error = self.gamma(2 * max([width, *(part.shape[1] for part, _ in self.parts)]) + 10)
        least, most = self.squares(self.coordinates(rows))
        least, most = least.sum(1) * (1 - error), most.sum(1) * (1 + error)
        across = (xp.abs(centre) * self.error[rows]).sum(1)
        for part, radius in self.parts:
            across = across + ((xp.abs(centre @ part) + error * (xp.abs(centre) @ xp.abs(part))) * radius[rows]).sum(1)
        across, own = 2 * across * (1 + error), (centre * centre).sum(1)
        least = xp.maximum(least, own * (1 - error) - across * (1 + error))
        most = xp.minimum(most, (own + across + (self.radius[rows] ** 2).sum(1)) * (1 + error))
        return self.out(1 / xp.sqrt(most[:, None] / width + epsilon),
                        1 / xp.sqrt(xp.clip(least, 0, None)[:, None] / width + epsilon), width + ELEMENTARY)

    def normed(self, rows, weight, epsilon):
        """weight x / sqrt(mean of squares + epsilon) of the stream, coordinate by coordinate."""
        xp, (low, high) = self.xp, self.coordinates(rows)
        width, squares = low.shape[1], self.squares((low, high))
        slack = self.gamma(width) * squares[1].sum(1)[:, None]
        rest = [xp.clip(part.sum(1)[:, None] - part + sign * slack, 0, None) / width + epsilon
                for part, sign in zip(squares, (-1, 1), strict=True)]
        ends = [[x / xp.sqrt(x * x / width + other) for other in rest] for x in (low, high)]
        box = xp.minimum(*ends[0]), xp.maximum(*ends[1])
        return self.times(box, (weight, weight), width + ELEMENTARY)

    def enter(self, norm, epsilon):
        """What `read` reads: the norm of the stream as it is now."""
        parts = [(self.scale(rows, epsilon), self.normed(rows, norm, epsilon)) for rows in slices(self.edges, ROWS)]
        self.norm = norm
        self.scales, self.normal = (tuple(self.xp.concatenate([part[which][end] for part in parts], 0)
                                          for end in (0, 1)) for which in (0, 1))

    def read(self, rows, matrix, composed, sizes=None, inner=0):
        """matrix @ the normed stream; `composed`: `compose(matrix * norm)`; `sizes` and `inner` as of `through`."""
        first = self.affine([half[rows] for half in self.normal], matrix, 0.0, sizes, inner)
        sizes = None if sizes is None else sizes * self.xp.abs(self.norm)
        second = self.times([half[rows] for half in self.scales],
                            self.through(rows, matrix * self.norm, composed, sizes, inner))
        return self.xp.maximum(first[0], second[0]), self.xp.minimum(first[1], second[1])

    # A layer of a Mamba.

    def layer(self, number):
        """Add the outputs of layer `number` to the stream."""
        def get(name):
            return self.weights[f"backbone.layers.{number}.{name}"]

        xp, settings = self.xp, self.header["settings"]
        floor, kept = settings["floors"][number], settings["taps"][number]
        require(floor > 0, "a layer's memory has no floor under its step sizes")
        inwards, skip = get("mixer.in_proj.weight"), get("mixer.D")
        channels, states = get("mixer.A_log").shape
        self.enter(get("norm.weight"), settings["epsilons"][number])
        composed = self.compose(inwards * self.norm)
        halves = [self.read(rows, inwards, composed) for rows in slices(self.edges, ROWS)]
        low, high = (xp.concatenate([half[i] for half in halves], 0) for i in (0, 1))
        x, gate = (low[:, :channels], high[:, :channels]), (low[:, channels:], high[:, channels:])

        taps, bias = get("mixer.conv1d.weight")[:, 0], get("mixer.conv1d.bias")
        require(not bool((taps[:, : taps.shape[1] - kept] != 0).any()),
                "a convolution has more taps than the certificate says")
        taps = [taps[:, taps.shape[1] - 1 - back] for back in range(kept)]
        # What the model's own sum is off by, and the roundings of a few products here.
        off = self.gamma(2 * kept + 8) * (
            xp.abs(bias) + xp.amax(self.most(x), 0) * sum(xp.abs(tap) for tap in taps)) + UNDERFLOW
        sums = None
        for tap in reversed(taps):  # from the oldest on, at each edge over all paths to it
            ends = x[0] * tap, x[1] * tap
            ends = xp.minimum(*ends), xp.maximum(*ends)
            sums = ends if sums is None else tuple(
                half + node[self.origin] for half, node in zip(ends, self.hull(sums), strict=True))
        sums = sums[0] + (bias - off), sums[1] + (bias + off)
        u = self.silu(sums)

        project, spread = get("mixer.x_proj.weight"), get("mixer.dt_proj.weight")
        rank = spread.shape[1]
        matrix = xp.concatenate([spread @ project[:rank], project[rank:]], 0)
        sizes = xp.concatenate([xp.abs(spread) @ xp.abs(project[:rank]), xp.abs(project[rank:])], 0)
        shift = xp.concatenate([get("mixer.dt_proj.bias"), 0 * matrix[channels:, 0]], 0)
        low, high = self.affine(u, matrix, shift, sizes, rank + 10)
        for group in self.groups if self.parts else ():  # without parts the stream is a point at every edge
            rows = self.put(group)
            least, most = self.steered([half[rows] for half in sums], group, inwards[:channels], taps, bias, off,
                                       matrix, sizes, rank + 10)
            slack = self.gamma(channels + rank + 10) * (
                self.most([half[rows] for half in u]) @ sizes.T + xp.abs(shift)) + UNDERFLOW * channels
            least, most = self.out(least + shift - slack, most + shift + slack, 3)
            low[rows], high[rows] = xp.maximum(low[rows], least), xp.minimum(high[rows], most)
        parts = slice(channels), slice(channels, channels + states), slice(channels + states, None)
        steps, inputs, outputs = ((low[:, part], high[:, part]) for part in parts)
        steps = self.out(*(half + floor for half in self.softplus(steps)), 1)
        logs = get("mixer.A_log")
        rates = -xp.exp(logs)
        y = self.scan(number, u, steps, inputs, outputs, self.out(rates, rates, ELEMENTARY, -xp.abs(logs)))
        y = self.plus(y, self.times((skip, skip), u))
        self.extend(self.times(y, self.silu(gate)), get("mixer.out_proj.weight"))

    def steered(self, sums, edges, inwards, taps, bias, off, matrix, sizes, inner):
        """matrix @ silu(a) for the convolution's sums a at some edges, by way of the stream.

        For any slope, silu(a) is slope (a - bias) and what is beside it. The first is linear in the stream at this edge
        and at those before it, so that `read` takes it from what the layers before have put out.
        """
        xp = self.xp
        ends = [xp.clip(x, -700, None) / (1 + xp.exp(-xp.clip(x, -700, None))) for x in sums]
        slope = xp.clip((ends[1] - ends[0]).sum(0) / ((sums[1] - sums[0]).sum(0) + UNDERFLOW), -0.1, 1.1)
        beside = self.plus(self.beside(sums, slope),
                           (slope * bias - xp.abs(slope) * off, slope * bias + xp.abs(slope) * off))
        return self.plus(self.affine(beside, matrix, 0.0, sizes, inner),
                         self.along(edges, inwards, [slope * tap for tap in taps], matrix, sizes, inner))

    def along(self, edges, inwards, slopes, matrix, sizes, inner):
        """matrix @ the sum of slopes times inputs at these edges, the first, and those before them, over all paths."""
        xp, slope = self.xp, slopes[0]
        product = (matrix * slope) @ inwards
        box = self.read(self.put(edges), product, self.compose(product * self.norm),
                        (sizes * xp.abs(slope)) @ xp.abs(inwards), inner + matrix.shape[1] + 4)
        if len(slopes) == 1:
            return box
        before, runs, place = self.earlier(edges)
        older = self.hull(self.along(before, inwards, slopes[1:], matrix, sizes, inner), runs)
        return self.plus(box, [half[place] for half in older])

    def scan(self, number, u, steps, inputs, outputs, rates):
        """C h after every edge's token, over the states' boxes."""
        xp, short = self.xp, int(self.header["short"])
        _, group = np.unique(self.windows[:, self.windows.shape[1] - short:], axis=0, return_inverse=True)
        group = group.reshape(-1)
        given = self.boxes[f"low.{number}"], self.boxes[f"high.{number}"]
        channels, states = rates[0].shape
        require(all(half.shape == (group.max() + 1, channels, states) for half in given), "boxes of another shape")
        begin, end, group = int(group[0]), self.put(group[self.target]), self.put(group)
        moved = self.times(steps, u)
        result = [], []
        for part in slices(channels, max(1, self.cells // (self.edges * states))):
            decay = self.decay([half[:, part, None] for half in steps], [half[part] for half in rates])
            drive = self.times([half[:, part, None] for half in moved], [half[:, None] for half in inputs], 4)
            proved = [self.put(half[:, part].astype(np.float64)) for half in given]
            require(all(bool(xp.isfinite(half).all()) for half in (*proved, *decay, *drive)), "a box is not finite")
            require(float(decay[1].max()) < 1, f"layer {number}: a state need not fade")
            require(bool((proved[0][begin] <= 0).all()) and bool((proved[1][begin] >= 0).all()),
                    f"layer {number}: the start is not in its box")
            image = self.step(decay, drive, [half[group] for half in proved])
            require(bool((image[0] >= proved[0][end]).all()) and bool((image[1] <= proved[1][end]).all()),
                    f"layer {number}: the boxes are not inductive")
            for _ in range(int(self.header["sweeps"])):
                nodes = self.hull(image)
                before, image = image, self.step(decay, drive, nodes)
                change = max(float(xp.abs(a - b).max()) for a, b in zip(image, before, strict=True))
                if change <= 1e-4 * max(float(xp.abs(half).max()) for half in image):
                    break
            terms = self.times(image, [half[:, None] for half in outputs], 1)
            slack = self.gamma(states) * self.most(terms).sum(-1)
            for half, end_ in zip(result, self.out(terms[0].sum(-1) - slack, terms[1].sum(-1) + slack, 2), strict=True):
                half.append(end_)
        return tuple(xp.concatenate(half, 1) for half in result)

    def step(self, decay, drive, nodes):
        """Boxes of decay h + drive at the edges, h in those of the nodes; decay is in [0, 1)."""
        xp = self.xp
        low, high = nodes[0][self.origin], nodes[1][self.origin]
        slack = self.gamma(4) * sum(xp.amax(xp.abs(half), 0) for box in (nodes, drive) for half in box)
        return (xp.minimum(decay[0] * low, decay[1] * low) + drive[0] - slack - UNDERFLOW,
                xp.maximum(decay[0] * high, decay[1] * high) + drive[1] + slack + UNDERFLOW)

    # Decisions.

    def margin(self):
        """The least margin in logits over all decisions; raises Refused where it is not positive."""
        xp, head, norm = self.xp, self.weights["lm_head.weight"], self.weights["backbone.norm_f.weight"]
        epsilon, least = self.header["settings"]["epsilons"][-1], np.inf
        wanted = self.wanted[self.target]
        for token in np.unique(wanted[wanted >= 0]).tolist():
            others = self.put(np.delete(np.arange(len(head)), token))
            matrix = (head[token] - head[others]) * norm
            sizes = (xp.abs(head[token]) + xp.abs(head[others])) * xp.abs(norm)
            composed, edges = self.compose(matrix), np.flatnonzero(wanted == token)
            for part in slices(len(edges), ROWS):
                rows = self.put(edges[part])
                most = xp.abs(self.centre[rows]) + self.radius[rows]
                ahead = self.through(rows, matrix, composed)[0] - self.gamma(4 * norm.shape[0]) * (most @ sizes.T)
                if not bool((ahead > 0).all()):
                    wrong = self.windows[self.target[edges[part][int(xp.argmin(xp.amin(ahead, 1)))]]]
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
    parser.add_argument("--library", default="numpy", help="what computes, with NumPy's names: numpy, cupy or torch")
    parser.add_argument("--device", help="where it computes, such as cuda, if the library has several")
    parser.add_argument("--cells", type=int, default=CELLS, help="elements of the largest arrays; a GPU likes many")
    given, begun = parser.parse_args(), time.time()
    try:
        xp = import_module(given.library)
        put = partial(xp.asarray, device=given.device) if given.device else xp.asarray
        put(np.zeros(1))
    except Exception as error:  # what a library raises where it lacks a device is its own
        where = " on ".join(filter(None, (given.library, given.device)))
        parser.error(f"{where} cannot compute here: {' '.join(str(error).split())[:200]}")
    try:
        checker = Checker(read(given.certificate), read(given.weights), xp, put, given.cells)
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
