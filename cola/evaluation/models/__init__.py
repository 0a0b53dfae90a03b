"""The model under evaluation, and the reference model that judges texts."""
