import pytest
from hypothesis import given
from hypothesis import strategies as st

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
