"""What is kept of what was used."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from service.fields import HomePath


class UsageSettings(BaseModel):
    """What was used, by whom: `/v1/usage`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(default=True, description="Keep it, in a file.")
    path: HomePath | None = Field(None, description="The file; unset: `usage.sqlite` in `state_dir`.")
    max_records: int = Field(
        100_000, ge=1, le=100_000_000, description="Most single requests that are kept; the oldest go first."
    )
    max_record_age_s: float = Field(
        30 * 86400.0, ge=60, le=3660 * 86400, description="How long a single request is kept."
    )
    max_age_s: float = Field(400 * 86400.0, ge=3600, le=3660 * 86400, description="How long the sums are kept.")
