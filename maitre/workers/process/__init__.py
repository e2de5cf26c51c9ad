"""The process of one warm worker: it accepts one claim at a time and executes the run."""
