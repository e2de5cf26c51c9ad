"""The asset graph, thin: an asset reads its inputs, calls `maitre`, writes and attaches metadata.

What belongs here: which asset depends on which, what is stored where in the data home, what people
see beside a materialisation. What does not: any decision or computation; those are `maitre`'s.
"""
