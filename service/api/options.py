"""The optional parameters that are what their type says: one model, which knows types, bounds and words.

The rows of the predecessor's table that have messages of their own are in `service.api.chat`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from service.api.errors import ApiError, invalid


def _at_most(limit: int) -> BeforeValidator:
    """A bound that is looked at before the members are: half a million wrong ones would each be reported."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > limit:
            raise ValueError("too many")
        return value

    return BeforeValidator(check)


Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
StopSequence = Annotated[str, Field(max_length=256)]
MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], _at_most(16)]
LogitBias = Annotated[dict[str, Bias], _at_most(1024)]


class Checked(BaseModel):
    """Types are what they say, and what is not named here is not looked at."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class StreamOptions(Checked):
    """What else a stream should carry."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Prediction(Checked):
    """Text that the answer is likely to repeat."""

    type: Literal["content"]
    content: str | list[Any]


class Options(Checked):
    """A null is an absent field. Each description ends the sentence "<name> ...".

    Source: OpenAI's CreateChatCompletionRequest; `include_usage` is the predecessor's.
    """

    stream: bool | None = Field(None, description="must be a boolean")
    stream_options: StreamOptions | None = Field(
        None, description="must be an object with the booleans include_usage and include_obfuscation"
    )
    include_usage: bool | None = Field(None, description="must be a boolean")
    stop: StopSequence | Annotated[list[StopSequence], Field(max_length=4)] | None = Field(
        None, description="must be a string or an array of at most 4 strings, each of at most 256 characters"
    )
    presence_penalty: Penalty | None = Field(None, description="must be a number between -2 and 2")
    frequency_penalty: Penalty | None = Field(None, description="must be a number between -2 and 2")
    logit_bias: LogitBias | None = Field(
        None, description="must be an object of at most 1024 numbers between -100 and 100"
    )
    user: str | None = Field(None, description="must be a string")
    safety_identifier: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="must be a string of at most 64 characters"
    )
    prompt_cache_key: str | None = Field(None, description="must be a string")
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = Field(
        None, description='must be "in_memory" or "24h"'
    )
    prompt_cache_options: dict[str, Any] | None = Field(None, description="must be an object")
    store: bool | None = Field(None, description="must be a boolean")
    metadata: Metadata | None = Field(
        None,
        description="must be an object of at most 16 strings (keys of at most 64 characters, values of at most 512)",
    )
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = Field(
        None, description="must be one of: auto, default, flex, scale, priority, fast"
    )
    verbosity: Literal["low", "medium", "high"] | None = Field(None, description="must be one of: low, medium, high")
    prediction: Prediction | None = Field(None, description='must be an object with type "content" and its content')
    modalities: Annotated[list[Literal["text", "audio"]], Field(max_length=2)] | None = Field(
        None, description='must be an array of "text" and "audio"'
    )
    audio: dict[str, Any] | None = Field(None, description="must be an object")
    web_search_options: dict[str, Any] | None = Field(None, description="must be an object")
    moderation: dict[str, Any] | None = Field(None, description="must be an object")


C = TypeVar("C", bound=Checked)


def read_options(body: dict[str, Any], kind: type[C]) -> C:
    """The parameters, checked.

    Raises:
        ApiError: 400, for the first of them (in the order of the fields of `kind`) that is not what it must be.
    """
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise _first(error, kind) from None


def _first(error: ValidationError, kind: type[Checked]) -> ApiError:
    name = str(error.errors(include_url=False, include_context=False, include_input=False)[0]["loc"][0])
    return invalid(f"{name} {kind.model_fields[name].description}", name)
