"""Assets of the serving half: profiles, twin traces, maxpack model, plan, deployments."""
