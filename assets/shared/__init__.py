"""What the assets of both halves use: the user's inputs and figures for metadata."""
