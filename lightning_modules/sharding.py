"""Training a model that is sharded over the devices (FSDP2, PyTorch's `fully_shard`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard


class FullyShard(ModelParallelStrategy):
    """Every rank keeps a share of each parameter, its gradient and its optimizer state, and trains on its own rows.

    The parameters of a layer are gathered while it computes. Validations, tests and `whole` gather all of them once,
    so that ranks may roll out unequal numbers of problems. A checkpoint is one whole file, the same as without
    sharding, so that a run may go on with another number of devices, or with another strategy.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **options)
        self._units: list[tuple[nn.Module, bool]] = []

    def connect(self, model: LightningModule) -> None:
        model.configure_model = lambda: self.shard(model)  # the hook that Lightning asks for, for any module
        super().connect(model)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, model: LightningModule) -> None:
        """Shard the module's children, and in them the layers of every ModuleList, each as a unit of its own."""
        if self._units:
            return
        mesh = self.device_mesh["data_parallel"]
        for child in model.children():
            if any(parameter.requires_grad for parameter in child.parameters()):
                self._units += [(unit, unit is not child) for unit in units(child)]
        for unit, again in self._units:
            shard_unit(unit, mesh, again)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All parameters on every rank, for whatever ranks do without each other. All ranks must enter and leave."""
        self._gather()
        try:
            yield
        finally:
            self._scatter()

    @torch.inference_mode(False)  # Lightning evaluates in it, and its tensors cannot be freed outside
    def _gather(self) -> None:
        for unit, _ in self._units:
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()

    @torch.inference_mode(False)
    def _scatter(self) -> None:
        for unit, again in self._units:
            unit.set_reshard_after_forward(again, recurse=False)
            unit.reshard()

    def on_validation_start(self) -> None:
        self._gather()

    def on_validation_end(self) -> None:
        self._scatter()

    def on_test_start(self) -> None:
        self._gather()

    def on_test_end(self) -> None:
        self._scatter()


def units(module: nn.Module) -> list[nn.Module]:
    """The layers in a module's ModuleLists, not those within a layer, and last the module itself.

    A layer that is called part by part (a ModuleDict) has no forward pass of its own: its parameters are gathered with
    the module's.
    """
    layers = [layer for part in module.modules() if isinstance(part, nn.ModuleList) for layer in part]
    inner = {id(part) for layer in layers for part in layer.modules() if part is not layer}
    called = [layer for layer in layers if type(layer).forward is not nn.Module.forward]
    return [*(layer for layer in called if id(layer) not in inner), module]


def shard_unit(unit: nn.Module, mesh: DeviceMesh, again: bool) -> None:
    """Shard one unit; `again`: drop its parameters after the forward pass and gather them for the backward pass."""
    exempt = [name for name, parameter in unit.named_parameters() if getattr(parameter, "_no_weight_decay", False)]
    fully_shard(unit, mesh=mesh, reshard_after_forward=again)
    for name in exempt:  # the new parameters have lost the mark
        unit.get_parameter(name)._no_weight_decay = True
