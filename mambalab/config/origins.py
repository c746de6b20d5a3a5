"""Which YAML file a mistake comes from: an experiment's, or one in ./conf with a name of ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mambalab.config import paths
from mambalab.utils.mapping import flatten

MAX_FILE_BYTES = 1_000_000


def experiment_of(key: str, names: Sequence[str], *, below: bool = False) -> str | None:
    """The experiment that sets a key, as it is written on the command line; None if none does.

    Args:
        key: dotted.
        names: of the chosen experiments; those that they build on are looked at, too.
        below: whether a key below this one counts as well.
    """
    queue = [name.strip("'\" ") for name in reversed(names)]
    seen = set()
    while queue:
        name = queue.pop(0)
        if name in seen:
            continue
        seen.add(name)
        found = _read("experiment", name)
        keys = flatten(found)
        if key in keys or (below and any(k.startswith(f"{key}.") for k in keys)):
            return f"experiment={name}"
        queue += [option for group, option in _defaults(found) if group == "experiment"]
    return None


def without_package(names: Sequence[str]) -> Path | None:
    """The first of these experiments whose file does not say that its keys are those of the run."""
    for name in names:
        for root in paths.folders():
            file = root / "experiment" / f"{name}.yaml"
            if file.is_file() and "@package" not in file.read_text(errors="replace"):
                return file
    return None


def base_hint(group: str, choices: Mapping[str, str]) -> str:
    """A clause that says how a file in ./conf that lacks values can build on ours; or ""."""
    user = paths.user_conf()
    ours = dict(_defaults(_load(paths.package_conf() / "train.yaml")))
    file = user / group / f"{choices.get(group)}.yaml" if user else None
    if file is None or not file.is_file() or "defaults" in _load(file) or group not in ours:
        return ""
    return f"; {file} can take the others from ours with defaults: [{ours[group]}, _self_]"


def strange_files(verb: str, choices: Mapping[str, Any]) -> list[Path]:
    """Files in ./conf that stand in for ours and hold other keys: another program's, most likely.

    Args:
        verb: whose values are composed.
        choices: the option chosen in each group; without, all options of ours count.
    """
    user = paths.user_conf()
    if user is None:
        return []
    ours = paths.package_conf()
    names = [f"{verb}.yaml"]
    for group, option in choices.items():
        names += [f"{group}/{each}.yaml" for each in _bases(group, str(option))]
    if not choices:
        names += sorted(p.relative_to(ours).as_posix() for p in ours.glob("*/**/*.yaml"))
    return [
        user / name
        for name in names
        if (user / name).is_file() and (ours / name).is_file() and _is_strange(name)
    ]


def hint(verb: str, choices: Mapping[str, Any]) -> str:
    """A clause that names `strange_files`, the first suspects of a mistake; or ""."""
    found = strange_files(verb, choices)
    if not found:
        return ""
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    verb_form = "replaces" if len(found) == 1 else "replace"
    return f" ({', '.join(map(str, found[:3]))}{more} {verb_form} mambalab's own)"


def _is_strange(name: str) -> bool:
    """Whether the file of this name in ./conf holds other keys than ours."""
    user = paths.user_conf()
    group, _, option = name.removesuffix(".yaml").rpartition("/")
    given, own = (
        _keys(root / name, group, option) for root in (user, paths.package_conf()) if root
    )
    return given != own


def _keys(file: Path, group: str, option: str) -> set[str]:
    """Names that a file sets, those of the options of its group that it builds on included."""
    keys = {str(key) for key in _load(file)}
    for base in _bases(group, option, file):
        keys |= {str(key) for key in _read(group, base)} if base != option else set()
    return keys - {"defaults"}


def _bases(group: str, option: str, file: Path | None = None) -> list[str]:
    """An option and those of its group that it builds on, as the folders of YAML have them.

    Args:
        group: the group.
        option: the option.
        file: what to read for it; None = the file that is found first.
    """
    found, queue = [], [option]
    while queue:
        name = queue.pop(0)
        if name in found:
            continue
        found.append(name)
        content = _load(file) if file and name == option else _read(group, name)
        queue += [base for of, base in _defaults(content) if of in ("", group)]
    return found


def _defaults(content: dict[Any, Any]) -> list[tuple[str, str]]:
    """Group ("" = its own) and option of each entry of a defaults list."""
    found = []
    entries = content.get("defaults")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, str):
            group, _, option = (
                entry.strip("/").partition("/") if entry[:1] == "/" else ("", "", entry)
            )
            found.append((group, option))
        elif isinstance(entry, dict):
            for group, option in entry.items():
                name = str(group).removeprefix("override ").strip("/ ")
                options = option if isinstance(option, list) else [option]
                found += [(name, str(one)) for one in options]
    return found


def _read(group: str, option: str) -> dict[Any, Any]:
    files = (root / group / f"{option}.yaml" for root in paths.folders())
    return next((_load(file) for file in files if file.is_file()), {})


def _load(file: Path) -> dict[Any, Any]:
    """The mapping in a YAML file; an empty one for what is none."""
    import yaml

    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            return {}
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
