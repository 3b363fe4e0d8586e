"""Nothing: main.py has it all."""
