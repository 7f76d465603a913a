"""Vocabulary, packing and the shares of the stream, for any input."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.stream import ALIGNMENT, RankSampler, RowStream, collate
from datamodules.tasks import Addition, Copy, LogicalGraph
from datamodules.tokens import Kind
from datamodules.vocabulary import Vocabulary
from tools import UserError

TASKS = (Addition(5), Copy(4, "paper"), LogicalGraph(5))


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
@given(st.sampled_from(TASKS), st.integers(0, 2**40), st.integers(0, 2**40), st.integers(1, 12))
def test_packed_rows_are_whole_trajectories_and_one_that_is_cut(task, seed, index, blocks):
    size = blocks * ALIGNMENT
    (packed, kinds), (whole, whole_kinds) = (RowStream(task, seed, size, packed)[index] for packed in (True, False))
    assert len(packed) == len(kinds) == size + 1
    shared = min(len(packed), len(whole))
    assert np.array_equal(packed[:shared], whole[:shared]) and np.array_equal(kinds[:shared], whole_kinds[:shared])
    ends, starts = np.flatnonzero(kinds == Kind.END), np.flatnonzero((kinds[1:] == Kind.PROMPT)
                                                                    & (kinds[:-1] != Kind.PROMPT)) + 1
    assert kinds[0] == Kind.PROMPT and list(starts) == [end + 1 for end in ends if end < size]


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 300)), min_size=1, max_size=6))
def test_padding_keeps_every_row(rows):
    pairs = [(np.arange(first, first + length + 1), np.full(length + 1, Kind.THOUGHT, np.uint8))
             for first, length in rows]
    batch = collate(pairs)
    assert batch["tokens"].shape[1] % ALIGNMENT == 1
    for (tokens, kinds), got, got_kinds in zip(pairs, batch["tokens"], batch["kinds"], strict=True):
        assert got[: len(tokens)].tolist() == tokens.tolist() and got_kinds[: len(kinds)].tolist() == kinds.tolist()
        assert (got_kinds[len(kinds) :] == Kind.PADDING).all()


@given(st.integers(0, 2**40), st.lists(st.tuples(st.sampled_from([1, 2, 3, 4, 6, 8]), st.integers(0, 5)), max_size=5))
def test_any_numbers_of_ranks_in_turn_see_every_row_once(start, legs):
    """A run of 24 rows a step that is stopped and goes on with another number of ranks, again and again."""
    seen, begun = [], start
    for world, steps in legs:
        for rank in range(world):
            seen += itertools.islice(RankSampler(start, rank, world), steps * 24 // world)
        start += steps * 24
    assert sorted(seen) == list(range(begun, start))
