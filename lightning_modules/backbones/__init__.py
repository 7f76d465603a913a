"""Backbones, one file each."""

from lightning_modules.backbones.base import Backbone
from lightning_modules.backbones.mamba import Mamba
from lightning_modules.backbones.suffix import Suffix

__all__ = ["Backbone", "Mamba", "Suffix"]
