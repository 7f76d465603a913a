"""Text as tokens: a byte-level BPE trained on the trajectories themselves, or any Hugging Face tokenizer."""

import base64
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from length_gen.datamodules.tokens import END
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.tools import UserError
from length_gen.tools.files import read_json

T = TypeVar("T")

UNIGRAM = 2**23
"""Most bytes of all tokens of a unigram model, which takes some hundred bytes of memory for each."""

LARGEST, IDS, GROWTH = 2**26, 2**20, 1024
"""Most bytes of a tokenizer.json, most ids, and most characters that one character of a text may become before it is
cut into tokens, or after them; the largest in use have 33 MB, 262,144 ids, and 54."""

END_OF_MESSAGE = "[EOM]"
"""Token after every message of an agent's trajectory."""

_END_NAMES = ("<|endoftext|>", "</s>", "<|end_of_text|>")
_MESSAGE_NAMES = ("<|padding|>", "<|im_end|>", "<|eot_id|>")


class TextCodec:
    """A tokenizer of the tokenizers library whose tokens are those of a `Vocabulary`, in the order of its ids.

    END and END_OF_MESSAGE are two special tokens of the tokenizer, or two more at its end. Text never encodes to them,
    whatever it says.
    """

    end_of_message = END_OF_MESSAGE

    def __init__(self, tokenizer) -> None:
        self.tokenizer = tokenizer
        tokenizer.encode_special_tokens = True  # what looks like a special token in a text is text
        tokenizer.no_padding()
        tokenizer.no_truncation()
        count = max(tokenizer.get_vocab().values(), default=-1) + 1
        if count > IDS:
            raise UserError(f"a tokenizer with ids up to {count - 1:,} is not possible: expected at most {IDS:,} ids")
        tokens = [tokenizer.id_to_token(i) or f"[unused {i}]" for i in range(count)]
        self._size = len(tokens)
        for special, names in ((END, _END_NAMES), (END_OF_MESSAGE, _MESSAGE_NAMES)):
            if special not in tokens:
                place = next((tokens.index(name) for name in names if name in tokens), None)
                if place is None:
                    tokens.append(special)
                else:
                    tokens[place] = special
        self.vocabulary = Vocabulary(tokens)

    def encode(self, text: str) -> list[str]:
        """The tokens of a text. Raises UserError where the tokenizer gives up."""
        return [self.vocabulary.tokens[i] for i in self.ids(text)]

    def ids(self, text: str) -> list[int]:
        """Their ids. Raises UserError where the tokenizer gives up."""
        return _asked(lambda: self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[str]) -> str:
        """The text of tokens; END and END_OF_MESSAGE are left out where the tokenizer does not have them."""
        ids = [i for i in map(self.vocabulary.id, tokens) if i < self._size]
        return _asked(lambda: self.tokenizer.decode(ids, skip_special_tokens=False))

    def save(self, path: str | Path) -> None:
        """Write the tokenizer as a tokenizer.json, which `load` reads; at once or not at all."""
        temporary = Path(path).with_name(f".{Path(path).name}.{os.getpid()}")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(temporary))
        temporary.replace(path)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, digits: int = 1) -> "TextCodec":
        """A byte-level BPE whose tokens may be whole lines, but for numbers: up to `digits` digits are one token.

        What agents and tools say over and over becomes a few tokens. With digits 1 a name such as f123 is copied digit
        by digit; with 3 at once, which leaves no doubt where two names begin alike, but takes 1,110 tokens more.
        """
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

        if vocab_size < 258:
            raise UserError(f"vocab_size {vocab_size} is not possible: 256 bytes and 2 special tokens need 258")
        if not 1 <= digits <= 4:
            raise UserError(f"digits {digits} is not possible: expected 1 to 4 digits in one token")
        numbers = [str(number) for number in range(10**digits)] * (2 if digits > 1 else 0)
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(rf"\d{{1,{digits}}}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.train_from_iterator(chain(texts, numbers), trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=[END, END_OF_MESSAGE], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        return cls(tokenizer)

    @classmethod
    def load(cls, name: str) -> "TextCodec":
        """The tokenizer in a folder or file, or of that name on the Hugging Face hub.

        Raises UserError for what the library cannot load, and for what would take any memory or time in use.
        """
        from tokenizers import Tokenizer

        path = Path(name) / "tokenizer.json" if Path(name).is_dir() else Path(name)
        try:
            content = read_json(path if path.is_file() else _from_hub(name), LARGEST)
            check_tokenizer(content)
            # What has been checked, where the library could take another of two equal keys.
            return _asked(lambda: cls(Tokenizer.from_str(json.dumps(content))))
        except Exception as error:  # the library raises plain Exceptions
            raise UserError(f"tokenizer {name!r} cannot be loaded ({' '.join(str(error).split())[:200]}): give a "
                            f"folder with a tokenizer.json, its path, or a name on the Hugging Face hub") from error


def check_tokenizer(content: Any) -> None:
    """Raises ValueError, or what Python raises for another type, if a tokenizer.json makes texts many times longer, or
    has a model that compares very long words.

    The library aborts the process where its memory ends, so this is checked before.
    """
    if long := [key for key, value in content["model"].items() if isinstance(value, str) and len(value) > 100]:
        raise ValueError(f"its model's {long[0]} has more than 100 characters")
    if (most := content["model"].get("max_input_chars_per_word") or 0) > 1000:
        raise ValueError(f"its model's max_input_chars_per_word {most} is more than 1,000")
    vocabulary = content["model"].get("vocab")
    if isinstance(vocabulary, list) and (size := sum(len(token.encode()) for token, _ in vocabulary)) > UNIGRAM:
        raise ValueError(f"the tokens of its model have {size:,} bytes together, more than {UNIGRAM:,}")
    parts, growth = [content.get(key) for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder")], []
    while parts:
        if (part := parts.pop()) is None:
            continue
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise ValueError("one of its parts has no type")
        for key in ("normalizers", "pretokenizers", "processors", "decoders"):
            parts += part.get(key) or []
        growth.append(_growth(part))
    if math.prod(growth) > GROWTH:
        raise ValueError(f"it may make a text more than {GROWTH:,} times longer")


def _from_hub(name: str) -> str:
    from huggingface_hub import hf_hub_download  # as the library itself

    return hf_hub_download(name, "tokenizer.json")


def _growth(part: dict[str, Any]) -> int:
    """How many characters one character of a text may become by a part of a tokenizer."""
    kind = part["type"]
    if kind == "Replace":
        pattern, content = part["pattern"], len(part["content"])
        plain = pattern.get("String")
        return max(1, math.ceil(content / len(plain)) if plain else content + 1)  # a regex may match what is empty
    if kind == "Precompiled":
        table = base64.b64decode(part["precompiled_charsmap"])
        size = 4 + int.from_bytes(table[:4], "little")
        if not 4 < size < len(table):
            raise ValueError("its precompiled_charsmap is cut off")
        return max(map(len, table[size:].split(b"\0")))  # what characters become, each ended by a zero
    if kind == "TemplateProcessing":
        return max(1, sum("Sequence" in piece for piece in part["single"]))
    if kind == "Prepend":
        return max(1, len(part["prepend"]))
    return {"ByteLevel": 2, "BPEDecoder": 2, "CTC": 2, "BertNormalizer": 3}.get(kind, 1)


def _asked(ask: Callable[[], T]) -> T:
    """What the library says; UserError where its code gives up, which is no Exception."""
    try:
        return ask()
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise UserError(f"the tokenizer gives up ({' '.join(str(error).split())[:200]}): give another") from error
