"""The Ray cluster that runs share: joined or started, what is free, which run starts next."""
