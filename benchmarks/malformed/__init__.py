"""Damaged and odd files over every reader of users' data."""
