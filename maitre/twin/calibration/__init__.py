"""Fits a profile from measurement tables and measured runs.

`tables` reads and checks the measurements, `memory`, `loading`, `front` and `step_time` fit the
parts, `runs` turns measured runs into simulations, `calibrate` goes round until the step time fits
the runs, `provenance` says what a profile came from, `report` writes how well it fits. Nothing
here runs at serving time.
"""
