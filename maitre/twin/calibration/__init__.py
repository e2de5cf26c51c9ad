"""Fits a profile from measurement tables and measured runs.

`tables` reads and checks the measurements, `memory`, `loading` and `step_time` fit the parts,
`runs` turns measured runs into simulations, `calibrate` goes round until the step time fits the
runs, `report` writes what came out. Nothing here runs at serving time.
"""
