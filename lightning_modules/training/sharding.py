"""Training a model that is sharded over the devices (FSDP2, PyTorch's `fully_shard`)."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer


class FullyShard(ModelParallelStrategy):
    """Every rank keeps a share of each parameter, its gradient and its optimizer state, and trains on its own rows.

    The parameters of a layer are gathered while it computes. Validations, tests and `whole` work on a copy that holds
    all of them, so that ranks may roll out unequal numbers of problems. A checkpoint is one whole file, the same as
    without sharding, so that a run may go on with another number of devices, or with another strategy.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **options)
        self._sharded: dict[str, nn.Module] = {}  # children of the LightningModule
        self._copies: dict[str, nn.Module] = {}  # the same without parameters, but while they are in use
        self._uses = 0
        self._exempt: list[str] = []  # parameters without weight decay

    def connect(self, model: LightningModule) -> None:
        """Shard the model when Lightning configures it."""
        model.configure_model = lambda: self.shard(model)  # the hook that Lightning asks for, for any module
        super().connect(model)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, model: LightningModule) -> None:
        """Shard the module's children, and in them the layers of every ModuleList, each as a unit of its own."""
        if self._sharded:
            return
        mesh = self.device_mesh["data_parallel"]
        for name, child in model.named_children():
            if any(parameter.requires_grad for parameter in child.parameters()):
                self._copies[name] = copy.deepcopy(child)
                empty(self._copies[name])
                self._exempt += [f"{name}.{own}" for own, parameter in child.named_parameters()
                                 if getattr(parameter, "_no_weight_decay", False)]
                shard_units(child, mesh)
                self._sharded[name] = child

    def setup_optimizers(self, trainer: Trainer) -> None:
        """Give parameters without weight decay their mark again: sharding has made new ones."""
        for name in self._exempt:
            self.lightning_module.get_parameter(name)._no_weight_decay = True
        super().setup_optimizers(trainer)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As the optimizer itself gives it, with the parameters numbered in its own order; empty but on rank 0."""
        state = get_optimizer_state_dict(self.model, getattr(optimizer, "optimizer", optimizer),
                                         options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        return renamed(state, {name: number for number, name in enumerate(parameters(state))}) if state else {}

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load model and optimizers; returns the rest. Raises what the model's `on_load_checkpoint` raises."""
        content = self.checkpoint_io.load_checkpoint(checkpoint_path)
        self.lightning_module.on_load_checkpoint(content)  # Lightning asks it too, but only once the weights are there
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, content.pop("state_dict"), options=options)
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        for optimizer, state in zip(self.optimizers, content.get("optimizer_states", ()), strict=False):
            own = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
            state = renamed(state, dict(zip(parameters(state), own, strict=True)))
            set_optimizer_state_dict(self.model, optimizer, state, options=options)
        return content

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All parameters on every rank, for whatever ranks do without each other. All ranks must enter and leave."""
        self._gather()
        try:
            yield
        finally:
            self._scatter()

    def _gather(self) -> None:
        self._uses += 1
        for name, child in self._sharded.items() if self._uses == 1 else ():
            fill(self._copies[name], child)
            setattr(self.lightning_module, name, self._copies[name])

    def _scatter(self) -> None:
        self._uses -= 1
        for name, child in self._sharded.items() if self._uses == 0 else ():
            setattr(self.lightning_module, name, child)
            empty(self._copies[name])

    def on_validation_start(self) -> None:
        self._gather()

    def on_validation_end(self) -> None:
        self._scatter()

    def on_test_start(self) -> None:
        self._gather()

    def on_test_end(self) -> None:
        self._scatter()


def shard_units(module: nn.Module, mesh: DeviceMesh) -> None:
    """`fully_shard` a module, and each of its `units` on its own, over the devices of `mesh`."""
    for unit in units(module):  # a layer is gathered again for the backward pass
        fully_shard(unit, mesh=mesh, reshard_after_forward=unit is not module)
        for method in getattr(unit, "forwards", ()):
            register_fsdp_forward_method(unit, method)


def units(module: nn.Module) -> list[nn.Module]:
    """The layers in a module's ModuleLists, not those within a layer, and last the module itself.

    A layer that is called part by part (a ModuleDict) has no forward pass of its own: its parameters are gathered with
    the module's. Other methods of a layer that training calls are named by its `forwards`.
    """
    layers = [layer for part in module.modules() if isinstance(part, nn.ModuleList) for layer in part]
    inner = {id(part) for layer in layers for part in layer.modules() if part is not layer}
    called = [layer for layer in layers if type(layer).forward is not nn.Module.forward]
    return [*(layer for layer in called if id(layer) not in inner), module]


def parameters(state: dict[str, Any]) -> list[Any]:
    """The names or numbers of an optimizer state's parameters, in its own order."""
    return [parameter for group in state["param_groups"] for parameter in group["params"]]


def renamed(state: dict[str, Any], names: dict[Any, Any]) -> dict[str, Any]:
    """An optimizer state whose parameters have other names."""
    return {"state": {names[old]: values for old, values in state["state"].items()},
            "param_groups": [{**group, "params": [names[old] for old in group["params"]]}
                             for group in state["param_groups"]]}


def empty(module: nn.Module) -> None:
    """Take the parameters' memory away."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(parameter.detach().to("meta"), requires_grad=False))


def fill(module: nn.Module, sharded: nn.Module) -> None:
    """Give an empty copy all parameters and buffers of the sharded module. All ranks must call it."""
    for part, source in zip(module.modules(), sharded.modules(), strict=True):
        for name, parameter in source.named_parameters(recurse=False):
            with torch.no_grad():
                setattr(part, name, nn.Parameter(parameter.full_tensor(), requires_grad=False))
        for name, buffer in source.named_buffers(recurse=False):
            setattr(part, name, buffer)
    module.train(sharded.training)
