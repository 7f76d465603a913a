"""The text of an agent's first messages: names in it are filled in, and nothing in it is run."""

import re
from collections.abc import Mapping

from length_gen.tools.errors import UserError

NAMES = ("task", "cwd", "system", "release", "version", "machine")
"""What `{{name}}` can stand for: what the agent should do, its folder, and its machine as `uname` tells it."""

_PLACE = re.compile(r"\{\{\s*(\w+)\s*\}\}|\{[{%#]")


def fill(text: str, values: Mapping[str, str]) -> str:
    """`text` with the value of every `{{name}}`, a name of `NAMES`; lines end in \\n, and one at the very end goes.

    Text comes with fetched trajectories, so it is no template of any language. Raises UserError for other names and
    for expressions, statements and comments of jinja.
    """
    def value(place: re.Match) -> str:
        if place[1] not in NAMES:
            raise UserError(f"{text[place.start():place.start() + 40]!r} is not possible in the text of a message: "
                            f"expected {', '.join(f'{{{{{name}}}}}' for name in NAMES)} and no expressions, "
                            f"statements or comments of a template")
        return values[place[1]]

    return _PLACE.sub(value, re.sub(r"\r\n?", "\n", text).removesuffix("\n"))
