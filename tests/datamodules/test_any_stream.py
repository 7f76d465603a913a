"""Vocabulary, packing and the shares of the stream, for any input."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from length_gen.datamodules.stream import ALIGNMENT, Counting, Item, collate, pack
from length_gen.datamodules.tokens import Kind
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.tools import UserError


@given(st.lists(st.text(), unique=True, min_size=1), st.data())
def test_a_vocabulary_gives_back_what_it_encodes(tokens, data):
    vocabulary = Vocabulary(tokens)
    said = data.draw(st.lists(st.sampled_from(tokens)))
    assert vocabulary.decode(vocabulary.encode(said)) == said
    assert [vocabulary.id(token) for token in tokens] == list(range(len(vocabulary)))
    assert Vocabulary(vocabulary.tokens) == vocabulary
    unknown = data.draw(st.text().filter(lambda token: token not in tokens))
    with pytest.raises(UserError, match="unknown token"):
        vocabulary.encode([*said, unknown])
    with pytest.raises(UserError, match="given twice"):
        Vocabulary([*tokens, data.draw(st.sampled_from(tokens))])


@settings(max_examples=40)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(0, 200))
def test_packed_rows_hold_everything_once_and_none_could_hold_another(sizes, more):
    capacity = max(sizes) + more
    rows = pack(sizes, capacity)
    assert sorted(itertools.chain(*rows)) == list(range(len(sizes))) and all(row == sorted(row) for row in rows)
    filled = sorted(sum(sizes[i] for i in row) for row in rows)
    assert filled[-1] <= capacity
    assert len(rows) == 1 or filled[0] + filled[1] > capacity  # best fit opens no row for what another could take


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 300)), min_size=1, max_size=6), st.booleans(),
       st.booleans(), st.integers(1, 300))
def test_padding_and_cuts_keep_the_rest_of_every_item(items, packed, cut, row_length):
    made = [Item(np.arange(first, first + length + 1), np.full(length + 1, Kind.THOUGHT, np.uint8), 0, "")
            for first, length in items]
    batch = collate(made, row_length, packed, cut)
    assert batch["tokens"].shape[1] % ALIGNMENT == 1
    kept = [item.ids[: row_length + 1] if cut else item.ids for item in made]
    assert batch["whole"].tolist() == [len(ids) == len(item.ids) for ids, item in zip(kept, made, strict=True)]
    rows = [row[kinds != Kind.PADDING] for row, kinds in zip(batch["tokens"], batch["kinds"], strict=True)]
    if not packed:
        assert [row.tolist() for row in rows] == [ids.tolist() for ids in kept]
    assert sorted(torch.cat(rows).tolist()) == sorted(np.concatenate(kept).tolist())


@given(st.integers(0, 2**40), st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5)), max_size=5))
def test_a_run_that_is_stopped_again_and_again_skips_and_repeats_nothing(start, legs):
    """Also where it goes on with another number of trajectories a batch."""
    seen, begun = [], start
    for size, steps in legs:
        for first in itertools.islice(Counting(lambda: start, size), steps):  # noqa: B023 (used at once)
            seen += range(first, first + size)
        start += steps * size
    assert seen == list(range(begun, start))
