"""Versions of installed packages."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version(package: str) -> str | None:
    """The version of an installed package by its name on PyPI; None where it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
