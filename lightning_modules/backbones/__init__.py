"""Backbones, one file each."""

from lightning_modules.backbones.base import Backbone
from lightning_modules.backbones.hugging_face import HuggingFace
from lightning_modules.backbones.hybrid import Hybrid
from lightning_modules.backbones.mamba import Mamba
from lightning_modules.backbones.mamba2 import Mamba2
from lightning_modules.backbones.mamba3 import Mamba3
from lightning_modules.backbones.mistral import Mistral
from lightning_modules.backbones.pretrained import Pretrained
from lightning_modules.backbones.pythia import Pythia
from lightning_modules.backbones.recurrent import GRU, LSTM
from lightning_modules.backbones.suffix import Suffix

__all__ = ["GRU", "LSTM", "Backbone", "HuggingFace", "Hybrid", "Mamba", "Mamba2", "Mamba3", "Mistral", "Pretrained",
           "Pythia", "Suffix"]
