"""Where checkpoints are: a folder of the user's, one below data_dir, or in the hub's cache."""

from pathlib import Path

from mambalab.data import hub
from mambalab.data.download import DownloadError
from mambalab.errors import UserError
from mambalab.pretrained import tokens, weights
from mambalab.pretrained.layout import CONFIG
from mambalab.tokenization import ends, tokenizer


def place(name: str, data_dir: Path) -> Path:
    """The folder that a name means, there or not; nothing is fetched.

    One below `data_dir` comes before the cache of Hugging Face's libraries, and is where a
    checkpoint goes that is in neither.
    """
    folder = place_outside_cache(name, data_dir)
    return folder if is_complete(folder) else next(iter(cached(name)), folder)


def place_outside_cache(name: str, data_dir: Path) -> Path:
    """The folder that a name means, there or not: the user's own, or the one below `data_dir`."""
    path = Path(name).expanduser()
    if path.is_dir() or not hub.is_repository(name):
        return path
    return (data_dir / "pretrained" / name).absolute()


def cached(name: str) -> list[Path]:
    """List the complete revisions of a repository in the hub's cache, the most likely one first;
    none if the name is that of a folder."""
    if Path(name).expanduser().is_dir() or not hub.is_repository(name):
        return []
    return [folder for folder in hub.snapshots(name) if is_complete(folder)]


def checkpoint(name: str, data_dir: Path, key: str = "pretrained") -> Path:
    """Find or fetch a complete checkpoint; returns its folder.

    Args:
        name: of a folder, or owner/name on the hub; that one is looked for in
            `data_dir`/pretrained/owner/name and in the hub's cache first, and else fetched to the
            former.
        data_dir: folder of the data sets.
        key: the setting that `name` is the value of, for messages.

    Raises:
        UserError: no such folder, a missing shard, or it cannot be fetched: with the reason and
            what to put where.
    """
    folder = hub.local(name, key, "the folder of a checkpoint")
    if folder is not None:
        return folder
    folder = place(name, data_dir)
    if is_complete(folder):
        return folder
    wanted = f"{CONFIG} and {weights.WHOLE[0]} (or {weights.WHOLE[1]})"
    with hub.explain_failure(key, name, wanted, folder):
        listing = hub.list_files(name)
        listing.fetch(CONFIG, folder / CONFIG)
        for file in (tokenizer.FILE, ends.CONFIG, ends.SPECIAL_TOKENS, ends.GENERATION):
            if file in listing.files:
                listing.fetch(file, folder / file)
        other = tokens.foreign(listing.files)
        if other is not None and tokenizer.FILE not in listing.files:
            listing.fetch(other, folder / other)  # so that none is taken in its place
        for file in _weights(listing, folder):
            listing.fetch(file, folder / file)
    return folder


def is_complete(folder: Path) -> bool:
    """Whether config and weights are here; an index alone, its shards still to come, is not."""
    try:
        return (folder / CONFIG).is_file() and bool(weights.files(folder))
    except UserError:
        return False


def _weights(listing: hub.Listing, folder: Path) -> list[str]:
    """The files to fetch for the weights; an index is fetched at once."""
    for whole in weights.WHOLE:
        if whole in listing.files:
            return [whole]
        index = whole + weights.INDEX
        if index in listing.files:
            listing.fetch(index, folder / index)
            return weights.shards(folder / index)
    raise DownloadError(f"{listing.address} has neither {' nor '.join(weights.WHOLE)}")
