"""IsoFLOP profiles: budgets, the minimum of each profile, growth with compute, resampling."""
