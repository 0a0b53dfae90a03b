"""Model families as plug-ins: an interface, a folder for each built-in one, a registry."""
