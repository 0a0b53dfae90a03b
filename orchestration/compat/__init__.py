"""Private parts of libraries, each with the version that it was checked with."""
