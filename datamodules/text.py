"""Text as tokens: a byte-level BPE trained on the trajectories themselves, or any Hugging Face tokenizer."""

import os
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from datamodules.tokens import END
from datamodules.vocabulary import Vocabulary
from tools import UserError

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
        tokens = [tokenizer.id_to_token(i) or f"[unused {i}]" for i in range(tokenizer.get_vocab_size())]
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
        return [self.vocabulary.tokens[i] for i in self.ids(text)]

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[str]) -> str:
        ids = [i for i in map(self.vocabulary.id, tokens) if i < self._size]
        return self.tokenizer.decode(ids, skip_special_tokens=False)

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
        """The tokenizer in a folder or file, or of that name on the Hugging Face hub."""
        from tokenizers import Tokenizer

        path = Path(name) / "tokenizer.json" if Path(name).is_dir() else Path(name)
        try:
            return cls(Tokenizer.from_file(str(path)) if path.is_file() else Tokenizer.from_pretrained(name))
        except Exception as error:  # the library raises plain Exceptions
            raise UserError(f"tokenizer {name!r} cannot be loaded ({' '.join(str(error).split())[:200]}): give a "
                            f"folder with a tokenizer.json, its path, or a name on the Hugging Face hub") from error
