"""Operators: tensors in, tensors out."""

from mambalab.ops.causal_conv1d import causal_conv1d
from mambalab.ops.rms_norm import rms_norm
from mambalab.ops.selective_scan import selective_scan

__all__ = ["causal_conv1d", "rms_norm", "selective_scan"]
