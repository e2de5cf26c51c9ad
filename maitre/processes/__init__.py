"""Child processes of one machine: what the live rooms share."""
