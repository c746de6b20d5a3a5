"""Where the YAML files are: mambalab's own `conf`, and a user's `./conf` in front of it."""

import os
from collections.abc import Iterator
from pathlib import Path

from mambalab.errors import UserError
from mambalab.utils.reading import inside

LAUNCHER_GROUP = "hydra/launcher"
MAX_ENTRIES = 20_000  # below a group's folder
OLD_LAUNCHERS = {"joblib": "local"}  # old names of launchers: still accepted, listed nowhere


def package_conf() -> Path:
    """mambalab's own config folder: inside the package (wheel) or beside it (checkout)."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def user_conf() -> Path | None:
    """The folder `conf` of the working directory, unless it is mambalab's own."""
    try:
        own = Path.cwd() / "conf"
    except FileNotFoundError as error:
        raise UserError("the working directory no longer exists: change to another") from error
    return own if own.is_dir() and own.resolve() != package_conf().resolve() else None


def folders() -> list[Path]:
    """Config folders in the order in which they are searched."""
    user = user_conf()
    return [user, package_conf()] if user else [package_conf()]


def options(group: str) -> list[str]:
    """Names of the options of a group, sorted; files that start with `_` are parts, not options."""
    found = set()
    for root in folders():
        base = root / group
        for path in _yaml_files(base, root):
            name = path.relative_to(base).with_suffix("").as_posix()
            if not any(part.startswith("_") for part in name.split("/")):
                found.add(name)
    return sorted(found)


def _yaml_files(base: Path, root: Path) -> Iterator[Path]:
    """The YAML files below a folder of a `conf`.

    Raises:
        UserError: a link leads out of the folder around `conf`, or there are too many files.
    """
    if not base.is_dir():
        return
    own = root == package_conf()
    if not (own or inside(base, root) or inside(base, root.parent)):
        raise UserError(f"{base}: a link leads out of {root.parent}; put the files there")
    entries = 0
    for folder, _, files in os.walk(base):
        entries += 1 + len(files)
        if entries > MAX_ENTRIES:
            raise UserError(f"{base}: more than {MAX_ENTRIES:,} files are no folder of options")
        yield from (Path(folder, name) for name in files if name.endswith(".yaml"))


def groups() -> dict[str, list[str]]:
    """All groups with their options; of Hydra's own groups the launchers alone."""
    names = {p.name for root in folders() for p in root.iterdir() if p.is_dir()} - {"hydra"}
    found = {name: found for name in sorted(names) if (found := options(name))}
    launchers = [name for name in options(LAUNCHER_GROUP) if name not in OLD_LAUNCHERS]
    return {**found, LAUNCHER_GROUP: ["basic", *launchers]}
