"""The acceptance of the questions to providers, as one command: `python -m tests.proof.soak.providers`."""
