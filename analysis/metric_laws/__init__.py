"""Laws of metrics that have a range: accuracies and scores over compute or loss."""
