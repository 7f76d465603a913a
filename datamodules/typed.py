"""What a file says as a dataclass: its types are checked by the command line's parser."""

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from jsonargparse import ArgumentError, ArgumentParser

from length_gen.tools import UserError

T = TypeVar("T")

QUOTES = "; a text that looks like a number, or like yes or no, needs quotes"


def typed(cls: type[T], content: Any, wrong: Callable[[str], UserError]) -> T:
    """The dataclass `cls` of a mapping's content. Raises what `wrong` makes of a line if its types are others.

    Text keys that look like numbers are taken as text. No value may be null: such a key is to be left out.
    """
    names = [field.name for field in fields(cls)]
    if not isinstance(content, dict) or not content:
        raise wrong(f"{str(content)[:200]} is not a table of {', '.join(names)}")
    content = {str(key): value for key, value in content.items()}
    if null := [key for key, value in content.items() if value is None]:  # the parser takes it for anything
        raise wrong(f"{null[0]} is null: give a value, or leave the key out")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls)
    try:
        values = parser.parse_object(content).as_dict()
    except ArgumentError as error:
        raise wrong(_short(" ".join(str(error).split()))) from error
    return cls(**values)


def _short(message: str) -> str:
    """What the parser says, without Python's names of things."""
    message = re.sub(r'Parser key "(\w+)"|<class \'([\w.]+\.)?(\w+)\'>|typing\.(?=Literal)', r"\1\3", message)
    if union := re.fullmatch(r"(\w+): Does not validate .* Subtypes: \[(.*?)\] Errors: .* Given value: (.*)", message):
        message = f"{union[1]}: Expected {union[2]}. Got value: {union[3]}"
    return message + QUOTES * ("Expected a str" in message)
