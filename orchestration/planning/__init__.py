"""From a study to its runs, with cost, memory and what will happen to each (torch-free)."""
