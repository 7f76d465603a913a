"""What training has seen of the stream: trajectories by length, drawn and learnt, and tokens."""

from collections.abc import Sequence
from typing import Any

import torch

from length_gen.datamodules.stream import VERSION


class TrainingCounts:
    """Counts what training has seen: trajectories by variant and length, drawn and whole, and tokens.

    counts: int64 [variants * (max_length + 1) * 2 + 2]: drawn and whole for each variant and length, then tokens with
            and without padding; all of it over all ranks together
    """

    def __init__(self, variants: Sequence[str], max_length: int) -> None:
        self.version, self._variants, self._lengths = VERSION, list(variants), max_length + 1
        self.counts = torch.zeros(len(self._variants) * self._lengths * 2 + 2, dtype=torch.int64)

    def add(self, batch: dict[str, torch.Tensor]) -> None:
        """Count a batch of `BatchStream`, on the host."""
        lengths = batch["lengths"].clamp(max=self._lengths - 1)
        cells = (batch["variants"] * self._lengths + lengths) * 2
        self.counts += torch.bincount(cells, minlength=len(self.counts))
        self.counts += torch.bincount(cells[batch["whole"]] + 1, minlength=len(self.counts))
        self.counts[-2:] += batch["size"]

    def summary(self) -> dict[str, Any]:
        """For metrics.json: version of the stream, trajectories and tokens, shares of padding and of what was cut, and
        by variant and length the shares of the trajectories that were drawn and that were learnt whole."""
        cells = self.counts[:-2].view(len(self._variants), self._lengths, 2)
        drawn, whole = cells.sum((0, 1)).tolist()
        padded, tokens = self.counts[-2:].tolist()
        if not drawn:
            return {"version": self.version}
        shares = {variant: {str(length): [round(own[0] / drawn, 5), round(own[1] / max(1, whole), 5)]
                            for length, own in enumerate(cells[i].tolist()) if own[0]}
                  for i, variant in enumerate(self._variants) if cells[i].any()}
        return {"version": self.version, "trajectories": drawn, "tokens": tokens,
                "padding_share": round(1 - tokens / padded, 5), "cut_share": round(1 - whole / drawn, 5),
                "drawn_and_learnt": shares}

    def markdown(self) -> str:
        """The summary as a table."""
        facts = self.summary()
        lines = [f"| {name} | {value:,} |" for name, value in facts.items() if name != "drawn_and_learnt"]
        lines += [f"| {' '.join(filter(None, (variant, length)))} | {drawn:.2%} drawn, {learnt:.2%} learnt whole |"
                  for variant, shares in facts.get("drawn_and_learnt", {}).items()
                  for length, (drawn, learnt) in shares.items()]
        return "\n".join(["| what was trained on | |", "|---|---|", *lines])
