"""The groups of related tasks, one module a group; each has `drafts()`."""
