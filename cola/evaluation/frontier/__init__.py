"""Quality of generated text against its diversity and cost, over sampling settings."""
