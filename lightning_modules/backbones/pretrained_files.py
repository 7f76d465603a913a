"""Pretrained weights on disk and on the Hugging Face hub: config.json beside safetensors or PyTorch files.

The checkpoints of this suite's own runs are read in runs/checkpoints.py.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from length_gen.tools import UserError
from length_gen.tools.files import atomic_path, read_json

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Names of the file with the weights, or of the list of the files with them, the first that is there."""


def find_folder(name: str) -> Path:
    """The folder `name`, or the hub's files of that name in its local cache, fetched if they are not there.

    Raises UserError if it is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"there is no folder {name}: give one with a config.json and {WEIGHTS[0]} or {WEIGHTS[2]}, or "
                        f"a name on the Hugging Face hub such as state-spaces/mamba-130m")
    hub = required("huggingface_hub")
    try:
        folder = Path(hub.snapshot_download(name, allow_patterns=["config.json", "*.safetensors", WEIGHTS[1]]))
        if not any((folder / file).is_file() for file in WEIGHTS[:2]):
            hub.snapshot_download(name, allow_patterns=["config.json", "pytorch_model*"])
    except Exception as error:  # whatever the hub's client raises: no network, no such name, no access
        raise UserError(f"cannot get {name} from the Hugging Face hub ({type(error).__name__}): is the name right and "
                        f"the network up? Or give a local folder with its config.json and {WEIGHTS[0]} or "
                        f"{WEIGHTS[2]}") from error
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """Content of config.json; raises UserError if it is missing or broken."""
    path = folder / "config.json"
    try:
        config = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{folder} holds no config.json: expected one beside {WEIGHTS[0]} or {WEIGHTS[2]}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not JSON ({error}): get the file again") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is no configuration: expected a JSON object")
    return config


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, on the CPU; raises UserError if there are none or a file is broken."""
    found = next((folder / file for file in WEIGHTS if (folder / file).is_file()), None)
    if found is None:
        raise UserError(f"{folder} holds no weights: expected {' or '.join(WEIGHTS[::2])}")
    files = [found]
    if found.suffix == ".json":
        try:
            files = [folder / Path(file).name for file in sorted(set(read_json(found)["weight_map"].values()))]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{found} is no list of files with weights ({type(error).__name__}): get the file again"
                            ) from error
    weights: dict[str, Tensor] = {}
    for file in files:
        try:
            if file.suffix == ".safetensors":
                weights |= required("safetensors.torch").load_file(file)
            else:
                weights |= torch.load(file, map_location="cpu", weights_only=True)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{file} cannot be read ({type(error).__name__}): get the file again") from error
    return weights


def check_new(folder: Path) -> None:
    """Raises UserError if the folder holds a model."""
    if any((folder / file).exists() for file in ("config.json", *WEIGHTS)):
        raise UserError(f"{folder} holds a model, which stays as it is: give another folder")


def write_folder(folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Write config.json and model.safetensors; raises UserError if the folder holds a model already."""
    check_new(folder)
    save = required("safetensors.torch").save_file
    with atomic_path(folder / WEIGHTS[0]) as path:
        save({name: tensor.detach().contiguous().cpu() for name, tensor in weights.items()}, path, {"format": "pt"})
    _write_json(folder / "config.json", config)


def write_tokens(folder: Path, tokens: list[str]) -> None:
    """Write tokens.json, the vocabulary: a token's id is its place in the list."""
    _write_json(folder / "tokens.json", tokens)


def _write_json(path: Path, content: Any) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def required(module: str):
    """A module of the extra `hf`; raises UserError that says how to install it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"this needs {module.split('.')[0]}: pip install -e '.[hf]'") from error
