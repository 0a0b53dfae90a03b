"""A family as somebody else's package would add one: an MLP that sees only the last token."""
