"""What a step is made of besides its passes: inputs, agreed numbers, micro-batch size."""
