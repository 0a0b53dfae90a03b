"""The eight few-shot tasks: public records to items, answers to scores."""
