"""Sensors: turn what happens outside (a request, changed traffic) into runs."""
