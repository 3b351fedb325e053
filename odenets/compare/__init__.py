"""Grids of runs under fair terms: planned, run to the end whatever happens, measured, reported.

Read in this order: options (what was typed), grid (its configurations), terms (what is made equal), plan (the list of
runs, kept on disk), job (one run), launch (all of them through Hydra), measure (what a trained run costs), main.
"""
