"""The prompt bank: entries, their storage, a two-layer index and the lookup over it.

Import from the submodules `entry`, `bank`, `index` and `lookup`; this package imports none of them.
"""
