"""A configuration is a program: what one may import that is found beside a checkpoint, and not named by the user."""

from collections.abc import Iterable
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader, set_parsing_settings

from length_gen.tools import UserError
from length_gen.tools.files import check_yaml

TRUSTED = ("length_gen", "lightning.pytorch", "lightning.fabric")
"""Packages of which any configuration may name classes and functions."""


def import_only(packages: Iterable[str] = ()) -> None:
    """From here on, in this process, configurations may name classes and functions of `TRUSTED` and `packages` alone.

    All else is refused before it is imported, wherever it stands in a configuration, and nothing is built where any
    value is allowed; nor may aliases make a file that it names any larger. Packages that were given before stay. Raises
    UserError for what is no name of a package.
    """
    load = get_loader("yaml")

    def bounded(text: str) -> Any:
        if "&" in text:
            try:
                check_yaml(text)
            except ValueError as error:
                raise yaml.YAMLError(str(error)) from error
        return load(text)

    set_loader("yaml", bounded, (yaml.YAMLError,))
    try:
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=[*TRUSTED, *packages],
                             instantiate_subclass_spec_in_any=False)
    except ValueError as error:
        raise UserError(f"--trusted_packages {','.join(packages)} is not possible ({error}): expected names of "
                        f"packages with commas between, such as my_tasks,my_backbones") from error
