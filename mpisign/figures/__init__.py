"""Run files as tables and pictures, for `mpisign list`, `plot`, `compare` and `report`; a README is beside it.

Reads run files through storage/reader.py alone, so neither torch nor MPI is needed. Only what draws imports matplotlib
(extra `analysis`): style.py and the modules that use it. Without are listing.py, grid.py, grouping.py, selection.py and
tables.py.
"""
