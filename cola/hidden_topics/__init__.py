"""Text of hidden topics: a source whose entropy and topics are known."""
