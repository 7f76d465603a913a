"""Networks behind one interface, `Backbone` (base.py); a configuration names the classes that are imported here.

    mamba.py, mamba2.py, mamba3.py, gated_delta_net.py, xlstm.py, recurrent.py, pythia.py, mistral.py, hybrid.py,
    suffix.py: a family each
    layered.py, attention.py: what several of them share
    selective_scan.py: the recurrence of Mamba-1; convolution.py: its convolution; scan_cpu.py, scan_cuda.py: compiled;
    library_kernels.py: those of mamba-ssm and causal-conv1d
    decoder.py: steps whose states stay in place, for rollouts; mamba_decode.py, mamba_layer.py: Mamba's
    pretrained.py, hugging_face.py, families.py, pretrained_files.py, low_rank.py: weights of others, LoRA,
    export
    cuda_kernels.py: compiles the .cu files

What rolls them out is decoding/, what trains them model.py.
"""

from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.lightning_modules.backbones.gated_delta_net import GatedDeltaNet
from length_gen.lightning_modules.backbones.hugging_face import HuggingFace
from length_gen.lightning_modules.backbones.hybrid import Hybrid
from length_gen.lightning_modules.backbones.mamba import Mamba
from length_gen.lightning_modules.backbones.mamba2 import Mamba2
from length_gen.lightning_modules.backbones.mamba3 import Mamba3
from length_gen.lightning_modules.backbones.mistral import Mistral
from length_gen.lightning_modules.backbones.pretrained import Pretrained
from length_gen.lightning_modules.backbones.pythia import Pythia
from length_gen.lightning_modules.backbones.recurrent import GRU, LSTM
from length_gen.lightning_modules.backbones.suffix import Suffix
from length_gen.lightning_modules.backbones.xlstm import XLSTM

__all__ = ["GRU", "LSTM", "XLSTM", "Backbone", "GatedDeltaNet", "HuggingFace", "Hybrid", "Mamba", "Mamba2", "Mamba3",
           "Mistral", "Pretrained", "Pythia", "Suffix"]
