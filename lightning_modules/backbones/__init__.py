"""Sequence models behind one interface, one file each."""

from lightning_modules.backbones.base import Backbone
from lightning_modules.backbones.mamba import Mamba

__all__ = ["Backbone", "Mamba"]
