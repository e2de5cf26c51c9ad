"""Real vLLM servers: talk to them, start them, load them, give them a plan, route to them.

What belongs here: clients, processes and files around a server that speaks vLLM's API. What does
not: what to measure and how to fit it (`maitre.twin.fitting`), and which adapter goes where
(`maitre.placement`).
"""
