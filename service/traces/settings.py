"""Whose frames are kept, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.fields import HomePath

MIB = 1024 * 1024


class TraceSettings(BaseModel):
    """The JSON-RPC frames of single requests, one file each; nothing is traced unless one of the first four says so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    failures: bool = Field(default=False, description="Every request that fails.")
    sample: float = Field(0.0, ge=0, le=1, description="This part of all requests, by chance.")
    by_header: bool = Field(default=False, description="Every request with the header `x-codex-trace: 1`.")
    ids: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(
        (), max_length=100, description="Requests whose client says one of these in `x-request-id` or `x-trace-id`."
    )
    text: Literal["redacted", "kept"] = Field(
        "redacted", description="What becomes of prompts, answers and schemas; keys and tokens are never kept."
    )
    path: HomePath | None = Field(None, description="The directory; unset: `trace-buffer` in `state_dir`.")
    max_age_s: float = Field(86400.0, ge=60, le=86400, description="How long a file is kept.")
    max_files: int = Field(100, ge=1, le=100, description="Most files; the oldest go first.")
    max_bytes: int = Field(
        MIB, ge=16 * 1024, le=16 * MIB, description="Of one request; frames in its middle are left out."
    )
    max_held_bytes: int = Field(
        32 * MIB,
        ge=MIB,
        le=1024 * MIB,
        description="Of all requests that are being traced; frames beyond are left out.",
    )

    @property
    def is_on(self) -> bool:
        """Anything may be traced."""
        return self.failures or self.sample > 0 or self.by_header or bool(self.ids)
