"""Kinds of setting that several groups of settings have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(str(error)) from error


HomePath = Annotated[Path, AfterValidator(_expanded)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
