"""Sensors: turn what happens outside (a request, a drift, a promotion) into runs."""
