"""The parts of a running gate: settings, wiring, the server process, the data directory, and the embedded Valkey."""
