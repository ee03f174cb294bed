"""The parts of the schema's sections: keys with a tag and a meaning, and types that several sections use."""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from phalanx.configs.text.encodings import has_control

Tag = Literal["experiment", "hardware", "bookkeeping"]


def _key(tag: Tag, default: Any, meaning: str, **constraints: Any) -> Any:
    return Field(default, description=meaning, json_schema_extra={"tag": tag}, **constraints)


def experiment(default: Any, meaning: str, **constraints: Any) -> Any:
    return _key("experiment", default, meaning, **constraints)


def hardware(default: Any, meaning: str, **constraints: Any) -> Any:
    return _key("hardware", default, meaning, **constraints)


def bookkeeping(default: Any, meaning: str, **constraints: Any) -> Any:
    return _key("bookkeeping", default, meaning, **constraints)


def _whole(value: Any) -> Any:
    """Reads `1e5` and `1_000` as integers; leaves everything else to pydantic."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?[eE]\+?[0-9]{1,2}", value.strip()):
        number = float(value)
        return int(number) if number.is_integer() else value
    return value


def divisors(number: int) -> list[int]:
    """All of them, the smallest first, in the time of a square root."""
    low = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return low + [number // d for d in reversed(low) if d * d != number]


def _run_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", value):
        raise ValueError("a folder's name: letters, digits, '.', '_' and '-', at most 128, a letter or digit first")
    return value


Int = Annotated[int, BeforeValidator(_whole), Field(ge=-(2**63), lt=2**63)]
Factor = Annotated[float, Field(gt=0)]
RunName = Annotated[str, AfterValidator(_run_name)]
REQUIRED = ...


class Section(BaseModel):
    """A group of keys. Frozen, without other keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _one_line(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses a second line, which would be a command in a batch script, and empty text instead of null."""
        if info.field_name != "options" and _has_control(value):
            raise ValueError("text of one line, without control characters")
        if value == "" and cls.model_fields[str(info.field_name)].default is None:
            raise ValueError("text that is not empty, or null")
        return value


def _has_control(value: Any) -> bool:
    if isinstance(value, str):
        return has_control(value)
    if isinstance(value, dict):
        return any(_has_control(part) for pair in value.items() for part in pair)
    return isinstance(value, list | tuple) and any(map(_has_control, value))
