"""Many runs with a question; composes the `cola` command."""
