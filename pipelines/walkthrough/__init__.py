"""`make run`: bring the asset graph up to date, send one request, print a summary."""
