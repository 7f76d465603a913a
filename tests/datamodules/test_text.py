import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from length_gen.datamodules.text import END_OF_MESSAGE, IDS, LARGEST, TextCodec
from length_gen.datamodules.tokens import END
from length_gen.tools import UserError

CODEC = TextCodec.train(["sed -i 's/ f12(/&v10, /' f12.py", "Traceback (most recent call last)"] * 3, 320)


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


def written(folder, **changes):
    """The trained tokenizer's file, with changes in it."""
    content = json.loads(CODEC.tokenizer.to_str())
    (folder / "tokenizer.json").write_text(json.dumps(content | changes))
    return str(folder)


MODEL = json.loads(CODEC.tokenizer.to_str())["model"]
GROWING = {
    "normalizer": [[{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 30,
                   [{"type": "Replace", "pattern": {"Regex": "e*"}, "content": "x" * 2000}],
                   [{"type": "Replace", "pattern": {"String": ""}, "content": "x" * 2000}],
                   [{"type": "Prepend", "prepend": "x" * 2000}], [{"type": "ByteLevel"}] * 40,
                   [{"type": "Precompiled", "precompiled_charsmap": base64.b64encode(
                       b"\4\0\0\0\0\0\0\0" + b"x" * 2000 + b"\0").decode()}]],
    "pre_tokenizer": [[{"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                        "use_regex": False}] * 40],
    "decoder": [[{"type": "BPEDecoder", "suffix": ""}] * 40,
                [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 30],
    "post_processor": [[{"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2000,
                         "pair": [], "special_tokens": {}}]],
}
SEQUENCES = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders",
             "post_processor": "processors"}


@pytest.mark.parametrize(("key", "parts"), [(key, parts) for key, cases in GROWING.items() for parts in cases])
def test_a_tokenizer_that_makes_texts_any_longer_is_refused(key, parts, tmp_path):
    with pytest.raises(UserError, match=r"cannot be loaded .it may make a text more than 1,024 times longer"):
        TextCodec.load(written(tmp_path, **{key: {"type": "Sequence", SEQUENCES[key]: parts}}))


@pytest.mark.parametrize(("changes", "words"), [
    ({"model": MODEL | {"vocab": MODEL["vocab"] | {"zz": 10**9}}}, "ids up to 1,000,000,000 is not possible"),
    ({"model": {"type": "WordLevel", "vocab": {"a": 0, "b": IDS}, "unk_token": "a"}, "decoder": None}, "ids up to"),
    ({"model": MODEL | {"merges": [["a", "b"], ["ab", "a"], ["b", "ab"]]}}, "out of vocabulary"),
    ({"model": MODEL | {"continuing_subword_prefix": "x" * 10**6}}, "more than 100 characters"),
    ({"model": {"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 10**9, "vocab": {"a": 0}}}, "more than 1,000"),
    ({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a" * 2**20, 0.0]] * 9}}, "9,437,184 bytes together"),
    ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}}, "charsmap is cut off"),
    ({"normalizer": {"pattern": {"String": "a"}, "content": "aa"}}, "no type"), ({"decoder": [1]}, "no type"),
    ({"model": []}, "cannot be loaded"), ({"normalizer": {"type": "Replace"}}, "cannot be loaded")])
def test_a_tokenizer_that_would_take_any_memory_or_time_is_refused(changes, words, tmp_path):
    with pytest.raises(UserError, match=words):
        TextCodec.load(written(tmp_path, **changes))


def test_a_tokenizers_file_of_any_size_or_depth_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": ' + "[" * 10**5)
    with pytest.raises(UserError, match="nested too deeply"):
        TextCodec.load(str(tmp_path))
    with open(path, "wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(UserError, match="bytes, and at most"):
        TextCodec.load(str(tmp_path))


@pytest.mark.parametrize("part", [{"pattern": {"Regex": "(?:x+x+)+y"}, "type": "Split", "behavior": "Isolated",
                                   "invert": False}, {"type": "FixedLength", "length": 0}])
def test_a_tokenizer_that_gives_up_gets_one_line(part, tmp_path):
    codec = TextCodec.load(written(tmp_path, pre_tokenizer=part))
    with pytest.raises(UserError, match="the tokenizer gives up"):
        codec.ids("x" * 30)


def test_no_text_is_cut_or_padded(tmp_path):
    padding = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
               "pad_type_id": 0, "pad_token": "[PAD]"}
    truncation = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    text = "Traceback (most recent call last) of a text"
    assert TextCodec.load(written(tmp_path, padding=padding, truncation=truncation)).ids(text) == CODEC.ids(text)


def test_ids_may_have_holes(tmp_path):
    model = {"type": "WordLevel", "vocab": {"a": 0, "b": 3}, "unk_token": "a"}
    codec = TextCodec.load(written(tmp_path, model=model, added_tokens=[], decoder=None, pre_tokenizer=None))
    assert codec.vocabulary.tokens == ("a", "[unused 1]", "[unused 2]", "b", END, END_OF_MESSAGE)
    assert codec.encode("b") == ["b"] and codec.decode(["b"]) == "b"


@pytest.mark.parametrize("changes", [
    {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
     "decoder": {"type": "Sequence", "decoders": [
         {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
         {"type": "Fuse"},
         {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}},
    {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}, {"type": "Lowercase"}]},
     "post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel", "add_prefix_space": True,
                                                            "trim_offsets": True, "use_regex": True}]}},
    {"normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                    "lowercase": True}, "pre_tokenizer": {"type": "BertPreTokenizer"}}])
def test_the_parts_of_tokenizers_in_use_are_taken(changes, tmp_path):
    """Llama's, CLIP's and BERT's."""
    assert len(TextCodec.load(written(tmp_path, **changes)).ids("a text")) > 0
