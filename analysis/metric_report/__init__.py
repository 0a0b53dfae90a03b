"""Any metric of a study against compute: laws, multipliers, crossovers, and their page."""
