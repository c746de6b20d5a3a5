"""The version of this package, for the requests that it sends."""

from importlib import metadata


def package_version() -> str:
    """Return the version of the installed package, or "0" in a checkout that is not installed."""
    try:
        return metadata.version("mambalab")
    except metadata.PackageNotFoundError:
        return "0"
