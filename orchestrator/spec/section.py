"""What the parts of a spec are made of: closed sections, and values with a unit."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from orchestrator.durations import Duration, parse_bytes, parse_duration, parse_interval

Steps = Annotated[Duration, BeforeValidator(parse_duration), PlainSerializer(str, return_type=str)]
Interval = Annotated[Duration, BeforeValidator(parse_interval), PlainSerializer(str, return_type=str)]
Bytes = Annotated[int, BeforeValidator(parse_bytes)]


class Section(BaseModel):
    """A part of the spec: frozen, and closed to keys it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, populate_by_name=True, allow_inf_nan=False
    )
