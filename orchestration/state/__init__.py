"""What is known of runs outside Ray and MLflow: files, ledger, journal, events, heartbeats."""
