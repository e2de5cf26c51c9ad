"""From a real server's samples to a profile: which points to measure, the fit, its error.

Pure: a plan of requests goes out, a frame of samples comes in. Sending them is the shell's affair.
"""
