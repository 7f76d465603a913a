"""A backbone that starts from pretrained weights, trained in full or by low-rank updates; and its way back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from length_gen.lightning_modules.backbones.base import Backbone, State
from length_gen.lightning_modules.backbones.decoder import Decoder
from length_gen.lightning_modules.backbones.families import Config, Family, family_of, recognise
from length_gen.lightning_modules.backbones.hugging_face import HuggingFace
from length_gen.lightning_modules.backbones.low_rank import add_low_rank, merged_state_dict
from length_gen.lightning_modules.backbones.pretrained_files import (
    check_new,
    find_folder,
    read_config,
    read_weights,
    write_folder,
    write_tokens,
)
from length_gen.tools import UserError


class Pretrained(Backbone):
    """The Mamba, Mamba2, Pythia or Mistral that a folder or the Hugging Face hub holds; its shape comes from there.

    Args:
        vocab_size: number of tokens
        name: folder with a config.json and model.safetensors or pytorch_model.bin, or a name on the hub:
            state-spaces/mamba-130m, state-spaces/mamba2-130m, EleutherAI/pythia-160m, or the like
        resize: whether to fit an embedding of another size to the vocabulary: its first rows are kept, rows that are
            missing are drawn around their mean; without it another size is refused
        lora_rank: rank of the low-rank updates that alone are trained (LoRA); null: all weights are trained
        lora_alpha: the updates are scaled by lora_alpha / lora_rank
        lora_targets: names of the linear maps that are updated, such as in_proj; null: all but the head
    """

    def __init__(self, vocab_size: int, name: str, resize: bool = False, lora_rank: int | None = None,
                 lora_alpha: float = 32.0, lora_targets: list[str] | None = None) -> None:
        super().__init__(vocab_size)
        self.name, self.lora_rank = name, lora_rank
        self.model, resized = load_pretrained(name, vocab_size, resize)
        self.capturable = self.model.capturable
        if lora_rank is not None:
            add_low_rank(self.model, lora_rank, lora_alpha, lora_targets)
            if resized:  # rows that mean something else now must be learnt
                for part in (self.model.parts[0], self.model.parts[3]):
                    part.requires_grad_(True)

    @property
    def description(self) -> str:
        lora = "" if self.lora_rank is None else f", lora {self.lora_rank}"
        return f"{self.model.description} from {Path(self.name).name}{lora}"

    def initial_state(self, batch_size: int) -> State:
        return self.model.initial_state(batch_size)

    def reserve(self, state: State, length: int) -> State:
        return self.model.reserve(state, length)

    def forward(self, tokens: Tensor, state: State | None = None, return_state: bool = True) -> tuple[Tensor, State]:
        return self.model(tokens, state, return_state)

    def logits_at(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        return self.model.logits_at(tokens, chosen)

    def prefill(self, tokens: Tensor, state: State) -> State:
        return self.model.prefill(tokens, state)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        return self.model.step(tokens, state)

    def decoder(self, rows: int, length: int, weights: torch.dtype = torch.float32,
                states: torch.dtype = torch.float32) -> Decoder:
        return self.model.decoder(rows, length, weights, states)

    def state_size(self, length: int) -> int:
        return self.model.state_size(length)


def load_pretrained(name: str, vocab_size: int, resize: bool = False) -> tuple[Backbone, bool]:
    """The model of a folder or of the hub, and whether its vocabulary was resized; see `Pretrained`.

    Raises UserError for a model that the suite has not, for weights that are not of its config.json, and for a
    vocabulary of another size without `resize`.
    """
    folder = find_folder(name)
    family, settings = recognise(read_config(folder), name)
    weights = family.own(read_weights(folder))
    embedding = weights.get(family.embedding[1])
    if embedding is None:
        raise UserError(f"{name} has no weights called {family.embedding[0]}: expected those of a {family.model_type}")
    rows = len(embedding)
    if rows != vocab_size and not resize:
        more = " and add the missing ones" if rows < vocab_size else ""
        raise UserError(f"the vocabulary of {vocab_size} tokens is not that of {name}, whose embedding has {rows} "
                        f"rows: give --model.backbone.init_args.resize true to keep its first {min(rows, vocab_size)} "
                        f"rows{more}, or another model")
    tied = family.head not in weights or torch.equal(weights[family.head], embedding)
    weights[family.embedding[1]] = _rows(embedding, vocab_size)
    if tied:
        weights[family.head] = weights[family.embedding[1]]
    else:
        weights[family.head] = _rows(weights[family.head], vocab_size)
    net = _build(family, vocab_size, settings, tied)
    own = net.state_dict()
    wrong = [k for k in own.keys() | weights.keys() if k not in own or k not in weights
             or own[k].shape != weights[k].shape]
    if wrong:
        raise UserError(f"the weights of {name} are not those of its config.json: {len(wrong)} tensors differ, such as "
                        f"{min(wrong)}; get the folder again")
    net.load_state_dict(weights)
    return net, rows != vocab_size


def _build(family: Family, vocab_size: int, settings: Config, tied: bool) -> Any:
    if family.head == "lm_head.weight":
        return family.backbone(vocab_size, **settings, tie_embeddings=tied)
    return family.backbone(vocab_size, **settings)


def _rows(matrix: Tensor, rows: int) -> Tensor:
    """The first rows of a matrix, followed by random ones of its mean and deviation where it has too few."""
    missing = max(0, rows - len(matrix))
    matrix = matrix.float()
    new = matrix.mean(0) + matrix.std(0) * torch.randn(missing, matrix.shape[1])
    return torch.cat([matrix[:rows], new])


def export(backbone: Backbone, folder: str | Path, tokens: Sequence[str]) -> str:
    """Write a backbone in transformers' format; returns the name of the class that loads it.

    tokens: of its vocabulary, in order

    Raises UserError if transformers has no such model, or the folder holds one already.
    """
    folder = Path(folder)
    if isinstance(backbone, HuggingFace):
        check_new(folder)
        backbone.model.save_pretrained(folder, state_dict=merged_state_dict(backbone.model))
        write_tokens(folder, list(tokens))
        return type(backbone.model).__name__
    net = backbone.model if isinstance(backbone, Pretrained) else backbone
    family = family_of(net)
    embedding, _, _, head = net.parts
    tied = head.weight is embedding.weight
    config = {"architectures": [family.architecture], "model_type": family.model_type, **family.needs,
              **family.config(net), "vocab_size": net.vocab_size, "tie_word_embeddings": tied,
              "torch_dtype": str(embedding.weight.dtype).removeprefix("torch."), "bos_token_id": None,
              "eos_token_id": 0, "pad_token_id": None}
    theirs, own = family.embedding
    weights = {theirs if name == own else name: tensor for name, tensor in merged_state_dict(net).items()
               if not (tied and name == family.head)}
    write_folder(folder, config, weights)
    write_tokens(folder, list(tokens))
    return family.architecture
