"""A finished model behind the HTTP form of OpenAI's completions: `cola serve-model`."""
