"""Fills the measured figures and pictures of the pages in from the records in `experiments/`.

`make results`, which is `python -m docs.results`, rewrites what stands between
`<!-- results: NAME -->` and `<!-- end -->` on README.md and docs/*.md, and draws the pictures. It
lies beside the pages, outside the package: users do not need it, and it may import any room.

To add a study: record its runs (`mambalab record RUNS to=experiments/TASK/NAME`), add a `Study` to
`studies.py`, a `Claim` to `claims.py` if somebody claimed something about it, and `make results`.
"""
