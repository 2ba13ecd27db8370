"""What a store is given: where it lies and how much it keeps."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.fields import HomePath, Seconds

MIB = 1024 * 1024


class StoreSettings(BaseModel):
    """Answers of /v1/responses that are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["sqlite", "memory", "off"] = Field("sqlite", description="Where: a file, this process only, nowhere.")
    path: HomePath | None = Field(None, description="The file; unset: `responses.sqlite` in `state_dir`.")
    max_age_s: float = Field(
        30 * 86400.0, ge=60, le=3660 * 86400, description="How long an answer is kept, from its request on."
    )
    max_responses: int = Field(100_000, ge=1, le=100_000_000, description="Most answers; the oldest go first.")
    max_bytes: int = Field(
        1024 * MIB, ge=64 * MIB, description="Most that the file holds; the oldest answers go first."
    )
    max_waiting_bytes: int = Field(
        64 * MIB, ge=MIB, description="Most that may wait to be written; what comes beyond that is not stored."
    )
    timeout_s: Seconds = Field(5.0, description="How long a request waits for the store.")
