"""What a running gate needs: settings, wiring of its parts, the server process, its data folder, the embedded Valkey."""
