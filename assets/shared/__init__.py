"""Shared by both halves: the user's inputs, and figures for metadata."""
