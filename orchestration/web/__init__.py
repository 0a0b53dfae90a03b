"""Pages and answers for this machine alone, by the standard library's HTTP server."""
