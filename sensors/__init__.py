"""Sensors: request runs for tuning requests and for changed traffic."""
