import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from datamodules.text import END_OF_MESSAGE, TextCodec
from datamodules.tokens import END
from tools import UserError

CODEC = TextCodec.train(["sed -i 's/ f12(/&v10, /' f12.py", "Traceback (most recent call last)"] * 3, 320)


@settings(deadline=None)
@given(st.text())
def test_every_text_comes_back(text):
    assert CODEC.decode(CODEC.encode(text)) == text.encode("utf-8", "replace").decode()


def test_numbers_are_digits_and_special_tokens_cannot_be_written():
    assert [t for t in CODEC.encode("f123") if t.isdigit()] == ["1", "2", "3"]
    for special in (END, END_OF_MESSAGE):
        assert special in CODEC.vocabulary and special not in CODEC.encode(f"a {special} b")
        assert CODEC.decode(CODEC.encode(special)) == special


def test_whole_numbers_may_be_tokens():
    codec = TextCodec.train(["sed -i 's/ f12(/&v10, /' f12.py"] * 3, 2000, digits=3)
    assert all(codec.encode(f"f{number}")[-1] == str(number) for number in range(1000))
    assert [t for t in codec.encode("f12345(6)") if t.isdigit()] == ["123", "45", "6"]
    assert codec.decode(codec.encode("007 x 1000")) == "007 x 1000"
    with pytest.raises(UserError, match="1 to 4 digits"):
        TextCodec.train(["a"], 300, digits=0)


def test_tokens_are_those_of_the_tokenizer_in_order(tmp_path):
    CODEC.save(tmp_path / "tokenizer.json")
    for name in (tmp_path, tmp_path / "tokenizer.json"):
        again = TextCodec.load(str(name))
        assert again.vocabulary == CODEC.vocabulary
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "sed -i 's/ foo(/&v10, /' foo.py"
    assert list(CODEC.vocabulary.encode(CODEC.encode(text))) == tokenizer.encode(text).ids


def test_the_special_tokens_of_a_pretrained_tokenizer_are_taken(tmp_path):
    """As in GPT-NeoX's, which Pythia and Mamba use: <|endoftext|> ends, <|padding|> ends a message."""
    words = {"<|endoftext|>": 0, "<|padding|>": 1, "a": 2, "b": 3, "<unk>": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    codec = TextCodec.load(str(tmp_path))
    assert codec.vocabulary.tokens == (END, END_OF_MESSAGE, "a", "b", "<unk>")
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    assert TextCodec(tokenizer).vocabulary.tokens == ("a", "<unk>", END, END_OF_MESSAGE)


def test_bad_tokenizers_get_one_line(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded"):
        TextCodec.load(str(tmp_path))
    with pytest.raises(UserError, match="need 258"):
        TextCodec.train(["a"], 100)
