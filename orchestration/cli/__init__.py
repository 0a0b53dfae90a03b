"""Commands around studies, jobs and finished models."""
