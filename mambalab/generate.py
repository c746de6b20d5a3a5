"""Old address of `mambalab.generation.decoding`, kept for code that names `Generator` here."""

from mambalab.generation.decoding import Generator, generate, obstacle

__all__ = ["Generator", "generate", "obstacle"]
