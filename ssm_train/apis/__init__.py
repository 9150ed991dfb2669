"""What the command-line tools call: one module for each thing that a user does."""
