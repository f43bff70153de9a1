"""Optional packages, imported where they are used and missed in words."""

from __future__ import annotations

import importlib
from types import ModuleType

from alnb.errors import MissingExtra


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise MissingExtra with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"This needs {module!r}, which is not installed. Run: pip install 'alnb[{extra}]'."
        ) from error
