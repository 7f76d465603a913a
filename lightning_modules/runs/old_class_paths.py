"""Configurations of runs from before the suite had one import name."""

import re
from typing import Any

NAMES = {r"lightning_modules\.sharding\.": "length_gen.lightning_modules.training.sharding.",
         r"(?=(datamodules|lightning_modules)\.)": "length_gen."}
"""Beginnings of import paths, and what they are now; the first that fits counts."""


def renamed(content: Any) -> Any:
    """A configuration's content, its class paths as they are now."""
    if isinstance(content, list):
        return [renamed(part) for part in content]
    if not isinstance(content, dict):
        return content
    result = {key: renamed(value) for key, value in content.items()}
    if isinstance(path := result.get("class_path"), str):
        old = next((old for old in NAMES if re.match(old, path)), None)
        result["class_path"] = re.sub(f"^{old}", NAMES[old], path) if old else path
    return result
