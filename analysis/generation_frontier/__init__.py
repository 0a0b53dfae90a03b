"""Quality of generated text against diversity and cost, as `cola frontier` measured it."""
