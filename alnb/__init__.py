"""Label 3D medical images inside JupyterLab with active learning."""

from __future__ import annotations

__version__ = "0.1.0"
