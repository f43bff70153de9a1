"""The version, apart from the lazy exports of the package."""

__version__ = "0.1.0"
