"""The old address of `submitit_launcher`, for one version.

Jobs that an earlier version left in a cluster's queue were pickled as
`mambalab.sweep.cluster.NodeJob`.
"""

from mambalab.sweep.submitit_launcher import NodeJob

__all__ = ["NodeJob"]
