"""Studies and sweeps as Slurm jobs: what runs in an allocation, and the scheduler's commands."""
