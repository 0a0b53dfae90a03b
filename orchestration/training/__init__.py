"""The step loop, its engines and hooks, and the finished model's measurements; knows no Ray."""
