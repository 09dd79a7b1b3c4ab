"""What tests are made with. Each file is named by what it gives."""
