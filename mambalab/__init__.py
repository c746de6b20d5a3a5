"""mambalab: train and compare Mamba and Transformer models on small sequence benchmarks."""

__version__ = "0.1.0"
