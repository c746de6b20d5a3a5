"""Which files each task needs: where they are, where they come from, how to know them."""

from __future__ import annotations

from dataclasses import replace

from mambalab.data.corpora import CORPORA
from mambalab.data.dataset import DataFile, Dataset, GzipFile
from mambalab.data.hub_images import HubDataset, HubFile
from mambalab.data.lra_archive import RETRIEVAL

__all__ = ["CATALOG", "DataFile", "Dataset", "GzipFile", "HubDataset", "HubFile"]

_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
_CIFAR10 = "uoft-cs/cifar10"


def _mnist_places(name: str) -> tuple[str, ...]:
    """Paths below data_dir at which a file of MNIST often is: other folders, and the name with a
    dot (`train-labels.idx1-ubyte`) that is inside the published .gz."""
    dotted = name.replace("-idx", ".idx")
    folders = ("MNIST/raw/", "MNIST/", "mnist/raw/", "mnist/", "")
    return tuple(f"{folder}{spelled}" for folder in folders for spelled in (name, dotted))


CATALOG: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="shakespeare",
            title="tiny Shakespeare",
            licence="public domain",
            source="https://github.com/karpathy/char-rnn",
            files=(
                DataFile(
                    path="tinyshakespeare/input.txt",
                    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/"
                    "tinyshakespeare/input.txt",
                    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                    size=1_115_394,
                ),
            ),
        ),
        Dataset(
            name="text",
            title="the help topics of CPython",
            licence="PSF-2.0",
            source="https://docs.python.org/3/reference/",
        ),
        *CORPORA,
        Dataset(
            name="mnist",
            title="MNIST",
            licence="CC BY-SA 3.0",
            source="http://yann.lecun.com/exdb/mnist/",
            files=tuple(
                GzipFile(
                    path=f"MNIST/raw/{name}",
                    url=f"{_MNIST}/{name}.gz",
                    sha256=sha256,
                    size=size,
                    content_sha256=content_sha256,
                    content_size=content_size,
                    also=_mnist_places(name),
                )
                for name, size, sha256, content_size, content_sha256 in (
                    (
                        "train-images-idx3-ubyte",
                        9_912_422,
                        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                        47_040_016,
                        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                    ),
                    (
                        "train-labels-idx1-ubyte",
                        28_881,
                        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                        60_008,
                        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                    ),
                    (
                        "t10k-images-idx3-ubyte",
                        1_648_877,
                        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                        7_840_016,
                        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                    ),
                    (
                        "t10k-labels-idx1-ubyte",
                        4_542,
                        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                        10_008,
                        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                    ),
                )
            ),
            offline="task=digits",
        ),
        HubDataset(
            name="cifar10",
            title="CIFAR-10",
            licence="not stated",
            source="https://huggingface.co/datasets/uoft-cs/cifar10",
            files=tuple(
                HubFile(
                    path=f"cifar10/{split}.parquet",
                    url=f"https://huggingface.co/datasets/{_CIFAR10}/resolve/main/plain_text/"
                    f"{split}-00000-of-00001.parquet",
                    sha256="",
                    size=size,
                    repository=_CIFAR10,
                    name=f"plain_text/{split}-00000-of-00001.parquet",
                    count=count,
                    classes=10,
                    side=32,
                )
                for split, size, count in (
                    ("train", 119_705_255, 50_000),
                    ("test", 23_940_850, 10_000),
                )
            ),
            offline="task=digits",
        ),
        Dataset(
            name="digits",
            title="the small digits of scikit-learn",
            licence="CC BY 4.0",
            source="https://archive.ics.uci.edu/dataset/80",
        ),
        Dataset(
            name="images",
            title="a folder of your own, task.path=FOLDER",
            licence="yours",
            source="your own images",
        ),
        Dataset(
            name="pixels",
            title="the images of digits, mnist or cifar10, or a folder, task.data=FOLDER",
            licence="theirs",
            source="those tasks",
        ),
        Dataset(
            name="diffusion",
            title="the data of pixels, or those of shakespeare, task.data=text",
            licence="theirs",
            source="those tasks",
        ),
        Dataset(
            name="selective_copying",
            title="generated",
            licence="none needed",
            source="https://arxiv.org/abs/2312.00752",
        ),
        Dataset(
            name="induction_heads",
            title="generated",
            licence="none needed",
            source="https://arxiv.org/abs/2312.00752",
        ),
        Dataset(
            name="listops",
            title="generated, or Long Range Arena's files, task.path=FOLDER",
            licence="none needed",
            source="https://arxiv.org/abs/2011.04006",
        ),
        RETRIEVAL,
        Dataset(
            name="pairs",
            title="a TSV file of your own, task.path=FILE",
            licence="yours",
            source="your own texts",
        ),
        Dataset(
            name="classify",
            title="a CSV, TSV, JSONL or parquet file of your own, task.path=FILE",
            licence="yours",
            source="your own texts",
        ),
    )
}
CATALOG["lra_image"] = replace(
    CATALOG["cifar10"], name="lra_image", title="CIFAR-10, the files of task=cifar10"
)
